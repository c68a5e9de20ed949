"""Many tasks in one command: one engine, one queue of trainings, and a task that fails does not stop the others."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fourshot.cli import main as cli
from fourshot.engine.core import EngineSettings
from fourshot.pipeline.card import load_card
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.forecasts.forecast import Forecast, StageForecast
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.runs.stages.stage import EngineStage, Stage
from fourshot.serving.adapter_lookup import find_adapter
from fourshot.training.jobs.jobs import FailedJob
from tests.pipeline.task_folders import TASK, tasks_in, write_task

BRIEF = (
    *("--per-class", "2", "--annotator", "none", "--set", "generate.draws_per_round=8"),
    *("--set", "generate.max_tokens=24", "--set", "train.max_steps=3", "--set", "train.target_modules=['q_proj']"),
    *("--set", "wording=bare", "--set", "filter.longest_chars=200"),  # the fake engine says twelve words
)


@pytest.fixture(scope="module", autouse=True)
def base(tiny_model: str) -> Iterator[str]:
    """A base of two narrow layers. All stages run in this process: texts come from the fake engine, answers from the
    reference. That a stage has a process and vLLM of its own is held by `test_kill` and `test_stage_process`.
    """
    with pytest.MonkeyPatch.context() as patch:

        def reference(stage: EngineStage) -> EngineSettings:
            return EngineSettings(model=stage.model_path, kind="transformers", max_model_len=512)

        def fake(model: str, *_: object, **__: object) -> EngineSettings:
            return EngineSettings(model=model, kind="fake")

        patch.setattr(EngineStage, "engine_settings", reference)
        patch.setattr("fourshot.pipeline.runs.stages.generate.engine_settings", fake)
        patch.setattr("fourshot.pipeline.runs.stage_driver.run_stage", run_here)
        yield tiny_model


def run_here(stage: Stage, on_event: OnEvent) -> Sequence[FailedJob]:
    return () if stage.is_done else stage.run(on_event)


def fourshot(*words: object) -> tuple[int, list[dict[str, object]]]:
    """Exit code of a command, and the lines of JSON that it printed."""
    with tempfile.TemporaryFile() as printed:
        before = os.dup(1)
        os.dup2(printed.fileno(), 1)  # the command writes there itself, past `sys.stdout`
        try:
            code = cli.main([str(words[0]), "--json", *BRIEF, *map(str, words[1:])])
        finally:
            os.dup2(before, 1)
            os.close(before)
        printed.seek(0)
        return code, [json.loads(line) for line in printed]


def train(base: str, tasks: Path, out: Path, *options: str) -> tuple[int, list[dict[str, object]]]:
    return fourshot("train", "--tasks", tasks, "--out", out, "--model", base, *options)


Trained = tuple[Path, int, list[dict[str, object]]]


@pytest.fixture(scope="module")
def trained(base: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Folder, exit code and what was printed."""
    folder = tmp_path_factory.mktemp("many")
    tasks_in(folder / "tasks")
    return folder / "out", *train(base, folder / "tasks", folder / "out")


def test_each_task_has_its_adapter_and_each_failure_its_reason(trained: Trained) -> None:
    out, code, printed = trained
    assert code == 2  # bad input, for two of four
    outcomes = {str(line["task"]).rpartition("one_class/")[2]: line for line in printed if line["type"] == "task"}
    assert {name: line["state"] for name, line in outcomes.items()} == {
        "colours": "finished",
        "shades": "finished",
        "few": "failed",
        "task.toml": "failed",
    }
    assert "1 label; a task needs at least 2" in str(outcomes["task.toml"]["message"])
    assert "cold" in str(outcomes["few"]["message"])
    assert outcomes["colours"]["synthetic_examples"] == 4 and outcomes["colours"]["steps"] == 3
    for name in ("colours", "shades"):
        card = load_card(find_adapter(out / name))
        assert card.task.name == name
        assert card.probe and card.probed and card.probed.texts == 10 and card.probed.difference < 0.1
        assert card.lineage.keys() == {"job", "test", "real", "synthetic"} and card.train_flops > 1e6
    starts = [line for line in printed if line.get("message") == "starting the engine"]
    assert len(starts) == 2, "one engine writes the texts of all tasks, one asks all adapters what their trainer asked"


