"""The ledger of one task: results arrive as workers finish them, and are judged in the order of the batches.

So the kept texts do not depend on which worker was faster. A new ledger that is given everything on disk
(`Ledger.restore`) has the same state as the one that wrote it.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from fourshot.engine import calibration as calibrations
from fourshot.engine.calibration import CONTENT_FREE, NONE, Calibration
from fourshot.engine.errors import FourshotError, InputError
from fourshot.pipeline.loop.counts import ClassCounts, DrawRecord, records_of
from fourshot.pipeline.loop.plan import DrawBatch, DrawPlan
from fourshot.pipeline.loop.units import AnnotationUnit, Draw, DrawFault, DrawUnit, TaskBrief, Unit, UnitResult
from fourshot.pipeline.synthesis.annotate import judge
from fourshot.pipeline.synthesis.filters import TextFilter
from fourshot.pipeline.synthesis.overuse import WordUse
from fourshot.pipeline.synthesis.types import Reason, Verdict


class JudgedBatch(NamedTuple):
    """A judged batch, with one verdict for each of its texts, in the order drawn."""

    number: int
    draws: tuple[Draw, ...]
    verdicts: tuple[Verdict, ...]
    faults: tuple[DrawFault, ...]
    records: tuple[DrawRecord, ...]  # by class

    @property
    def kept(self) -> list[tuple[Draw, Verdict]]:
        return [(draw, verdict) for draw, verdict in zip(self.draws, self.verdicts, strict=True) if verdict.kept]


class _Compared(NamedTuple):
    """A batch whose texts have been filtered, and whose passed texts are being annotated."""

    reasons: Sequence[Reason | None]  # of every text; None: it passed
    passed: Sequence[Draw]
    units: Sequence[int]  # numbers of the annotation units with the passed texts


class Ledger:
    """Judges the batches of one task. Call `restore` for each batch that is on disk, then `start`, then the others."""

    def __init__(
        self,
        brief: TaskBrief,
        plan: DrawPlan,
        *,
        test_texts: Iterable[str] = (),
        calibration: Calibration | None = None,
        folds: Mapping[str, int] | None = None,
    ) -> None:
        """``calibration``: as fitted by an earlier process; None: not yet. ``folds``: of candidates, by their ids."""
        self.brief, self.plan = brief, plan
        settings = brief.settings
        self._has_annotator = settings.annotate.annotator != "none"
        self._mode = settings.annotate.calibration if settings.annotate.annotator == "icl" else "none"
        self.calibration = NONE if self._mode == "none" else calibration
        # A run that learns probabilities gains from every annotated text; a corpus has a given size.
        self._keeps_all = plan.keeps_all or (settings.learns_soft and not plan.annotates_in_place)
        words = settings.max_text_words
        self._filter = TextFilter(brief.shots, settings.filter, test_texts, task=brief.task, max_text_words=words)
        strength, labels = settings.variety.suppress, brief.task.label_names
        self._use = {label: WordUse(brief.task, brief.shots, label, strength) for label in (labels if strength else ())}
        self._folds = folds or {}
        self._has_started = False
        self._units: deque[Unit] = deque()  # not given to a worker yet
        self._batches: dict[int, DrawBatch] = {}  # not judged yet
        self._results: dict[int, UnitResult] = {}  # of draw units, by number
        self._scores: dict[int, tuple[tuple[float, ...], ...]] = {}  # of annotation units, by number
        self._num_annotation_units = 0
        self._fresh_annotation = False  # the next annotation unit empties the prefix cache
        self._calibration_units: Sequence[int] = ()  # numbers of the annotation units that the calibration is fitted on
        self._compared: _Compared | None = None

    @property
    def counts(self) -> ClassCounts:
        return self.plan.counts

    @property
    def is_done(self) -> bool:
        return self.plan.is_done

    def restore(
        self, records: Sequence[DrawRecord], compared: Iterable[str], kept: Mapping[str, Sequence[str]]
    ) -> None:
        """Restore the next batch, as judged by an earlier process.

        ``compared``: its texts that later ones are compared with. ``kept``: its kept texts, by class.
        """
        self._plan_batches()
        self._batches.pop(self.plan.finished, None)
        for text in compared:
            self._filter.remember(text)
        self._finish(records, kept)

    def remember(self, kept: Mapping[str, Sequence[str]]) -> None:
        """Record kept texts, by class, that belong to no batch of this plan; its texts are compared with them."""
        for text in (text for texts in kept.values() for text in texts):
            self._filter.remember(text)
        for label, use in self._use.items():
            use.add(kept.get(label, ()))

    def start(self) -> list[JudgedBatch]:
        """Plan the batches after the restored ones, and return those that can be judged already."""
        self._plan_batches()
        self._batches = {n: batch for n, batch in self._batches.items() if n < self.plan.issued}  # without dropped ones
        self._has_started = True
        self._units += [unit for batch in self._batches.values() for unit in batch.units]
        return self._advance()

    def next_unit(self) -> Unit | None:
        """Return the next unit for a worker; None if more will come later, or the ledger is done."""
        return self._units.popleft() if self._units else None

    def take(self, result: UnitResult) -> list[JudgedBatch]:
        """Add a result, and return the batches that can be judged now, in order. Raises the error of a failed unit."""
        unit, in_place = result.unit, self.plan.annotates_in_place
        if isinstance(unit, DrawUnit):
            if result.failure:
                raise result.failure.error()
            if result.faults and not in_place:
                fault = result.faults[0]
                raise FourshotError(fault.message) if fault.step == "engine" else InputError(fault.message)
            self._results[unit.number] = result
        elif result.failure is None:
            self._scores[unit.number] = result.scores
        elif in_place and isinstance(result.failure.error(), InputError):
            self.calibration = NONE  # the engine rejects content-free texts, and will reject all others, too
        else:
            raise result.failure.error()
        return self._advance()

    def drawing(self) -> tuple[int, int, int]:
        """Return number, finished draws and total draws of the batch in progress."""
        units = self._batches[self.plan.finished].units
        done = sum(unit.size for unit in units if unit.number in self._results)
        return self.plan.finished, done, sum(unit.size for unit in units)

    def _plan_batches(self) -> None:
        for batch in self.plan.next_batches(self._biases):
            self._batches[batch.number] = batch
            if self._has_started:
                self._units += batch.units

    def _biases(self, label: str) -> tuple[tuple[str, float], ...]:
        return self._use[label].biases() if self._use else ()

    def _finish(self, records: Sequence[DrawRecord], kept: Mapping[str, Sequence[str]]) -> None:
        """Finish a batch; the words of its kept texts affect the units planned from now on, not earlier ones."""
        if self._use:
            for label, texts in kept.items():
                self._use[label].add(texts)
        self.plan.finish(records)
        self._plan_batches()

    def _advance(self) -> list[JudgedBatch]:
        judged = []
        judge_next = self._judge_annotated if self.plan.annotates_in_place else self._judge_drawn
        while batch := self._batches.get(self.plan.finished):
            if not all(unit.number in self._results for unit in batch.units) or (outcome := judge_next(batch)) is None:
                break
            judged.append(outcome)
            del self._batches[batch.number]
            for unit in batch.units:
                del self._results[unit.number]
            kept: dict[str, list[str]] = {}
            for draw, _ in outcome.kept:
                kept.setdefault(draw.candidate.label, []).append(draw.candidate.text)
            self._finish(outcome.records, kept)
        return judged

    def _judge_annotated(self, batch: DrawBatch) -> JudgedBatch | None:
        """Judge texts that workers annotated; None before calibration. Later texts are compared with the kept ones."""
        draws = self._draws(batch)
        if not self._is_calibrated(draws):
            return None
        well_formed = [draw for draw in draws if draw.reason is None]
        verdicts = self._verdicts(well_formed, [draw.scores for draw in well_formed])
        faults = [fault for unit in batch.units for fault in self._results[unit.number].faults]
        return self._judged(batch, draws, [draw.reason for draw in draws], verdicts, faults)

    def _judge_drawn(self, batch: DrawBatch) -> JudgedBatch | None:
        """Filter texts, have passed ones annotated, then judge; None until then. All that passed are remembered."""
        draws = self._draws(batch)
        if self._compared is None:
            self._fresh_annotation = self.plan.fresh and not batch.units
            reasons = [self._filter.check(draw.candidate) for draw in draws]
            passed = [draw for draw, reason in zip(draws, reasons, strict=True) if reason is None]
            self._is_calibrated(passed or draws)  # the texts that it is fitted on are annotated first
            units: Sequence[int] = ()
            if passed and self._has_annotator:
                candidates = [draw.candidate for draw in passed]
                folds = [self._folds.get(candidate.id) for candidate in candidates] if self._folds else []
                units = self._issue([c.text for c in candidates], folds, [c.label for c in candidates])
            self._compared = _Compared(reasons, passed, units)
        if not self._is_calibrated(self._compared.passed or draws) or not self._are_annotated(self._compared.units):
            return None
        compared, self._compared = self._compared, None
        scores = [row for number in compared.units for row in self._scores.pop(number)]
        return self._judged(batch, draws, compared.reasons, self._verdicts(compared.passed, scores), ())

    def _draws(self, batch: DrawBatch) -> tuple[Draw, ...]:
        drawn = [draw for unit in batch.units for draw in self._results[unit.number].draws]
        return (*(Draw(candidate=candidate) for candidate in batch.drawn), *drawn)

    def _issue(self, texts: Sequence[str], folds: Sequence[int | None] = (), intended: Sequence[str] = ()) -> range:
        """Create annotation units for ``texts``, and return their numbers."""
        most, first = self.plan.texts_per_unit or len(texts), self._num_annotation_units
        for start in range(0, len(texts), most):
            part = slice(start, start + most)
            unit = AnnotationUnit(
                brief=self.brief.key,
                number=self._num_annotation_units,
                texts=tuple(texts[part]),
                folds=tuple(folds[part]),
                intended=tuple(intended[part]),
                fresh=self._fresh_annotation,
            )
            self._units.append(unit)
            self._num_annotation_units += 1
            self._fresh_annotation = False
        return range(first, self._num_annotation_units)

    def _are_annotated(self, numbers: Sequence[int]) -> bool:
        return all(number in self._scores for number in numbers)

    def _is_calibrated(self, draws: Sequence[Draw]) -> bool:
        """Fit the calibration once its texts are annotated, content-free ones or the first batch; False until then."""
        if self.calibration is not None:
            return True
        if self.plan.annotates_in_place and self._mode == "batch":
            units = range(len(self.brief.task.labels))
            if not all(number in self._results for number in units):
                return False
            draws = [draw for number in units for draw in self._results[number].draws if draw.scores]
            scores = [draw.scores for draw in draws]
        else:
            if not self._calibration_units:
                texts = [draw.candidate.text for draw in draws]
                self._calibration_units = self._issue(CONTENT_FREE if self._mode == "contextual" else texts)
            if not self._are_annotated(self._calibration_units):
                return False
            scores = [row for number in self._calibration_units for row in self._scores.pop(number)]
        if not scores:
            self.calibration = NONE
        elif self._mode == "contextual":
            self.calibration = calibrations.contextual(np.array(scores))
        else:
            drawn = Counter(draw.candidate.label for draw in draws)
            # At least 1: the share of a class without a well-formed text so far is small rather than zero.
            shares = [max(1, drawn[name]) for name in self.brief.task.label_names]
            self.calibration = calibrations.batch(np.array(scores), shares)
        return True

    def _verdicts(self, draws: Sequence[Draw], scores: Sequence[tuple[float, ...]]) -> dict[str, Verdict]:
        """Return the verdicts by the annotators, by candidate id."""
        candidates, probabilities = [draw.candidate for draw in draws], None
        if self._has_annotator and candidates:
            assert self.calibration is not None
            probabilities = np.exp(calibrations.apply(self.calibration, np.array(scores)))
        return {v.candidate_id: v for v in judge(self.brief.task, candidates, probabilities, self.brief.settings)}

    def _judged(
        self,
        batch: DrawBatch,
        draws: tuple[Draw, ...],
        reasons: Sequence[Reason | None],
        verdict_of: Mapping[str, Verdict],
        faults: Sequence[DrawFault],
    ) -> JudgedBatch:
        """Return the batch with one verdict per text, in order. Good texts of a class are kept until it has enough.

        All good ones are kept by a plan that keeps all, and in a run that learns probabilities.
        """
        room = Counter({label: self.counts.per_class - count.kept for label, count in self.counts.by_label.items()})
        verdicts = []
        for draw, reason in zip(draws, reasons, strict=True):
            candidate = draw.candidate
            if reason is None and self.plan.annotates_in_place:
                reason = self._filter.beside_others(candidate.text)
            if reason is not None:
                verdicts.append(Verdict(candidate_id=candidate.id, kept=False, reason=reason))
                continue
            verdict = verdict_of[candidate.id]
            if verdict.kept and room[candidate.label] <= 0 and not self._keeps_all:
                verdict = msgspec.structs.replace(verdict, kept=False, reason="surplus")
            room[candidate.label] -= verdict.kept
            if verdict.kept and self.plan.annotates_in_place:
                self._filter.remember(candidate.text)
            verdicts.append(verdict)
        records = records_of(batch.number, self.brief.task.label_names, draws, verdicts, faults)
        return JudgedBatch(batch.number, draws, tuple(verdicts), tuple(faults), records)
