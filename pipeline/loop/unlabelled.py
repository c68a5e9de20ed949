"""The user's own texts as candidates, with the same filters and annotators as generated ones.

The files are those of rounds (`pipeline.loop.rounds`); a round is a batch of texts.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from fourshot.pipeline.events import Event
from fourshot.pipeline.loop.counts import ClassCounts
from fourshot.pipeline.loop.ledger import Ledger
from fourshot.pipeline.loop.plan import ANNOTATION_BATCH, AnnotationPlan
from fourshot.pipeline.loop.progress import ProgressReporter
from fourshot.pipeline.loop.rounds import Round, RoundSink, finished_pairs
from fourshot.pipeline.loop.units import TaskBrief
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import WorkFolder


def as_candidates(texts: Sequence[tuple[int, str]]) -> tuple[Candidate, ...]:
    """Return candidates from (line, text) pairs of the user's file, in their order."""
    return tuple(
        Candidate(
            id=f"u{line:08d}",
            text=text,
            label="",
            round=number // ANNOTATION_BATCH,
            prompt_hash="",
            shots=(),
            num_tokens=0,
            cumulative_logprob=0.0,
            finish_reason="stop",
            origin="user",
        )
        for number, (line, text) in enumerate(texts)
    )


class UnlabelledSink(RoundSink):
    """Writes the user's texts, with a verdict on each, into their folder."""

    _draws = False

    def __init__(
        self,
        folder: WorkFolder,
        task: Task,
        shots: Sequence[Example],
        settings: RunSettings,
        texts: Sequence[Candidate],
        **more: Any,
    ) -> None:
        """``more``: keyword arguments of `RoundSink`."""
        variety = msgspec.structs.replace(settings.variety, suppress=0.0)  # nothing is generated here
        settings = msgspec.structs.replace(settings, variety=variety, allow_short=True)
        super().__init__(folder, task, shots, settings, **more)
        self._texts = texts
        self._kept = Counter[str]()  # texts so far, by predicted label

    def _plan(self, brief: TaskBrief) -> AnnotationPlan:
        return AnnotationPlan(brief, self._texts, spread=self._spread)

    def _reporter(self, ledger: Ledger, finished: Sequence[Round]) -> ProgressReporter:
        done = sum(record.num_candidates for record in finished)
        for record in finished:
            self._kept.update(record.kept)
        return ProgressReporter(self._on_event, "annotate", "texts", done, len(self._texts))

    def _report_round(self, counts: ClassCounts, record: Round) -> None:
        self._progress.add(record.num_candidates - sum(record.kept.values()))  # those kept are counted already
        self._kept.update(record.kept)
        kept = ", ".join(f"{name} {self._kept[name]}" for name in self._task.label_names if self._kept[name]) or "none"
        message = f"{self._task.name}, your texts"
        self._progress.report(message, f"kept so far: {kept}", figures={"filter_s": record.filter_s})

    def finish(self, ledger: Ledger) -> None:
        """Report how many texts were kept, and rejected by reason."""
        super().finish(ledger)
        reasons = Counter(verdict.reason for _, verdict in finished_pairs(self.folder))
        kept = reasons.pop("kept", 0)
        rejections = "".join(f", {number} {reason.replace('_', ' ')}" for reason, number in reasons.most_common())
        self._on_event(Event(stage="annotate", message=f"{self._task.name}, your texts: {kept} kept{rejections}"))
