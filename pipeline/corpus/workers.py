"""Those who do units, as the driver sees them."""

from typing import Protocol

from fourshot.pipeline.corpus.units import TaskBrief, Unit, UnitResult


class Workers(Protocol):
    """One or many engines somewhere. Every unit that is given comes back once, as a result."""

    starts: int  # of engines, so far

    def has_room(self) -> bool:
        """Whether another unit should be given now: enough for nobody to wait, and not much more."""
        ...

    def give(self, unit: Unit, brief: TaskBrief) -> None: ...

    def wait(self, timeout_s: float) -> list[UnitResult]:
        """What has come back since the last time; empty after ``timeout_s``. Raises FourshotError where nobody can."""
        ...

    def close(self) -> None:
        """End them; what they were doing is lost."""
        ...
