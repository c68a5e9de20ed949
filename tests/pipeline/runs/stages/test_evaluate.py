"""A classifier is calibrated before it is measured, on the engine that measures it; the engine is the fake one."""

import json
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.core import Adapter
from fourshot.engine.machine.files import read_json
from fourshot.pipeline.cells.calibrating import CALIBRATED_FILE, CalibrationItem, CalibrationResult, HeldOutCandidate
from fourshot.pipeline.cells.measuring import Annotators, Evaluation, EvaluationCell, LeftOutCell, answer_together
from fourshot.pipeline.events import Event, ignore
from fourshot.pipeline.runs.stages.evaluate import EvaluateStage, TaskEvaluation
from fourshot.pipeline.runs.stages.probe import ProbeItem, ProbeStage
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.task import Example, Label, Task
from fourshot.serving.testing.adapters import task_of
from fourshot.training.jobs.jobs import Placement
from tests.pipeline.test_settings import Listener

TASK = task_of("tone")
EXAMPLES = tuple(
    Example(text=f"text {number} is {label.word}", label=label.name) for number in range(20) for label in TASK.labels
)


def adapter(folder: Path, name: str) -> Adapter:
    path = folder / name
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"r": 8}))
    return Adapter(name=name, path=str(path))


def probe_item(folder: Path) -> ProbeItem:
    classifier = adapter(folder, "own")
    calibrators = tuple(
        Annotator(adapter=adapter(folder, f"calibrator{n}"), left_out=(2 * n, 2 * n + 1)) for n in range(4)
    )
    unseen = tuple(HeldOutCandidate(text=example.text) for example in EXAMPLES)
    calibration = CalibrationItem(
        adapter=classifier, task=TASK, form=PromptFormat(), shots=EXAMPLES[:8], calibrators=calibrators, unseen=unseen
    )
    return ProbeItem(adapter=classifier, probe=None, calibration=calibration)


def test_what_was_calibrated_is_measured_calibrated(tmp_path: Path) -> None:
    probe = probe_item(tmp_path)
    cells = tuple(
        EvaluationCell(
            out=str(tmp_path / "scores" / f"{name}.json"), title=name, adapter=adapter, has_temperature=bool(adapter)
        )
        for name, adapter in (("zero_shot", None), ("own", probe.adapter))
    )
    item = TaskEvaluation(task=TASK, test=EXAMPLES, cells=cells, probes=(probe,))
    stage = EvaluateStage(model_path="fake", items=(item,))
    assert {adapter.name for adapter in stage.adapters()} == {
        "own",
        "calibrator0",
        "calibrator1",
        "calibrator2",
        "calibrator3",
    }
    divided = msgspec.structs.replace(stage, placement=Placement(gpus_per_engine=4))
    assert (stage.engine_settings().gpus, divided.engine_settings().gpus) == (1, 4)
    received = msgspec.json.decode(msgspec.json.encode(stage), type=EvaluateStage)  # as it goes to a process of its own
    assert received == stage
    received.run(ignore)
    assert stage.is_done
    calibrated = read_json(tmp_path / "own" / CALIBRATED_FILE, CalibrationResult)
    plain, trained = (read_json(Path(cell.out), Evaluation) for cell in cells)
    assert plain.predicted == trained.predicted and calibrated.temperature != 1.0
    assert (plain.scores.ece_before, trained.scores.ece_before) == (None, plain.scores.ece)
    assert trained.confidence != plain.confidence
    assert trained.scores.surest_80 is not None


def test_an_adapter_that_is_measured_and_not_calibrated_any_more_is_calibrated_again(tmp_path: Path) -> None:
    """Of an adapter that was trained again, for want of its weights, the scores are all that is left."""
    probe = probe_item(tmp_path)
    cell = EvaluationCell(
        out=str(tmp_path / "scores" / "own.json"), title="own", adapter=probe.adapter, has_temperature=True
    )
    item = TaskEvaluation(task=TASK, test=EXAMPLES, cells=(cell,), probes=(probe,))
    stage = EvaluateStage(model_path="fake", items=(item,))
    stage.run(ignore)
    calibrated, scores = tmp_path / "own" / CALIBRATED_FILE, Path(cell.out)
    before, measured_ns = calibrated.read_bytes(), scores.stat().st_mtime_ns
    calibrated.unlink()
    assert not stage.is_finished(item)
    stage.run(ignore)
    assert stage.is_done
    assert calibrated.read_bytes() == before and scores.stat().st_mtime_ns == measured_ns


def test_where_nothing_is_measured_it_is_calibrated_when_it_is_probed(tmp_path: Path) -> None:
    stage = ProbeStage(model_path="fake", items=(probe_item(tmp_path),))
    stage.run(ignore)
    assert stage.is_done
    assert (tmp_path / "own" / CALIBRATED_FILE).exists()


def cell_of(folder: Path, members: tuple[Annotator, ...], **settings: Any) -> EvaluationCell:
    """Of annotators that answer together, in a file named by their number."""
    annotators = Annotators(members=members, shots=EXAMPLES[:8], settings=RunSettings(**settings))
    return EvaluationCell(out=str(folder / f"{len(members)}.json"), title="committee", annotators=annotators)


