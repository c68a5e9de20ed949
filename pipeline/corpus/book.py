"""One task of a corpus: results come in as workers finish them, and are judged in the order of the units.

What is kept thus does not depend on which worker was faster. Duplicates are told by the kept texts alone, which are on
disk: a book that is opened again is as it was.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec
import numpy as np

from fourshot.engine import calibration as calibrations
from fourshot.engine.calibration import NONE, Calibration
from fourshot.engine.models import ResolvedModel
from fourshot.pipeline.corpus.plan import Plan, UnitRecord
from fourshot.pipeline.corpus.rows import Row, row_of
from fourshot.pipeline.corpus.units import RowFault, TaskBrief, Unit, UnitResult
from fourshot.pipeline.synthesis.annotate import judge, surplus
from fourshot.pipeline.synthesis.filters import TextFilter
from fourshot.pipeline.synthesis.overuse import WordUse
from fourshot.pipeline.synthesis.types import Candidate, Verdict


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit adds to a corpus."""

    record: UnitRecord
    rows: tuple[Row, ...]
    faults: tuple[RowFault, ...]


class Book:
    """Judges the units of one task. ``calibration`` is known from the task's first units on."""

    def __init__(
        self,
        brief: TaskBrief,
        model: ResolvedModel,
        test_texts: Iterable[str] = (),
        records: Sequence[UnitRecord] = (),
        kept_texts: Iterable[str] = (),
        calibration: Calibration | None = None,
    ) -> None:
        """``records``, ``kept_texts`` and ``calibration``: what is on disk of an earlier call."""
        self.brief, self._model = brief, model
        self.plan = Plan(brief.task.name, brief.task.label_names, brief.settings.generate)
        self.calibration = calibration if calibration is not None else self._known_calibration()
        self._filter = TextFilter(brief.shots, brief.settings.filter, test_texts, task=brief.task)
        strength = brief.settings.variety.suppress
        self._use = {
            name: WordUse(brief.shots, name, strength) for name in (brief.task.label_names if strength else ())
        }
        self._results: dict[int, UnitResult] = {}  # that wait for an earlier one
        self._units: dict[int, Unit] = {}  # that nobody was given yet
        self._add_units()
        texts = iter(kept_texts)
        for record in records:
            self._units.pop(record.number)
            kept = list(islice(texts, record.kept))
            for text in kept:
                self._filter.remember(text)
            self._finish(record, kept)

    @property
    def is_done(self) -> bool:
        return self.plan.is_done

    def next_unit(self) -> Unit | None:
        """The next one to be given to a worker, or None: there will be more, or the book is done."""
        return self._units.pop(next(iter(self._units))) if self._units else None

    def take(self, result: UnitResult) -> list[Entry]:
        """Put a result in; gives back what can be judged now, in order."""
        self._results[result.unit.number] = result
        entries = []
        while self.plan.finished in self._results and self._is_calibrated():
            entries.append(self._judge(self._results.pop(self.plan.finished)))
            self._finish(entries[-1].record, [row.text for row in entries[-1].rows])
        return entries

    def _finish(self, record: UnitRecord, kept: Sequence[str]) -> None:
        """Take note of a unit. Words of its texts count for the units that come, not for those that were asked for."""
        if self._use:
            self._use[record.label].add(kept)
        self.plan.finish(record)
        self._add_units()

    def _add_units(self) -> None:
        for unit in self.plan.next_units():
            bias = self._use[unit.label].biases() if self._use else ()
            self._units[unit.number] = msgspec.structs.replace(unit, bias=bias)

    def _judge(self, result: UnitResult) -> Entry:
        verdicts = self._verdicts(result)
        count = self.plan.classes[result.unit.label]
        room = self.brief.settings.generate.per_class - count.kept
        rows, reasons = list[Row](), Counter[str]()
        for draw in result.draws:
            reason = draw.reason or self._filter.beside_others(draw.candidate.text)
            if reason is not None:
                reasons[reason] += 1
                continue
            verdict = verdicts[draw.candidate.id]
            if verdict.kept and len(rows) >= room:
                verdict = surplus(verdict)
            reasons[verdict.reason] += 1
            if verdict.kept:
                self._filter.remember(draw.candidate.text)
                rows.append(row_of(result.unit.task, draw, verdict, self._model.name, self._model.revision))
        record = UnitRecord(
            number=result.unit.number,
            label=result.unit.label,
            draws=result.unit.draws,
            passed=reasons["kept"] + reasons["surplus"],
            kept=len(rows),
            rejected={reason: n for reason, n in sorted(reasons.items()) if reason != "kept"},
            faults=len(result.faults),
            output_tokens=sum(draw.candidate.num_tokens for draw in result.draws),
        )
        return Entry(record=record, rows=tuple(rows), faults=result.faults)

    def _verdicts(self, result: UnitResult) -> dict[str, Verdict]:
        """By candidate id, of those that were read."""
        read = [draw for draw in result.draws if draw.reason is None]
        annotator = None
        if self.brief.settings.annotate.annotator != "none" and read:
            assert self.calibration is not None
            logs = calibrations.apply(self.calibration, np.array([draw.scores for draw in read]))
            annotator = _Answered(np.exp(logs))
        candidates = [draw.candidate for draw in read]
        judged = judge(self.brief.task, annotator, candidates, self.brief.settings.annotate)
        return {verdict.candidate_id: verdict for verdict in judged}

    def _known_calibration(self) -> Calibration | None:
        """The calibration that needs no texts to be fitted, if that is the one that is asked for."""
        annotate = self.brief.settings.annotate
        return NONE if annotate.annotator != "icl" or annotate.calibration == "none" else None

    def _is_calibrated(self) -> bool:
        """Fit the calibration as soon as it can be: for ``batch``, when the first unit of every class is there."""
        if self.calibration is not None:
            return True
        if self.brief.settings.annotate.calibration == "contextual":
            said = self._results[0].content_free
            self.calibration = calibrations.contextual(np.array(said)) if said else NONE
            return True
        names = self.brief.task.label_names
        if not all(number in self._results for number in range(len(names))):
            return False
        first = [draw for number in range(len(names)) for draw in self._results[number].draws if draw.scores]
        # At least one: of a class that has no well-formed text yet, the share is small, not nothing.
        drawn = [max(1, sum(draw.candidate.label == name for draw in first)) for name in names]
        self.calibration = calibrations.batch(np.array([draw.scores for draw in first]), drawn) if first else NONE
        return True


class _Answered:
    """An annotator that has read already."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self._probabilities = probabilities

    def probabilities(self, candidates: Sequence[Candidate]) -> np.ndarray:
        return self._probabilities
