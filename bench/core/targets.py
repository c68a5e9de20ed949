"""What was set out to be reached, and what was."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A number with a goal."""

    name: str
    unit: str
    measured: float
    goal: float
    met: bool

    def line(self, digits: int = 6) -> str:
        """The target in words, the number with so many significant digits."""
        number = f"{self.measured:.{digits}g}{' ' + self.unit if self.unit else ''}"
        return f"{self.name}: target {self.goal:g}, measured {number} ({'met' if self.met else 'missed'})"


def at_least(name: str, unit: str, measured: float, goal: float, digits: int = 3) -> Target:
    """More is better. Kept with ``digits`` behind the point."""
    return Target(name=name, unit=unit, measured=round(measured, digits), goal=goal, met=measured >= goal)


def at_most(name: str, unit: str, measured: float, goal: float, digits: int = 3) -> Target:
    """Less is better. Kept with ``digits`` behind the point."""
    return Target(name=name, unit=unit, measured=round(measured, digits), goal=goal, met=measured <= goal)


def targets_of(result: Mapping[str, Any]) -> list[Target]:
    """Those of a result that was written."""
    return msgspec.convert(result.get("targets", ()), list[Target])


def target_lines(targets: Sequence[Target], digits: int = 6) -> list[str]:
    """As Markdown, a line each."""
    return [f"- {target.line(digits)}" for target in targets]
