"""Plans: how many texts of which class are generated next, until every class has enough or has stalled.

A plan depends only on the results of previous batches, in their order, not on when and where they were processed. So an
interrupted run issues the same units as an uninterrupted one. `RoundPlan` draws for all unfinished classes, and waits;
`AheadPlan` keeps many engines busy with small units.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from fourshot.pipeline.loop.counts import ClassCount, ClassCounts, DrawRecord
from fourshot.pipeline.loop.units import DrawSlice, DrawUnit, TaskBrief
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate

# Units of a task that are issued before the first is finished: enough to keep an engine busy with one task alone, and
# several engines with a large task. Surplus draws at the end are bounded by the forecast, not by this.
UNITS_AHEAD = 16
SHARE_AHEAD = 16  # of the units that a task needs at least, one in so many is issued ahead
FEWEST_DRAWS = 8  # per class, even if it needs fewer
FIRST_DRAWS = 512  # of the first units of all classes together: none is judged or written before all are annotated
REPORTS = 20  # of progress, for each round of generation
# The first round has so many draws per text of ``per_class`` if these are fewer than ``draws_per_round``. The factors
# cover the lowest usual acceptance rate if annotators judge, and that of well-formed texts if all of these count.
JUDGED_DRAWS, WELL_FORMED_DRAWS = 4.0, 1.5
MOST_WHOLE_DRAWS = 2048  # of a round of all classes; a larger full round is not repeated for a few missing texts
SPARE_DRAWS = 1.5  # in later, smaller rounds: times those that a class still needs at its acceptance rate
SPREAD_DRAWS = 16  # of a draw unit, and
SPREAD_TEXTS = 64  # of an annotation unit, if a round is spread over many engines
ANNOTATION_BATCH = 256  # texts of the user that are filtered, annotated and written together

Biases = Callable[[str], tuple[tuple[str, float], ...]]  # nats by word, of a class


class DrawBatch(NamedTuple):
    """Texts that are judged together: a round, or a single unit."""

    number: int
    units: tuple[DrawUnit, ...]
    drawn: tuple[Candidate, ...] = ()  # texts that exist already, in place of units


class DrawPlan:
    """Decides on the batches of one task, and counts their results."""

    annotates_in_place = False  # the worker that generates texts also annotates them, before a batch is filtered
    keeps_all = False  # every good text is kept, even if its class has enough
    texts_per_unit = 0  # most texts of an annotation unit; 0: all of a batch in one unit
    fresh = False  # the first unit of every batch empties the prefix cache

    def __init__(self, brief: TaskBrief) -> None:
        self._key, self._settings = brief.key, brief.settings
        self.counts = ClassCounts(brief.task.label_names, brief.settings.generate)
        self.finished = 0  # batches
        self.issued = 0  # batches

    @property
    def is_done(self) -> bool:
        """Whether no batch is in progress. After `next_batches`, nothing is then missing, except in stalled classes."""
        return self.finished == self.issued

    def next_batches(self, biases: Biases) -> list[DrawBatch]:
        """Return further batches to process now. Call this at the start and after every `finish`."""
        raise NotImplementedError

    def finish(self, records: Sequence[DrawRecord]) -> None:
        """Count the next batch in order. Raises ValueError if a record belongs to another batch."""
        if any(record.number != self.finished for record in records):
            raise ValueError(f"batch {records[0].number} cannot be finished before batch {self.finished}")
        self.finished += 1
        self.issued = max(self.issued, self.finished)  # a batch of an earlier process was not issued in this one
        self.counts.add(records)


class RoundPlan(DrawPlan):
    """Rounds for all unfinished classes; the next one is planned when the previous one is judged."""

    def __init__(
        self, brief: TaskBrief, *, drawn: Mapping[int, Sequence[Candidate]] | None = None, spread: bool = False
    ) -> None:
        """``drawn``: rounds that exist and need only annotation. ``spread``: over many engines, in small units."""
        super().__init__(brief)
        self._drawn, self._spread, self._units = drawn or {}, spread, 0
        self.texts_per_unit = SPREAD_TEXTS if spread else 0
        self.fresh = not spread

    def next_batches(self, biases: Biases) -> list[DrawBatch]:
        counts = self.counts
        labels = [label for label in counts.missing if not counts.has_stalled(label)]
        if not labels or not self.is_done:
            return []
        number = self.issued
        self.issued += 1
        if number in self._drawn:
            return [DrawBatch(number, (), tuple(self._drawn[number]))]
        slices = round_slices(self._settings, number, {label: self._draws(label) for label in labels}, biases)
        parts: list[tuple[DrawSlice, ...]] = [slices]
        if self._spread:
            parts = [(part,) for draw_slice in slices for part in split_slice(draw_slice, SPREAD_DRAWS)]
        units = tuple(
            DrawUnit(
                brief=self._key,
                number=self._units + position,
                batch=number,
                slices=part,
                fresh=self.fresh,
                reports=0 if self._spread else REPORTS,
            )
            for position, part in enumerate(parts)
        )
        self._units += len(units)
        return [DrawBatch(number, units)]

    def _draws(self, label: str) -> int:
        count, most = self.counts.by_label[label], self._settings.generate.draws_per_round
        if not count.drawn or draws_whole_rounds(self._settings, len(self.counts.by_label)):
            return first_draws(self._settings)
        return min(most, max(FEWEST_DRAWS, math.ceil(SPARE_DRAWS * self.counts.missing[label] / count.acceptance)))


class AheadPlan(DrawPlan):
    """Units of up to ``draws_per_round`` texts of one class, ``ahead`` of them before the first is finished."""

    annotates_in_place = True

    def __init__(self, brief: TaskBrief) -> None:
        super().__init__(brief)
        generate, classes = brief.settings.generate, len(self.counts.by_label)
        self._task = brief.task.name
        self.ahead = max(
            UNITS_AHEAD, 2 * classes, generate.per_class * classes // generate.draws_per_round // SHARE_AHEAD
        )
        self._first_draws = min(generate.draws_per_round, max(FEWEST_DRAWS, FIRST_DRAWS // classes))
        self._planned: dict[int, tuple[str, int]] = {}  # class and draws of the batches in progress

    def next_batches(self, biases: Biases) -> list[DrawBatch]:
        batches = []
        while self.issued - self.finished < self.ahead:
            missing = {label: self._missing(label, count) for label, count in self.counts.by_label.items()}
            label = max(missing, key=missing.__getitem__)
            if missing[label] <= 0:
                break
            count = self.counts.by_label[label]
            draws = self._draws(count, missing[label])
            part = class_slice(self._settings, self._task, label, count.issued, draws, biases(label))
            unit = in_place_unit(self._key, self.issued, part)
            count.issued += draws
            self._planned[self.issued] = label, draws
            self.issued += 1
            batches.append(DrawBatch(unit.number, (unit,)))
        return batches

    def finish(self, records: Sequence[DrawRecord]) -> None:
        """Count the next batch in order; if it is not the planned one, drop the batches in progress.

        This happens with a corpus of an earlier version, or if a shard was made again with other texts. The next
        batches then begin after all existing draws, so that no text gets the id of another.
        """
        number, planned = self.finished, [(record.label, record.draws) for record in records]
        super().finish(records)
        if [self._planned.pop(number, None)] != planned:
            self._planned.clear()
            self.issued = self.finished
            for count in self.counts.by_label.values():
                count.issued = count.drawn

    def _missing(self, label: str, count: ClassCount) -> float:
        """Return the texts that will be missing when all issued units are finished, by the class's acceptance rate."""
        settings = self.counts.settings
        if self.counts.has_stalled(label) or count.issued >= settings.most_candidates:
            return 0.0
        return settings.per_class - count.kept - count.acceptance * (count.issued - count.drawn)

    def _draws(self, count: ClassCount, missing: float) -> int:
        settings = self.counts.settings
        draws = max(FEWEST_DRAWS, math.ceil(missing / count.acceptance))
        most = settings.draws_per_round if count.issued else self._first_draws
        return min(draws, most, settings.most_candidates - count.issued)


