"""Which units a task needs: how many draws of which class, until every class has enough or has stalled.

A plan is a function of what became of the units before, in their order. When and where they were done does not enter,
so a corpus that was interrupted asks for the same units as one that was not.
"""

import math
from collections import deque
from collections.abc import Sequence

import msgspec

from fourshot.pipeline.corpus.units import Unit
from fourshot.pipeline.synthesis.rounds import ROUNDS_BEFORE_STALL
from fourshot.pipeline.synthesis.settings import GenerateSettings

# Units of a task that are given before the first is finished: enough for an engine to be busy with one task alone, and
# in a large task for several. What is drawn in vain at the end is bounded by the forecast, not by this.
UNITS_AHEAD = 16
SHARE_AHEAD = 16  # one of so many of the units that it needs at least
FEWEST_DRAWS = 8  # of a unit, where a class lacks less
RECENT_UNITS = 10  # a class's acceptance is that of its last units: it falls as a corpus grows


class UnitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a unit; with the others of its task, all that decides what is drawn next."""

    number: int
    label: str
    draws: int
    passed: int  # would have been kept, whether or not the class still needed it
    kept: int
    rejected: dict[str, int]  # reason -> texts
    faults: int = 0
    output_tokens: int = 0  # of all its texts


class ClassCount(msgspec.Struct, kw_only=True):
    """How far one class is."""

    kept: int = 0
    passed: int = 0
    drawn: int = 0
    given: int = 0  # draws of all units so far, finished or not
    rejected: dict[str, int] = {}
    faults: int = 0
    recent: deque[tuple[int, int]] = msgspec.field(default_factory=lambda: deque(maxlen=RECENT_UNITS))

    @property
    def acceptance(self) -> float:
        """Of its last units; one more draw is taken as accepted, so a forecast is never without end."""
        return (sum(passed for passed, _ in self.recent) + 1) / (sum(draws for _, draws in self.recent) + 1)

    def add(self, record: UnitRecord) -> None:
        self.kept += record.kept
        self.passed += record.passed
        self.drawn += record.draws
        self.faults += record.faults
        self.recent.append((record.passed, record.draws))
        for reason, count in record.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count


class Plan:
    """The units of one task. ``ahead`` of them are given before the first is finished."""

    def __init__(self, task: str, labels: Sequence[str], settings: GenerateSettings) -> None:
        self._task, self._settings = task, settings
        self.classes = {label: ClassCount() for label in labels}
        units = settings.per_class * len(self.classes) // settings.draws_per_round
        self.ahead = max(UNITS_AHEAD, 2 * len(self.classes), units // SHARE_AHEAD)
        self.finished = 0  # units
        self._given = 0  # units

    @property
    def wanted(self) -> int:
        """Rows per class."""
        return self._settings.per_class

    @property
    def is_done(self) -> bool:
        """Nothing is given and nothing is missing, but of classes that have stalled. Ask after `next_units`."""
        return self.finished == self._given

    def next_units(self) -> list[Unit]:
        """Units to be done beside those that are. Call it at the start and after every `finish`."""
        units = []
        while self._given - self.finished < self.ahead:
            missing = {label: self._missing(label) for label in self.classes}
            label = max(missing, key=missing.__getitem__)
            if missing[label] <= 0:
                break
            units.append(self._unit(label, missing[label]))
        return units

    def finish(self, record: UnitRecord) -> None:
        """Take note of the next unit in order."""
        if record.number != self.finished:
            raise ValueError(f"unit {record.number} cannot be finished before unit {self.finished}")
        self.finished += 1
        self.classes[record.label].add(record)

    def has_stalled(self, label: str) -> bool:
        """Whether a class that lacks texts is not worth another draw."""
        count = self.classes[label]
        if count.kept >= self._settings.per_class:
            return False
        if count.drawn >= self._settings.most_candidates:
            return True
        if count.drawn < ROUNDS_BEFORE_STALL * self._settings.draws_per_round:
            return False
        return sum(passed for passed, _ in count.recent) < self._settings.min_acceptance * sum(
            draws for _, draws in count.recent
        )

    def _missing(self, label: str) -> float:
        """Texts that will be lacking when all units are finished that are given, by the class's acceptance."""
        count = self.classes[label]
        if self.has_stalled(label) or count.given >= self._settings.most_candidates:
            return 0.0
        return self._settings.per_class - count.kept - count.acceptance * (count.given - count.drawn)

    def _unit(self, label: str, missing: float) -> Unit:
        count = self.classes[label]
        most = self._settings.draws_per_round
        draws = min(most, max(FEWEST_DRAWS, math.ceil(missing / count.acceptance)))
        draws = min(draws, most, self._settings.most_candidates - count.given)
        unit = Unit(task=self._task, number=self._given, label=label, first_draw=count.given, draws=draws)
        count.given += draws
        self._given += 1
        return unit
