"""The results of a corpus, from its journal. Importing this module loads neither torch nor vllm."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from fourshot.pipeline.corpus.shards import ShardRecord
from fourshot.pipeline.forecasts.forecast import Forecast
from fourshot.pipeline.loop.counts import ClassCounts, accepted, more_draws
from fourshot.pipeline.loop.progress import Rates
from fourshot.pipeline.synthesis.settings import GenerateSettings
from fourshot.pipeline.task import Task

State = Literal["finished", "stalled", "unfinished", "failed"]


class ClassOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one class of one task. A failed task has a single result, without a label."""

    task: str
    label: str = ""
    state: State
    wanted: int = 0
    kept: int = 0
    drawn: int = 0
    acceptance: float | None = None  # share of all draws that would be kept
    rejected: dict[str, int] = {}  # reason -> texts
    faults: int = 0  # failed draws
    error: str = ""  # class name of the exception
    message: str = ""


class CorpusSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a call of `do_corpus`."""

    folder: str
    rows: int
    shards: int
    classes: tuple[ClassOutcome, ...]
    mended: dict[str, str] = {}  # file of a damaged shard -> its damage; its units were repeated
    rates: Rates = Rates()
    forecast: Forecast | None = None  # forecast and actual time of this call


def counted(task: Task, settings: GenerateSettings, journal: Iterable[ShardRecord]) -> ClassCounts:
    """Return the counts of a task's classes from its shards in the journal."""
    counts = ClassCounts(task.label_names, settings)
    counts.add(record for shard in journal if shard.task == task.name for record in shard.units)
    return counts


def class_outcomes(task: str, counts: ClassCounts) -> Iterable[ClassOutcome]:
    """Yield the result of each class, in the task's order."""
    for label, count in counts.by_label.items():
        state: State = "finished" if label not in counts.missing else "unfinished"
        if counts.has_stalled(label):
            state = "stalled"
        yield ClassOutcome(
            task=task,
            label=label,
            state=state,
            wanted=counts.per_class,
            kept=count.kept,
            drawn=count.drawn,
            acceptance=count.passed / count.drawn if count.drawn else None,
            rejected=dict(sorted(count.rejected.items())),
            faults=count.faults,
            message=f"{accepted(count)}; {more_draws(count, counts.per_class)}" if state == "stalled" else "",
        )