def test_annotators_that_answer_together_take_what_each_of_them_takes(tmp_path: Path) -> None:
    annotators = probe_item(tmp_path).calibration.calibrators  # type: ignore[union-attr]
    plain = EvaluationCell(out=str(tmp_path / "plain.json"), title="plain")
    equal = AnnotateSettings(weights="equal")
    cells = (plain, cell_of(tmp_path, annotators), cell_of(tmp_path, annotators[:1], annotate=equal))
    stage = EvaluateStage(model_path="fake", items=(TaskEvaluation(task=TASK, test=EXAMPLES, cells=cells),))
    assert {adapter.name for adapter in stage.adapters()} == {f"calibrator{number}" for number in range(4)}
    received = msgspec.json.decode(msgspec.json.encode(stage), type=EvaluateStage)
    received.run(ignore)
    alone, four, one = (read_json(Path(cell.out), Evaluation) for cell in cells)
    assert one.scores.prompt_tokens == alone.scores.prompt_tokens
    assert four.scores.prompt_tokens == 4 * one.scores.prompt_tokens, "without what was asked to weigh them"
    assert four.predicted == one.predicted == alone.predicted, "the fake engine says the same with each"
    assert four.scores.ece_before is None


def test_of_a_comparison_that_goes_on_only_what_is_left_is_asked(tmp_path: Path) -> None:
    heard: list[Any] = []
    cells = tuple(
        EvaluationCell(out=str(tmp_path / f"{name}.json"), title=name, adapter=adapter(tmp_path, name))
        for name in ("done", "left")
    )
    Path(cells[0].out).write_text("{}")
    item = TaskEvaluation(task=TASK, test=EXAMPLES, cells=cells)
    EvaluateStage(model_path="fake", items=(item,)).do(item, Listener(heard), ignore)
    assert {name for _, name, _ in heard} == {"left"} and Path(cells[1].out).exists()


def test_annotators_in_context_show_fewer_shots_before_a_long_test_text() -> None:
    heard: list[Any] = []
    shown = tuple(range(8))
    annotators = Annotators(
        members=(Annotator(adapter=None, shown=shown), Annotator(adapter=None, shown=shown[::-1])),
        shots=EXAMPLES[:8],
        settings=RunSettings(max_text_words=4000),
    )
    engine, fits = Listener(heard), []
    for words in (1, 1580):
        test = (Example(text="word " * words, label=EXAMPLES[0].label),)
        answer_together(engine, TASK, test, annotators)
        prompts = [prompt for prompts, *_ in heard for prompt in prompts if test[0].text.strip() in prompt]
        assert len(prompts) == 2 and max(engine.count_tokens(prompts)) <= engine.settings.max_model_len
        fits.append(prompts[0].count("Label:") - 1)
        heard.clear()
    assert fits[0] == 8 > fits[1] > 0


def many_classes(folder: Path, number: int) -> TaskEvaluation:
    """Zero-shot and in context, with four shots of twenty tokens for each of so many classes."""
    labels = tuple(Label(name=f"change the setting {n:03}") for n in range(number))
    shots = tuple(
        Example(text=f"number {turn}, {'and so on ' * 4}{label.name}", label=label.name)
        for turn in range(4)
        for label in labels
    )
    in_context = [
        EvaluationCell(out=str(folder / f"{name}.json"), title=name, shots=shots) for name in ("icl", "again")
    ]
    zero_shot = EvaluationCell(out=str(folder / "zero_shot.json"), title="zero_shot")
    task = Task(name="intents", instruction="Classify.", noun="text", labels=labels)
    return TaskEvaluation(task=task, test=shots[:5], cells=(*in_context, zero_shot))


def test_a_baseline_whose_prompt_has_no_room_is_left_out_and_the_others_are_measured(tmp_path: Path) -> None:
    item, events = many_classes(tmp_path, 150), list[Event]()
    stage = EvaluateStage(model_path="fake", items=(item,))
    stage.run(events.append)
    assert stage.is_done
    icl, again, zero_shot = item.cells
    for cell in (icl, again):
        assert not Path(cell.out).exists()
        reason = read_json(Path(cell.left_out), LeftOutCell).why
        assert "one shot of each of 150 classes" in reason
        assert f"{cell.title} is left out: {reason}" in [event.message for event in events]
    assert read_json(Path(zero_shot.out), Evaluation).scores.n == 5
    assert "zero_shot" in [event.message for event in events]


def test_a_baseline_that_shows_fewer_shots_says_how_many(tmp_path: Path) -> None:
    item, events = many_classes(tmp_path, 40), list[Event]()
    EvaluateStage(model_path="fake", items=(item,)).run(events.append)
    shown = read_json(Path(item.cells[0].out), Evaluation).shown
    assert shown is not None and 40 <= shown < 160
    assert f"icl: {shown} of 160 shots fit into the prompt" in [event.message for event in events]
    assert "shown" not in json.loads(Path(item.cells[2].out).read_bytes())
