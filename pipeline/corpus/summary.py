"""What a corpus came to, from its journal. Importing this module loads neither torch nor vllm."""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from fourshot.pipeline.corpus.folder import ShardRecord
from fourshot.pipeline.corpus.plan import Plan
from fourshot.pipeline.synthesis.settings import GenerateSettings
from fourshot.pipeline.tasks.types import Task

State = Literal["finished", "stalled", "unfinished", "failed"]


class ClassOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One class of one task; of a task that failed there is one, without a label."""

    task: str
    label: str = ""
    state: State
    wanted: int = 0
    kept: int = 0
    drawn: int = 0
    acceptance: float | None = None  # of all draws, those that would be kept
    rejected: dict[str, int] = {}  # reason -> texts
    faults: int = 0  # draws that came to nothing
    error: str = ""  # class name of what went wrong
    message: str = ""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """How fast the engines were in one call; nothing of earlier ones."""

    seconds: float = 0.0
    rows_per_s: float = 0.0
    output_tokens_per_s: float = 0.0  # of an engine, while it was at work
    prompt_tokens: int = 0
    cached_share: float | None = None  # of prompt tokens, those that the prefix cache had
    engine_starts: int = 0


class CorpusSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a call of `make_corpus` left."""

    folder: str
    rows: int
    shards: int
    classes: tuple[ClassOutcome, ...]
    rates: Rates = Rates()


def replayed(task: Task, settings: GenerateSettings, shards: Sequence[ShardRecord]) -> Plan:
    """The plan of a task as far as its shards go."""
    plan = Plan(task.name, task.label_names, settings)
    plan.next_units()
    for shard in shards:
        for record in shard.units:
            plan.finish(record)
            plan.next_units()
    return plan


def class_outcomes(task: Task, settings: GenerateSettings, plan: Plan) -> Iterable[ClassOutcome]:
    """One for each class, in the task's order."""
    for label, count in plan.classes.items():
        state: State = "finished" if count.kept >= settings.per_class else "unfinished"
        if plan.has_stalled(label):
            state = "stalled"
        message = ""
        if state == "stalled" and not count.passed:
            message = "none was accepted"
        elif state == "stalled":
            left = settings.per_class - count.kept
            message = f"{count.acceptance:.1%} accepted of late: about {round(left / count.acceptance)} more draws"
        yield ClassOutcome(
            task=task.name,
            label=label,
            state=state,
            wanted=settings.per_class,
            kept=count.kept,
            drawn=count.drawn,
            acceptance=count.passed / count.drawn if count.drawn else None,
            rejected=dict(sorted(count.rejected.items())),
            faults=count.faults,
            message=message,
        )