def test_an_adapter_is_asked_what_it_was_trained_on(trained: Trained) -> None:
    folder = trained[0] / "colours"
    card = load_card(find_adapter(folder))
    written = [candidate.text for candidate, verdict in finished_pairs(RunFolder(folder)) if verdict.kept]
    assert card.probe and card.wording == "bare"
    assert set(card.probe.prompts) <= {card.prompt(text) for text in (*written, *(shot.text for shot in card.shots))}


def test_the_same_command_again_trains_nothing_and_a_mended_task_alone(base: str, trained: Trained) -> None:
    out = trained[0]
    write_task(out.parent / "tasks" / "few", TASK.replace('"colours"', '"few"'))
    shutil.rmtree(out.parent / "tasks" / "one_class")
    code, printed = train(base, out.parent / "tasks", out)
    assert code == 0
    assert {line["message"] for line in printed if line.get("stage") == "train" and line["total"]} == {
        *(f"few, adapter for calibration {number} of 12" for number in range(5, 9)),
        "few, classifier 2 of 3",
    }
    assert load_card(find_adapter(out / "few")).task.name == "few"
    outcomes = json.loads((out / "tasks.json").read_text())
    assert [(outcome["task"], outcome["state"]) for outcome in outcomes] == [
        ("colours", "finished"),
        ("few", "finished"),
        ("shades", "finished"),
    ]


def test_evaluate_measures_what_was_trained(base: str, trained: Trained) -> None:
    task, out = trained[0].parent / "tasks" / "shades", trained[0] / "shades"
    before = find_adapter(out)
    code, printed = fourshot("evaluate", task, "--out", out, "--model", base)
    assert code == 0
    trainings = {line["message"] for line in printed if line.get("stage") == "train" and line["total"]}
    assert trainings == {"shades, LoRA on the shots"}, "to compare with"
    assert find_adapter(out) == before
    scores = load_card(before).scores
    assert scores and scores.n == 2


