"""Evaluate every method on the test split, each into a file named after all that determines its predictions."""

from pathlib import Path

import msgspec

from fourshot.engine.core import Adapter, Engine
from fourshot.pipeline.cells.calibrating import temperature_of
from fourshot.pipeline.cells.measuring import (
    EvaluationCell,
    LeftOutCell,
    SplitLogprobs,
    answer,
    answer_together,
    measure,
)
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.probe import ProbeItem, ProbeStage, probe_items, probes
from fourshot.pipeline.runs.stages.stage import EngineStage
from fourshot.pipeline.synthesis.fitting import NoRoomError
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import WorkFolder

WARM_UP_TEXTS = 16


class TaskEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The cells to evaluate on one task's test texts."""

    task: Task
    test: tuple[Example, ...]
    cells: tuple[EvaluationCell, ...]
    probes: tuple[ProbeItem, ...] = ()  # done before any evaluation

    @property
    def key(self) -> str:
        return self.task.name


class EvaluateStage(EngineStage, frozen=True, kw_only=True, tag="evaluate"):
    """Probe the adapters of each task, then evaluate its cells."""

    items: tuple[TaskEvaluation, ...]

    def is_finished(self, item: TaskEvaluation) -> bool:
        # An adapter that was trained again, because its weights were gone, has scores and is not probed or calibrated.
        return all(cell.is_done for cell in item.cells) and all(probe.is_finished for probe in item.probes)

    def adapters(self) -> set[Adapter]:
        probed = {adapter for item in self.items for probe in item.probes for adapter in probe.adapters}
        answering = {adapter for item in self.items for cell in item.cells for adapter, _ in cell.answering if adapter}
        return probed | answering

    def do(self, item: TaskEvaluation, engine: Engine, on_event: OnEvent) -> None:
        for probe in item.probes:
            probe.do(engine)
        last: tuple[bytes, SplitLogprobs] | None = None  # cells that differ only in calibration are adjacent
        is_warm = False
        for number, cell in enumerate(sorted(item.cells, key=lambda cell: cell.answers_key), start=1):
            out, title = Path(cell.out), cell.title
            if not cell.is_done:
                if not is_warm:
                    _warm_up(item, engine)
                    is_warm = True
                try:
                    if last is None or last[0] != cell.answers_key:
                        last = cell.answers_key, _answers(item, cell, engine)
                except NoRoomError as failure:
                    WorkFolder(out.parent).write(Path(cell.left_out).name, LeftOutCell(why=str(failure)))
                    title += f" is left out: {failure}"
                else:
                    temperature = temperature_of(cell.adapter) if cell.adapter and cell.has_temperature else None
                    measured = measure(last[1], item.task, item.test, cell.calibration, temperature)
                    WorkFolder(out.parent).write(out.name, measured)
                    if measured.shown is not None:
                        title += f": {measured.shown} of {len(cell.shots)} shots fit into the prompt"
            on_event(Event(stage=self.name, message=title, done=number, total=len(item.cells), unit="methods"))


def _answers(item: TaskEvaluation, cell: EvaluationCell, engine: Engine) -> SplitLogprobs:
    if cell.annotators:
        return answer_together(engine, item.task, item.test, cell.annotators)
    return answer(
        engine,
        item.task,
        item.test,
        form=cell.form,
        shots=cell.shots,
        adapter=cell.adapter,
        align=cell.align,
    )


def _warm_up(item: TaskEvaluation, engine: Engine) -> None:
    """Score some texts and discard the results: first requests are slower, which would distort one method's time."""
    left = [cell for cell in item.cells if not cell.is_done]
    for adapter, form in dict.fromkeys(pair for cell in left for pair in cell.answering):
        answer(engine, item.task, item.test[:WARM_UP_TEXTS], form=form, adapter=adapter)


def methods(experiment: Experiment) -> EvaluateStage | ProbeStage:
    """Return the evaluation of every cell; without test texts, only the probes of the adapters."""
    if not experiment.test:
        return probes(experiment)
    cells = {evaluation.out: evaluation for evaluation in map(experiment.evaluation_cell, experiment.cells)}
    item = TaskEvaluation(
        task=experiment.task,
        test=tuple(experiment.test),
        cells=tuple(cells.values()),
        probes=probe_items(experiment),
    )
    return EvaluateStage(model_path=experiment.model.path, items=(item,))
