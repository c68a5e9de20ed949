"""What a corpus tells while it is made: rows, rejected texts, tokens, the prefix cache, and how long it will take."""

import time
from collections.abc import Callable

from fourshot.engine.core import EngineStats
from fourshot.pipeline.corpus.plan import Plan
from fourshot.pipeline.corpus.summary import Rates
from fourshot.pipeline.corpus.units import UnitResult
from fourshot.pipeline.events import Event, OnEvent

TELL_EVERY_S = 0.5
SHOWN_CLASSES = 2  # a line has room for no more


class Progress:
    """Counts what comes in and tells it now and then."""

    def __init__(
        self, on_event: OnEvent, rows: int, wanted: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """``rows``: that are there already. ``wanted``: rows of all tasks."""
        self._on_event, self._rows, self._wanted, self._clock = on_event, rows, wanted, clock
        self._new_rows = 0
        self._stats: dict[str, EngineStats] = {}  # of every engine, by name
        self._began = self._told_at = clock()

    def count(self, result: UnitResult, rows: int) -> None:
        """Take note of a result; ``rows``: that were kept now, of this unit or others that had waited for it."""
        self._rows += rows
        self._new_rows += rows
        self._stats[result.engine] = result.stats

    def give_up(self, rows: int) -> None:
        """So many rows will never come."""
        self._wanted -= rows

    def tell(self, plan: Plan, task: str, *, now: bool = False) -> None:
        """Tell how far all are, and the classes of ``task``; at most every `TELL_EVERY_S`, or ``now``."""
        at = self._clock()
        if not now and at - self._told_at < TELL_EVERY_S:
            return
        self._told_at = at
        rates = self.rates(0)
        figures = {"tokens_per_s": round(rates.output_tokens_per_s, 1)}
        if rates.cached_share is not None:
            figures["prompt_cached"] = round(rates.cached_share, 3)
        self._on_event(
            Event(
                stage="corpus",
                message=task,
                detail=_classes(plan),
                done=self._rows,
                total=max(self._wanted, self._rows),
                unit="rows",
                figures=figures,
            )
        )

    def rates(self, engine_starts: int) -> Rates:
        """Since the beginning. Rows count against the clock, tokens against the time that engines were at work."""
        seconds = self._clock() - self._began
        prompt = sum(stats.prompt_tokens for stats in self._stats.values())
        cached = sum(stats.cached_tokens for stats in self._stats.values())
        output = sum(stats.output_tokens for stats in self._stats.values())
        busy_s = sum(stats.busy_s for stats in self._stats.values())
        return Rates(
            seconds=round(seconds, 2),
            rows_per_s=round(self._new_rows / seconds, 2),
            output_tokens_per_s=round(output / busy_s, 1) if busy_s else 0.0,
            prompt_tokens=prompt,
            cached_share=round(cached / prompt, 4) if prompt else None,
            engine_starts=engine_starts,
        )


def _classes(plan: Plan) -> str:
    """Kept and rejected texts of the classes that lack most, and what that forecasts for the slowest."""
    wanted = plan.wanted
    missing = {label: (wanted - count.kept) / count.acceptance for label, count in plan.classes.items()}
    slowest = sorted(missing, key=missing.__getitem__, reverse=True)
    said = []
    for label in slowest[:SHOWN_CLASSES]:
        count = plan.classes[label]
        said.append(f"{label} {count.kept} kept of {count.drawn} drawn")
    if len(slowest) > SHOWN_CLASSES:
        said.append(f"{len(slowest) - SHOWN_CLASSES} more")
    count = plan.classes[slowest[0]]
    if count.kept < wanted and count.drawn:
        said.append(f"{slowest[0]} needs about {round(missing[slowest[0]])} more at {count.acceptance:.0%}")
    return ", ".join(said)