def test_a_task_has_one_owner_and_the_others_go_on_without_it(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, out = tasks_in(tmp_path / "tasks"), tmp_path / "out"
    codes = []

    def disturbed(stage: Stage, on_event: OnEvent) -> Sequence[FailedJob]:
        codes.append(fourshot("evaluate", tasks / "colours", "--out", out / "colours", "--model", base)[0])
        return run_here(stage, on_event)

    with monkeypatch.context() as patch:
        patch.setattr("fourshot.pipeline.runs.stage_driver.run_stage", disturbed)
        assert train(base, tasks / "colours", out)[0] == 0
    assert set(codes) == {2}, "it is refused for as long as the other one works there"
    with RunFolder(out / "colours").lock():
        code, printed = train(base, tasks, out)
    outcomes = {str(line["task"]): line for line in printed if line["type"] == "task"}
    assert code == 2 and "Another fourshot process works in" in str(outcomes["colours"]["message"])
    assert outcomes["shades"]["state"] == "finished"
    assert fourshot("evaluate", tasks / "colours", "--out", out / "colours", "--model", base)[0] == 0


def test_classes_that_stall_fail_their_tasks_with_the_forecast(base: str, tmp_path: Path) -> None:
    tasks_in(tmp_path / "tasks")
    stall = ("--set", "filter.min_letters=1.0")  # the fake engine ends its texts with a full stop
    code, printed = train(base, tmp_path / "tasks" / "colours", tmp_path / "out", *stall)
    (outcome,) = [line for line in printed if line["type"] == "task"]
    assert code == 1 and outcome["error"] == "ShortRunError" and "--allow-short" in str(outcome["message"])


def test_more_texts_than_candidates_are_refused_before_any_work(base: str, tmp_path: Path) -> None:
    task, out = write_task(tmp_path), tmp_path / "out"
    code, printed = train(base, task, out, "--per-class", "641")
    (outcome,) = [line for line in printed if line["type"] == "task"]
    assert code == 2 and "641 texts per class are requested" in str(outcome["message"])
    for words in (("compare", task, "--methods", "fourshot"), ("generate", task)):
        code, printed = fourshot(*words, "--out", out, "--model", base, "--per-class", "641")
        assert code == 2 and "generate.max_candidates=0" in str(printed[-1])
    assert not (out / "colours").exists() and not (out / "manifest.json").exists()


def test_trainings_and_comparisons_say_how_right_their_forecast_was(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = write_task(tmp_path)
    words = {
        "many": ("train", "--tasks", task, "--out", tmp_path / "out", "--model", base),
        "compare": ("compare", task, "--methods", "zero_shot", "--out", tmp_path / "compared", "--model", base),
    }
    for module, stage in (("many", "train"), ("compare", "evaluate")):
        asked = StageForecast(stage=stage, calls=1, tokens=1, steps=1, seconds=600.0)
        estimate = Forecast(seconds=600.0, calls=1, tokens=1, memory_bytes=1, stages=(asked,))
        monkeypatch.setattr(f"fourshot.pipeline.runs.{module}.forecast_of_runs", lambda *_, done=estimate, **__: done)
        code, printed = fourshot(*words[module])
        (told,) = [str(line["message"]) for line in printed if line.get("stage") == "forecast"]
        assert code == 0 and told.startswith("forecast 10 min, took ") and told.endswith(" less)"), told


def test_a_folder_that_was_damaged_drops_out_and_the_others_go_on(
    base: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, out = trained[0].parent / "tasks", trained[0]
    file = out / "colours" / "candidates.jsonl"
    written = file.read_bytes()
    file.unlink()
    code, printed = train(base, tasks, out)
    outcomes = {str(line["task"]): line for line in printed if line["type"] == "task"}
    assert code and "has 0 complete lines" in str(outcomes["colours"]["message"])
    assert outcomes["shades"]["state"] == "finished"

    planned: list[list[str]] = []
    module = "fourshot.pipeline.runs.many.forecast_of_runs"
    monkeypatch.setattr(module, lambda runs, *_, **__: planned.append([run.task.name for run in runs]))
    _, printed = train(base, tasks, out, "--plan")
    assert any("has 0 complete lines" in str(line.get("message")) for line in printed)
    assert "shades" in planned[0] and "colours" not in planned[0]
    file.write_bytes(written)


@pytest.mark.parametrize("words", [[], ["sst2", "--tasks", "trec"], ["--tasks", "trec", "--data", "."]])
def test_a_task_or_several_not_both_nor_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *words]) == 2
    assert "--tasks" in capsys.readouterr().err


def test_a_task_that_is_refused_before_anything_was_made_leaves_no_folder(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(stage: Stage, on_event: OnEvent) -> list[FailedJob]:
        return [FailedJob(key=item.key, kind="ModelNotFoundError", message="It is damaged.") for item in stage.items]

    monkeypatch.setattr("fourshot.pipeline.runs.stage_driver.run_stage", refused)
    (tmp_path / "mine").mkdir()
    code, lines = train(base, write_task(tmp_path / "mine"), tmp_path / "out")
    (outcome,) = [line for line in lines if line["type"] == "task"]
    assert (code, outcome["message"], outcome["folder"]) == (2, "It is damaged.", "")
    assert not (tmp_path / "out" / "colours").exists()


def test_a_task_that_was_run_alone_into_that_place_drops_out_and_the_others_go_on(base: str, tmp_path: Path) -> None:
    tasks_in(tmp_path / "tasks")
    out = tmp_path / "out" / "colours"
    assert fourshot("train", tmp_path / "tasks" / "colours", "--out", out, "--model", base)[0] == 0
    assert (out / "adapters").is_dir() and not (out / "adapters").is_symlink()
    code, printed = train(base, tmp_path / "tasks", tmp_path / "out")
    outcomes = {str(line["task"]): line for line in printed if line["type"] == "task"}
    assert "is not a link" in str(outcomes["colours"]["message"]) and "(--out)" in str(outcomes["colours"]["message"])
    assert outcomes["shades"]["state"] == "finished" and code == 2
