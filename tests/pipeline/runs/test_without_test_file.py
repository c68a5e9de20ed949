"""A task without a test file gets its classifier all the same, and is told that nothing is measured."""

from pathlib import Path

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.runs.run import RunRequest, RunSummary, do_run, plan_run
from fourshot.pipeline.synthesis.settings import AnnotateSettings, GenerateSettings, RunSettings
from tests.pipeline.runs.whole_runs import WholeRuns, card_of

SETTINGS = RunSettings(
    k=2,
    generate=GenerateSettings(per_class=4, draws_per_round=40, max_candidates=80),
    annotate=AnnotateSettings(show_shots="never"),  # so that held-out shots calibrate: there are few texts
    allow_short=True,
)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRuns:
    return WholeRuns(tmp_path / "task", monkeypatch)


def whole(runs: WholeRuns, folder: Path) -> RunSummary:
    runs.heard.clear()
    return do_run(RunRequest(runs.task, "fake", SETTINGS, folder), runs.events.append)


def test_a_classifier_is_trained_and_measured_once_there_is_a_test_file(runs: WholeRuns, tmp_path: Path) -> None:
    test, folder = tmp_path / "task" / "test.jsonl", tmp_path / "run"
    rows = test.read_bytes()
    test.unlink()
    summary = whole(runs, folder)
    card, report = card_of(summary), Path(summary.report_path).read_text()
    assert "there is no test file, so this run trains a classifier but does not evaluate it" in runs.messages
    assert (summary.table, summary.left_out and list(summary.left_out)) == ([], ["The evaluation"])
    assert "The evaluation is left out: there is no test file" in report
    assert "The evaluation is left out: there is no test file" in (folder / "report.md").read_text()
    assert card.scores is None and card.calibrated_on, "it is probed and calibrated all the same"
    assert {verdict.kept for _, verdict in finished_pairs(RunFolder(folder))} == {True, False}

    request = RunRequest(runs.task, "fake", SETTINGS, folder)
    assert plan_run(request, runs.events.append) is None, "nothing is left to do"

    test.write_bytes(rows)
    measured = whole(runs, folder)
    assert [row["method"] for row in measured.table] == ["zero_shot", "icl", "lora", "fourshot"]
    assert not runs.trained and not runs.drawn
    assert measured.adapter_path == summary.adapter_path and card_of(measured).scores is not None
    assert list(measured.adapters) == ["lora", "fourshot"] and measured.adapters["fourshot"] == measured.adapter_path
    assert (Path(measured.adapters["lora"]) / "card.json").is_file()


def test_who_asks_for_the_evaluation_is_told_what_is_missing(runs: WholeRuns, tmp_path: Path) -> None:
    (tmp_path / "task" / "test.jsonl").unlink()
    with pytest.raises(InputError, match="test"):
        runs.run(tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run" / "manifest.json").exists()
