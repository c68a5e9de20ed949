"""Progress reports of the loop: texts kept of those wanted, tokens, prefix cache."""

import time

import msgspec

from fourshot.engine.core import EngineStats
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.loop.units import UnitResult

REPORT_EVERY_S = 0.5


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Speed of the engines in this call, without earlier ones."""

    seconds: float = 0.0
    rows_per_s: float = 0.0
    output_tokens_per_s: float = 0.0  # of an engine, while it was busy
    prompt_tokens: int = 0
    cached_share: float | None = None  # of prompt tokens that the prefix cache had; None: there were no prompt tokens
    engine_starts: int = 0


class ProgressReporter:
    """Counts kept texts and the engines' work, and reports them."""

    def __init__(self, on_event: OnEvent, stage: str, unit: str, kept: int, total: int) -> None:
        """``kept``: texts that exist already. ``total``: of all classes and tasks that are reported together."""
        self._on_event, self._stage, self._unit = on_event, stage, unit
        self._kept, self._total = kept, total
        self._new = 0
        self._stats: dict[str, EngineStats] = {}  # of every engine, by name
        self._began = self._reported_at = time.perf_counter()

    def count(self, result: UnitResult) -> None:
        """Record the counters of the engine that a result comes from."""
        if result.engine:
            self._stats[result.engine] = result.stats

    def add(self, kept: int) -> None:
        """Count that many more kept texts."""
        self._kept += kept
        self._new += kept

    def give_up(self, texts: int) -> None:
        """Reduce the total by that many texts, which will not be generated."""
        self._total -= texts

    def is_due(self) -> bool:
        """Return whether the last report is at least `REPORT_EVERY_S` old."""
        return time.perf_counter() - self._reported_at >= REPORT_EVERY_S

    def report(self, message: str, detail: str = "", figures: dict[str, float] | None = None) -> None:
        """Send an event with the progress; ``figures`` replace those of all engines so far."""
        self._reported_at = time.perf_counter()
        self._on_event(
            Event(
                stage=self._stage,
                message=message,
                detail=detail,
                done=self._kept,
                total=max(self._total, self._kept),
                unit=self._unit,
                figures=self._figures() if figures is None else figures,
            )
        )

    def rates(self, engine_starts: int = 0) -> Rates:
        """Return the rates so far: rows per second of wall-clock time, tokens per second that engines were busy."""
        seconds = time.perf_counter() - self._began
        prompt = sum(stats.prompt_tokens for stats in self._stats.values())
        cached = sum(stats.cached_tokens for stats in self._stats.values())
        output = sum(stats.output_tokens for stats in self._stats.values())
        busy_s = sum(stats.busy_s for stats in self._stats.values())
        return Rates(
            seconds=round(seconds, 2),
            rows_per_s=round(self._new / seconds, 2),
            output_tokens_per_s=round(output / busy_s, 1) if busy_s else 0.0,
            prompt_tokens=prompt,
            cached_share=round(cached / prompt, 4) if prompt else None,
            engine_starts=engine_starts,
        )

    def _figures(self) -> dict[str, float]:
        rates = self.rates()
        figures = {"tokens_per_s": round(rates.output_tokens_per_s, 1)}
        if rates.cached_share is not None:
            figures["prompt_cached"] = round(rates.cached_share, 3)
        return figures
