"""What a person leaves of a run's texts is what its classifier learns from, and the baselines are not touched."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fourshot.cli import main as cli
from fourshot.engine.errors import InputError
from fourshot.pipeline.card import load_card
from fourshot.pipeline.cells.review import entropy, open_review, review_rows, run_in
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.cells.self_training import SelfTrainingLabels
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.synthesis.settings import AnnotateSettings, GenerateSettings, RunSettings
from fourshot.serving.adapter_lookup import find_adapter
from tests.pipeline.runs.whole_runs import WholeRuns, card_of, texts_of

SETTINGS = RunSettings(
    k=2,
    generate=GenerateSettings(per_class=4, draws_per_round=40, max_candidates=80),
    annotate=AnnotateSettings(num_adapters=1, folds=0, confidence=0.52, show_shots="never"),
    allow_short=True,
)
Row = dict[str, str]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRuns:
    whole_runs = WholeRuns(tmp_path / "task", monkeypatch)
    whole_runs.run(tmp_path / "run", SETTINGS)
    return whole_runs


@pytest.fixture
def folder(runs: WholeRuns, tmp_path: Path) -> RunFolder:
    return run_in(tmp_path / "run")


def edit(folder: RunFolder, change: Callable[[list[Row]], list[Row]]) -> None:
    path = folder.path / "review.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(change(rows))


def test_the_table_has_the_shots_then_kept_and_doubtful_texts_least_sure_first(folder: RunFolder) -> None:
    opened = open_review(folder)
    rows = list(csv.DictReader(io.StringIO((folder.path / "review.csv").read_text("utf-8-sig"), newline="")))
    assert [row["text"] for row in rows[:4]] == [shot.text for shot in folder.shots()]
    pairs = {candidate.id: (candidate, verdict) for candidate, verdict in finished_pairs(folder)}
    shown = [pairs[row["id"]] for row in rows[4:]]
    assert {verdict.reason for _, verdict in shown} == {"kept", "label_disagrees", "low_confidence"}
    assert all((row["keep"] == "yes") == verdict.kept for row, (_, verdict) in zip(rows[4:], shown, strict=True))
    unsure = [entropy(verdict.probabilities) for _, verdict in shown]
    assert unsure == sorted(unsure, reverse=True)
    assert sum(opened.left_out.values()) + len(shown) == len(pairs), "what is not there is counted"
    assert not open_review(folder).is_new


def test_what_a_person_left_is_learnt_and_the_baselines_stay(
    runs: WholeRuns, folder: RunFolder, tmp_path: Path
) -> None:
    before = card_of(runs.run(folder.path, SETTINGS))
    open_review(folder)
    decided: dict[str, str] = {}

    def change(rows: list[Row]) -> list[Row]:
        shots = [row for row in rows if row["why"] == "shot"]
        kept = [row for row in rows if row["why"] == "kept"]
        doubtful = [row for row in rows if row["why"] == "label disagrees"]
        shots[0]["label"] = decided[shots[0]["text"]] = "cold" if shots[0]["label"] == "warm" else "warm"
        kept[0]["label"] = decided[kept[0]["text"]] = "cold" if kept[0]["label"] == "warm" else "warm"
        kept[1]["keep"] = "no"
        doubtful[0]["keep"], decided[doubtful[0]["text"]] = "yes", doubtful[0]["label"]
        decided.update({kept[1]["text"]: "", kept[2]["text"]: ""})
        return [row for row in rows if row is not kept[2]]

    edit(folder, change)
    summary = runs.run(folder.path, SETTINGS)
    assert "review.csv: 2 dropped, 1 kept, 2 relabelled (1 row deleted)" in runs.messages
    learnt = max(runs.trained, key=len)  # beside those that judge how sure it may be: they learn from the shots alone
    assert all(len(examples) <= len(folder.shots()) for examples in runs.trained if examples is not learnt)
    names = runs.task.label_names
    labels = {text: names[e.target] for text, e in zip(texts_of(learnt), learnt, strict=True)}
    assert {text: labels.get(text, "") for text in decided} == decided
    card = card_of(summary)
    assert card.reviewed == {"dropped": 2, "kept": 1, "relabelled": 2}
    assert card.lineage["review"] and "review" not in before.lineage
    assert card.name != before.name
    assert load_card(find_adapter(folder.path)).name == card.name, "of several, the last one is the run's"
    assert runs.drawn == 0
    (folder.path / "review.csv").unlink()
    assert card_of(runs.run(folder.path, SETTINGS)).name == before.name and not runs.trained


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("label", "hot", r"review\.csv:2: unknown label 'hot'; the task's labels are warm, cold"),
        ("text", "another", r"review\.csv:2: the text of shot-0 was changed"),
        ("id", "shot-9", r"review\.csv:2: the id 'shot-9' is not in the table that was written"),
    ],
)
def test_a_table_that_was_changed_otherwise_stops_the_run_before_anything_is_done(
    runs: WholeRuns, folder: RunFolder, column: str, value: str, fault: str
) -> None:
    open_review(folder)

    def change(rows: list[Row]) -> list[Row]:
        rows[0][column] = value
        return rows

    edit(folder, change)
    with pytest.raises(InputError, match=fault):
        runs.run(folder.path, SETTINGS)
    assert not runs.heard


NEAR_NAMES = ("Review.csv", "review-corrected.csv", "Kopie von review.csv", "reviewed.csv", "review_ann.ods")


@pytest.mark.parametrize("name", ["review.xlsx", "review (1).csv", "review - review.csv", *NEAR_NAMES])
def test_a_table_that_was_saved_as_something_else_is_not_overlooked(
    runs: WholeRuns, folder: RunFolder, name: str
) -> None:
    open_review(folder)
    (folder.path / name).write_bytes(b"PK")
    message = rf"has {re.escape(name)}\. Answers are read only from review\.csv"
    with pytest.raises(InputError, match=message):
        runs.run(folder.path, SETTINGS)
    assert not runs.heard


def test_what_editors_leave_beside_the_table_is_no_other_table(runs: WholeRuns, folder: RunFolder) -> None:
    open_review(folder)
    for name in ("review.csv~", "review.csv.bak", ".~lock.review.csv#", "~$review.xlsx", "previews.csv"):
        (folder.path / name).write_bytes(b"PK")
    runs.run(folder.path, SETTINGS)


def test_a_table_that_keeps_nothing_is_bad_input_that_names_it(runs: WholeRuns, folder: RunFolder) -> None:
    open_review(folder)
    edit(folder, lambda rows: [row | {"keep": "no"} for row in rows])
    with pytest.raises(InputError, match=r"review\.csv keeps no row, so there is nothing to learn"):
        runs.run(folder.path, SETTINGS)
    assert not runs.heard


def test_a_new_label_without_keep_is_said_and_not_learnt(runs: WholeRuns, folder: RunFolder) -> None:
    open_review(folder)

    def change(rows: list[Row]) -> list[Row]:
        (row, *_) = [row for row in rows if row["keep"] == "no"]
        row["label"] = "cold" if row["label"] == "warm" else "warm"
        return rows

    edit(folder, change)
    runs.run(folder.path, SETTINGS)
    assert "nothing changed; 1 have a new label, but keep is no, so they are not learnt" in runs.messages
    assert not runs.trained


def test_a_class_of_which_a_review_leaves_nothing_is_named(
    folder: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    open_review(folder)
    edit(folder, lambda rows: [{**row, "label": "warm"} if row["keep"] == "yes" else row for row in rows])
    assert open_review(folder).said.gone == ("cold",)
    assert cli.main(["review", str(folder.path)]) == 0
    assert "; no row is left for 'cold', so the table does not teach it." in capfd.readouterr().out


def test_the_command_says_where_the_table_is_what_it_left_out_and_what_was_changed(
    folder: RunFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["review", str(folder.path), "--most", "5"]) == 0
    printed = capfd.readouterr().out
    assert (
        f"Wrote {folder.path / 'review.csv'}: 5 texts. Left out:" in printed
        and "less useful than those in it" in printed
    )
    edit(folder, lambda rows: rows[1:])
    assert cli.main(["review", str(folder.path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["said"]["counts"] == {"dropped": 1}
    assert cli.main(["review", str(tmp_path)]) == 2
    assert "is not a run folder" in capfd.readouterr().err
    edit(folder, lambda rows: [{**row, "label": "x"} for row in rows])
    assert cli.main(["review", str(folder.path)]) == 2
    assert capfd.readouterr().err.count("unknown label 'x'") == 4


def test_a_run_without_texts_has_nothing_to_review(folder: RunFolder) -> None:
    (folder.path / "generated.json").unlink()
    with pytest.raises(InputError, match="not all annotated yet"):
        open_review(folder)


def test_a_report_is_named_or_missed(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(folder.path)]) == 2
    assert "report.html: a run writes it at its end" in capsys.readouterr().err
    (folder.path / "report.html").write_text("<p>a report</p>")
    assert cli.main(["report", str(folder.path)]) == 0
    assert str(folder.path / "report.html") in capsys.readouterr().out


def test_a_short_table_that_keeps_nothing_leaves_the_texts_outside_it(runs: WholeRuns, folder: RunFolder) -> None:
    open_review(folder, most=6)
    edit(folder, lambda rows: [row | {"keep": "no"} for row in rows])
    runs.run(folder.path, SETTINGS)
    assert runs.trained


def test_after_self_training_the_table_shows_what_is_learnt(folder: RunFolder) -> None:
    pairs = finished_pairs(folder)
    rejected = next(c for c, v in pairs if v.reason == "label_disagrees")
    manifest = folder.read("manifest.json", dict)
    manifest["settings"]["annotate"]["self_training"] = True
    folder.write("manifest.json", manifest)
    folder.write("second_reading-abc.json", SelfTrainingLabels(labels={rejected.id: ("warm", 0.9)}))
    rows = {row.id: row for row in review_rows(folder)[0] if row.why != "shot"}
    assert (rows[rejected.id].label, rows[rejected.id].keep) == ("warm", True)
    assert [row.id for row in rows.values() if row.keep] == [rejected.id]