class AnnotationPlan(DrawPlan):
    """Annotation of existing texts, `ANNOTATION_BATCH` at a time; nothing is generated."""

    keeps_all = True

    def __init__(self, brief: TaskBrief, texts: Sequence[Candidate], *, spread: bool = False) -> None:
        super().__init__(brief)
        self._texts = texts
        self.texts_per_unit = SPREAD_TEXTS if spread else 0
        self.fresh = not spread

    def next_batches(self, biases: Biases) -> list[DrawBatch]:
        number = self.issued
        texts = self._texts[number * ANNOTATION_BATCH : (number + 1) * ANNOTATION_BATCH]
        if not texts or not self.is_done:
            return []
        self.issued += 1
        return [DrawBatch(number, (), tuple(texts))]


def draws_whole_rounds(settings: RunSettings, num_labels: int) -> bool:
    """Return whether later rounds are full for any class: if the first is full, and has few draws over all classes."""
    most = settings.generate.draws_per_round
    return first_draws(settings) == most and most * num_labels <= MOST_WHOLE_DRAWS


def first_draws(settings: RunSettings) -> int:
    """Return the draws per class of the first round."""
    judged = settings.annotate.annotator != "none" and not settings.learns_soft
    needed = math.ceil((JUDGED_DRAWS if judged else WELL_FORMED_DRAWS) * settings.generate.per_class)
    return min(settings.generate.draws_per_round, needed)


