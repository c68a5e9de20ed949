"""The folder of a comparison: its own, or left alone."""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError, RunFolderError
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.runs.compare import Comparison, ComparisonRequest, do_comparison, plan_comparison
from fourshot.pipeline.runs.run import RunRequest, do_run
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.synthesis.settings import GenerateSettings, RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.jobs.jobs import FailedJob
from tests.pipeline.runs.whole_runs import WholeRuns

SETTINGS = RunSettings(k=2, generate=GenerateSettings(per_class=4))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRuns:
    monkeypatch.setattr("fourshot.pipeline.runs.compare.refuse_fake", lambda *_: None)
    return WholeRuns(tmp_path / "task", monkeypatch)


def compared(task: Task, folder: Path, *methods: str, settings: RunSettings = SETTINGS) -> Comparison:
    return do_comparison(ComparisonRequest(task, "fake", settings, methods or ["zero_shot"], [0], folder))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("mine", ["report.html", "comparison.json", "notes.txt", "plots/mine.json"])
def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(
    runs: WholeRuns, tmp_path: Path, mine: str
) -> None:
    folder = tmp_path / "out"
    (folder / mine).parent.mkdir(parents=True)
    (folder / mine).write_text("mine")
    (folder / "my report.html").write_text("mine, too")
    before = contents(folder)
    for call in (compared, planned):
        with pytest.raises(RunFolderError, match=r"is not empty and holds no run.*--out"):
            call(runs.task, folder)
    assert contents(folder) == before


def planned(task: Task, folder: Path) -> None:
    plan_comparison(ComparisonRequest(task, "fake", SETTINGS, ["zero_shot"], [0], folder), lambda _: None)


def test_the_folder_of_a_run_is_refused_and_a_run_in_that_of_a_comparison(runs: WholeRuns, tmp_path: Path) -> None:
    runs.run(tmp_path / "run", SETTINGS)
    before = contents(tmp_path / "run")
    with pytest.raises(RunFolderError, match="holds a run, but this command makes something else"):
        compared(runs.task, tmp_path / "run")
    assert contents(tmp_path / "run") == before
    compared(runs.task, tmp_path / "compared")
    with pytest.raises(RunFolderError, match="holds a comparison, but this command makes something else"):
        runs.run(tmp_path / "compared", SETTINGS)


def test_another_configuration_is_refused_and_more_methods_and_seeds_are_not(runs: WholeRuns, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = compared(runs.task, folder)
    result = (folder / "comparison.json").read_bytes()
    with pytest.raises(RunFolderError, match=r"settings\.max_text_words"):
        compared(runs.task, folder, settings=msgspec.structs.replace(SETTINGS, max_text_words=20))
    with pytest.raises(RunFolderError, match=r"task\.instruction"):
        compared(msgspec.structs.replace(runs.task, instruction="Hot?"), folder)
    assert (folder / "comparison.json").read_bytes() == result
    more = do_comparison(ComparisonRequest(runs.task, "fake", SETTINGS, ["zero_shot", "icl"], [0, 1], folder))
    assert len(more.results) == 4 and more.results[0] == first.results[0]


def test_accuracies_by_seed_are_in_the_order_of_the_seeds(runs: WholeRuns, tmp_path: Path) -> None:
    request = ComparisonRequest(runs.task, "fake", SETTINGS, ["zero_shot", "lora"], [2, 0, 1], tmp_path / "out")
    result = do_comparison(request)
    by_seed = {(seed.method, seed.seed): seed.scores.accuracy for seed in result.results}
    for row in result.rows:
        named = dict(zip(result.seeds, row.seed_accuracies, strict=True))
        assert named == {seed: by_seed[row.method, seed] for seed in (0, 1, 2)}
    assert result.seeds == [0, 1, 2], "the first of them has the settings that are stored"
    assert "3 draws of shots" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_comparison_of_an_earlier_version_goes_on(runs: WholeRuns, tmp_path: Path, unfinished: bool) -> None:
    """It wrote no manifest."""
    folder = tmp_path / "out"
    first = compared(runs.task, folder, "zero_shot", "lora")
    (folder / "manifest.json").unlink()
    if unfinished:
        for name in ("comparison.json", "report.html", "report.md"):
            (folder / name).unlink()
    else:
        with pytest.raises(RunFolderError, match="is not empty and holds no run"):
            compared(msgspec.structs.replace(runs.task, name="shades"), folder)
    runs.heard.clear()
    assert compared(runs.task, folder, "zero_shot", "lora").results == first.results
    assert runs.trained == []


def test_the_texts_of_a_comparison_have_one_owner(
    runs: WholeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, refused = tmp_path / "out", list[str]()

    def disturbed(stage: Stage, on_event: OnEvent) -> Sequence[FailedJob]:
        with pytest.raises(InputError, match="Another fourshot process works in") as busy, texts.lock():
            pass
        refused.append(str(busy.value))
        return stage.run(on_event)

    texts = WorkFolder(folder / "seed0" / "fourshot")
    monkeypatch.setattr("fourshot.pipeline.runs.stage_driver.run_stage", disturbed)
    compared(runs.task, folder, "fourshot")
    assert refused
    with texts.lock(), pytest.raises(InputError, match="Another fourshot process works in"):  # of a review
        compared(runs.task, folder, "fourshot")


def test_shots_of_data_that_was_changed_are_refused_with_the_texts_made_from_others(
    runs: WholeRuns, tmp_path: Path
) -> None:
    folder, train = tmp_path / "out", tmp_path / "task" / "train.jsonl"
    compared(runs.task, folder, "fourshot")
    before, rows = contents(folder), train.read_text()
    before.pop(".lock")
    train.write_text(rows + json.dumps({"text": "One more row.", "label": "cold"}) + "\n")
    with pytest.raises(RunFolderError, match=r"seed0/fourshot was started with shots other than those .*--out"):
        compared(runs.task, folder, "fourshot")
    assert {name: content for name, content in contents(folder).items() if name != ".lock"} == before
    train.write_text(rows)
    compared(runs.task, folder, "fourshot")


def test_a_test_file_without_a_usable_row_is_refused_before_any_work(runs: WholeRuns, tmp_path: Path) -> None:
    (tmp_path / "task" / "test.jsonl").write_text(json.dumps({"text": " ", "label": "cold"}) + "\n")
    with pytest.raises(InputError, match=r"test\.jsonl has no row that can be used.*tasks check"):
        compared(runs.task, tmp_path / "out", "lora")
    assert not runs.heard
    do_run(RunRequest(runs.task, "fake", SETTINGS, tmp_path / "run", "train"), runs.events.append)
    (told,) = [event.message for event in runs.events if "does not evaluate it" in event.message]
    assert told.startswith("colours: test.jsonl has no row that can be used, so this run trains")


def test_too_few_real_texts_are_told_with_the_method_that_wants_them(runs: WholeRuns, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lora25 .*learns 25 labelled texts per class, and 'cold' has 9.*--methods"):
        compared(runs.task, tmp_path / "out", "zero_shot", "lora25")
    accepted = msgspec.structs.replace(SETTINGS, allow_fewer_shots=True)
    (row,) = compared(runs.task, tmp_path / "out", "lora25", settings=accepted).rows
    assert row.real_examples == 25 + 9
