"""Work that needs the model, as values that can be handed to another process.

Each order is idempotent: what it finds finished it leaves alone, so an order that was killed is simply given again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from fourshot.engine.adapters import rank_of, slot_rank
from fourshot.engine.core import Adapter, Engine, EngineSettings
from fourshot.engine.errors import FourshotError
from fourshot.engine.probe import Probe, check_probe
from fourshot.pipeline.card import PROBED_FILE
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.evaluate import Answers, answer, measure
from fourshot.pipeline.runs.run_folder import RunFolder
from fourshot.pipeline.runs.trainings import run_jobs, try_jobs
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording
from fourshot.pipeline.tasks.tables import load_split
from fourshot.pipeline.tasks.types import Example, Task
from fourshot.training.jobs.jobs import HERE, FailedJob, Placement, TrainingJob

WARM_UP_TEXTS = 16


class TrainOrder(msgspec.Struct, frozen=True, kw_only=True, tag="train"):
    model_path: str
    store: str
    jobs: tuple[TrainingJob, ...]
    placement: Placement = HERE
    keep_going: bool = False  # a job that fails does not stop the others, and is told instead of raised
    what: str = "adapter"  # what is trained, for people


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one seed, to be measured into ``out``."""

    out: str
    title: str
    shots: tuple[Example, ...] = ()
    adapter: Adapter | None = None
    wording: Wording = "task"
    calibration: Literal["none", "contextual", "batch"] = "none"