def round_slices(
    settings: RunSettings, number: int, draws: Mapping[str, int], biases: Biases = lambda label: ()
) -> tuple[DrawSlice, ...]:
    """Return the slices of a round; ``draws``: by class. Seed, round and class determine prompts and random numbers."""
    first = dict(zip(draws, accumulate(draws.values(), initial=0), strict=False))
    seed = random.Random(f"{settings.seed}/{number}").getrandbits(31)
    own_seeds = settings.variety.suppress > 0  # classes then have different sampling parameters
    return tuple(
        DrawSlice(
            label=label,
            draws=count,
            stream=f"{settings.seed}/{number}/{label}",
            stream_draws=count,
            id_prefix=f"r{number:02d}-",
            id_digits=6,
            first_id=first[label],
            seed=None if own_seeds else seed,
            seed_offset=0 if own_seeds else first[label],
            bias=biases(label),
        )
        for label, count in draws.items()
    )


def class_slice(
    settings: RunSettings,
    task: str,
    label: str,
    first_draw: int,
    draws: int,
    bias: tuple[tuple[str, float], ...] = (),
) -> DrawSlice:
    """Return a slice of ``draws`` texts of a class, from the class's draw number ``first_draw`` on."""
    stream = f"{settings.seed}/{task}/{label}/{first_draw}"
    return DrawSlice(
        label=label,
        draws=draws,
        stream=f"{stream}/shots",
        stream_draws=draws,
        id_prefix=f"{label}-",
        id_digits=8,
        first_id=first_draw,
        seed=random.Random(stream).getrandbits(31),
        bias=bias,
    )


def in_place_unit(key: str, number: int, part: DrawSlice) -> DrawUnit:
    """Return a unit that is a batch by itself, and is annotated by the worker that generates it."""
    return DrawUnit(brief=key, number=number, batch=number, slices=(part,), annotates=True, by_shots=True)


def split_slice(draw_slice: DrawSlice, most: int) -> list[DrawSlice]:
    """Return a slice in parts of at most ``most`` draws: the same requests with the same seeds."""
    return [
        msgspec.structs.replace(
            draw_slice,
            draws=min(most, draw_slice.draws - start),
            skip=start,
            first_id=draw_slice.first_id + start,
            seed_offset=draw_slice.seed_offset + start,
        )
        for start in range(0, draw_slice.draws, most)
    ]


def rounds_for(missing: float, rate: float, first: int, most: int, *, equal_rounds: bool) -> list[int]:
    """Return the expected draws of each round of `RoundPlan` until a class has ``missing`` more texts.

    ``rate``: acceptance rate. ``first``: draws of the first round. ``most``: of a later one. ``equal_rounds``: all have
    as many as the first.
    """
    rate, rounds = max(rate, 0.01), list[int]()
    while missing > (0.1 * rate * most if rounds else 0):
        rounds.append(min(most, math.ceil(missing / rate)) if rounds and not equal_rounds else first)
        missing -= rate * rounds[-1]
    return rounds