class ProbeItem(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that is to answer as it did in training."""

    adapter: Adapter
    probe: Probe


class ProbeOrder(msgspec.Struct, frozen=True, kw_only=True, tag="probe"):
    """Serve adapters and ask them what their trainer asked; `PROBED_FILE` beside the weights says how it went."""

    model_path: str
    items: tuple[ProbeItem, ...]
    keep_going: bool = False  # as for trainings; a failure's key is the adapter's name


class MergeOrder(msgspec.Struct, frozen=True, kw_only=True, tag="merge"):
    """Write base and adapter as one checkpoint, and see that it answers as the trainer did."""

    model_path: str
    adapter: Adapter
    out: str
    probe: Probe | None = None


class EvaluateOrder(msgspec.Struct, frozen=True, kw_only=True, tag="evaluate"):
    model_path: str
    task: Task
    cells: tuple[Cell, ...]
    test_limit: int
    max_text_words: int
    probes: tuple[ProbeItem, ...] = ()  # before anything is measured


Order = TrainOrder | EvaluateOrder | ProbeOrder | MergeOrder
NeedsEngine = EvaluateOrder | ProbeOrder


def execute(order: Order, on_event: OnEvent, engine: Engine | None = None) -> list[FailedJob]:
    """Do the work in this process. ``engine``: an open one to use; else one is opened where needed, and closed.

    Returns what failed of an order that keeps going; of another order the failure is raised.
    """
    if isinstance(order, TrainOrder):
        return _train(order, on_event)
    if isinstance(order, MergeOrder):
        return _merge(order, on_event)
    if is_done(order):
        return []
    if engine is not None:
        return _with_engine(order, engine, on_event)
    from fourshot.engine.opening import open_engine

    on_event(Event(stage=_stage(order), message="starting the engine"))
    opened = open_engine(_engine_settings(order))
    try:
        return _with_engine(order, opened, on_event)
    finally:
        opened.close()


def is_done(order: Order) -> bool:
    """Whether nothing is left to do, told without loading a model."""
    if isinstance(order, TrainOrder):
        return all(RunFolder(Path(order.store) / job.key).has("result.json") for job in order.jobs)
    if isinstance(order, MergeOrder):
        return RunFolder(order.out).has(PROBED_FILE)
    if isinstance(order, ProbeOrder):
        return all(RunFolder(item.adapter.path).has(PROBED_FILE) for item in order.items)
    return all(Path(cell.out).exists() for cell in order.cells)


def _train(order: TrainOrder, on_event: OnEvent) -> list[FailedJob]:
    if not order.keep_going:
        run_jobs(order.model_path, order.jobs, Path(order.store), on_event, order.placement, order.what)
        return []
    outcomes = try_jobs(order.model_path, order.jobs, Path(order.store), on_event, order.placement, order.what)
    return [outcome for outcome in outcomes if isinstance(outcome, FailedJob)]


def _merge(order: MergeOrder, on_event: OnEvent) -> list[FailedJob]:
    from fourshot.engine.opening import open_engine
    from fourshot.training.lora.merging import merge

    on_event(Event(stage="merge", message=f"writing {order.out}"))
    out = merge(order.model_path, order.adapter.path, order.out)
    if order.probe:
        engine = open_engine(EngineSettings(model=str(out), kind="transformers"))
        try:
            RunFolder(out).write(PROBED_FILE, check_probe(engine, None, order.probe))
        finally:
            engine.close()
    return []


def _with_engine(order: NeedsEngine, engine: Engine, on_event: OnEvent) -> list[FailedJob]:
    if isinstance(order, EvaluateOrder):
        for item in order.probes:
            _probe(item, engine)
        _evaluate(order, engine, on_event)
        return []
    failed = []
    for item in order.items:
        try:
            _probe(item, engine)
        except FourshotError as error:
            if not order.keep_going:
                raise
            failed.append(FailedJob(key=item.adapter.name, kind=type(error).__name__, message=str(error)))
    return failed


def _probe(item: ProbeItem, engine: Engine) -> None:
    folder = RunFolder(item.adapter.path)
    if not folder.has(PROBED_FILE):
        folder.write(PROBED_FILE, check_probe(engine, item.adapter, item.probe))


def _evaluate(order: EvaluateOrder, engine: Engine, on_event: OnEvent) -> None:
    test = load_split(order.task, "test", limit=order.test_limit or None).examples
    last: tuple[object, Answers] | None = None  # cells that differ only in calibration stand beside each other
    is_warm = False
    for number, cell in enumerate(sorted(order.cells, key=_answers_key), start=1):
        out = Path(cell.out)
        if not out.exists():
            if not is_warm:
                _warm_up(order, engine, test)
                is_warm = True
            if last is None or last[0] != _answers_key(cell):
                answers = answer(
                    engine,
                    order.task,
                    test,
                    shots=cell.shots,
                    adapter=cell.adapter,
                    form=PromptFormat(wording=cell.wording, max_text_words=order.max_text_words),
                    content_free=any(other.calibration == "contextual" for other in order.cells),
                )
                last = (_answers_key(cell), answers)
            RunFolder(out.parent).write(out.name, measure(last[1], order.task, test, cell.calibration))
        on_event(Event(stage="evaluate", message=cell.title, done=number, total=len(order.cells), unit="methods"))


def _warm_up(order: EvaluateOrder, engine: Engine, test: Sequence[Example]) -> None:
    """Answer some texts for nothing: an engine's first answers take longer, which would be held against one method."""
    for adapter, wording in {(cell.adapter, cell.wording) for cell in order.cells}:
        form = PromptFormat(wording=wording, max_text_words=order.max_text_words)
        answer(engine, order.task, test[:WARM_UP_TEXTS], adapter=adapter, form=form)


def _answers_key(cell: Cell) -> bytes:
    """Equal for cells whose raw answers are the same."""
    return msgspec.json.encode((cell.shots, cell.adapter, cell.wording))


def _engine_settings(order: NeedsEngine) -> EngineSettings:
    if isinstance(order, ProbeOrder):
        adapters = {item.adapter for item in order.items}
    else:
        adapters = {cell.adapter for cell in order.cells if cell.adapter is not None}
    ranks = [rank_of(adapter) for adapter in adapters]
    return EngineSettings(
        model=order.model_path,
        max_loras=1 if adapters else 0,  # one adapter answers at a time here
        max_lora_rank=slot_rank(max(ranks, default=8)),
        compile=False,  # a run samples for less time than compiling takes
    )


def _stage(order: NeedsEngine) -> str:
    return {EvaluateOrder: "evaluate", ProbeOrder: "probe"}[type(order)]
