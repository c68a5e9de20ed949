"""Write one task of a corpus: judged texts become rows, and rows become shards."""

import time
from collections.abc import Callable, Sequence
from itertools import islice

from fourshot.engine.calibration import Calibration
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import RunFolderError
from fourshot.pipeline.corpus.folder import SHOTS_FILE, CorpusFolder
from fourshot.pipeline.corpus.rows import CorpusRow, row_of
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.corpus.shards import ShardRecord
from fourshot.pipeline.loop.counts import ClassCounts, DrawRecord
from fourshot.pipeline.loop.ledger import JudgedBatch, Ledger
from fourshot.pipeline.loop.plan import AheadPlan
from fourshot.pipeline.loop.progress import ProgressReporter
from fourshot.pipeline.loop.units import DrawFault, TaskBrief, UnitProgress, UnitResult
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.synthesis.prompt_style import STYLE_FILE
from fourshot.pipeline.synthesis.prompts import PromptStyle
from fourshot.pipeline.task import Example
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.work_folder import MANIFEST_FILE

SHOWN_CLASSES = 2  # in a line of progress, which has no room for more


class ShardSink:
    """Writes the shards of one task."""

    def __init__(
        self,
        folder: CorpusFolder,
        brief: TaskBrief,
        shards: Sequence[ShardRecord],
        model: ResolvedModel,
        settings: CorpusSettings,
        progress: ProgressReporter,
        on_shard: Callable[[], object] = lambda: None,
    ) -> None:
        """``shards``: those on disk. ``progress``: that of all tasks. ``on_shard``: called after each new shard."""
        self._folder, self._brief, self._shards, self._model = folder, brief, shards, model
        self._settings, self._progress, self._on_shard = settings, progress, on_shard
        self._name, self._num_shards, self._has_calibration = brief.task.name, len(shards), bool(shards)
        self._records: list[DrawRecord] = []  # that are not on disk yet, with their rows and faults
        self._rows: list[CorpusRow] = []
        self._faults: list[DrawFault] = []
        self._since_s = 0.0

    def open(self) -> Ledger:
        """Return the ledger, restored from the shards. Later texts are compared with the kept ones on disk."""
        self._ledger = Ledger(
            self._brief,
            AheadPlan(self._brief),
            test_texts=TaskData(self._brief.task, needs_test=False).test_texts,
            calibration=stored_calibration(self._folder, self._name) if self._shards else None,
        )
        texts = self._folder.texts(self._shards)
        for record in (record for shard in self._shards for record in shard.units):
            kept = list(islice(texts, record.kept))
            self._ledger.restore([record], kept, {record.label: kept})
        self._since_s = time.monotonic()  # includes the time of drawing, which a kill would cost too
        return self._ledger

    def report(self, ledger: Ledger, message: UnitResult | UnitProgress) -> None:
        """Add the engine's counters to the progress, and store the attributes that it listed."""
        if isinstance(message, UnitResult):
            self._progress.count(message)
            if message.attributes:
                self._folder.write_attributes(self._name, message.attributes)

    def add(self, ledger: Ledger, judged: Sequence[JudgedBatch]) -> None:
        """Buffer the rows of judged batches until `write` writes their shard, and report the progress."""
        for batch in judged:
            self._records += batch.records
            self._faults += batch.faults
            rows = [row_of(self._brief.task, *pair, self._model.name, self._model.revision) for pair in batch.kept]
            self._rows += rows
            self._progress.add(len(rows))
        if ledger.is_done:  # texts are only missing in classes that have stalled
            self._progress.give_up(sum(ledger.counts.missing.values()))
        if ledger.is_done or self._progress.is_due():
            self._progress.report(self._name, _classes(ledger.counts))

    def write(self, *, only_due: bool = False) -> None:
        """Write all buffered rows as a shard. ``only_due``: only if there are enough, or the last shard is too old."""
        is_due = time.monotonic() - self._since_s >= self._settings.shard_s
        if not self._records or (only_due and not is_due and len(self._rows) < self._settings.rows_per_shard):
            return
        if not self._has_calibration and self._ledger.calibration is not None:
            self._folder.write_calibration(self._name, self._ledger.calibration)
            self._has_calibration = True
        self._folder.add_shard(
            self._name, self._num_shards, self._records, self._rows, self._faults, self._settings.format
        )
        self._records, self._rows, self._faults = [], [], []
        self._num_shards += 1
        self._since_s = time.monotonic()
        self._on_shard()

    def finish(self, ledger: Ledger) -> None:
        """Do nothing: stalled classes are reported together when all tasks are done."""


def stored_calibration(folder: CorpusFolder, task: str) -> Calibration:
    """Return the calibration with which a task's shards were judged. Raises RunFolderError if it is missing."""
    if (calibration := folder.calibration(task)) is None:
        raise _missing(folder, task, "annotator.json")
    return calibration


def check_begun(folder: CorpusFolder, task: str, style: PromptStyle) -> None:
    """Raise RunFolderError if a task has texts, but its manifest, calibration or chosen prompt style is missing."""
    names = (MANIFEST_FILE, "annotator.json", *([STYLE_FILE.name] if style != "plain" else ()))
    missing = [name for name in names if not folder.has(f"tasks/{task}/{name}")]
    if missing and any(shard.task == task and shard.rows for shard in folder.journal()):
        raise _missing(folder, task, missing[0])


def check_shots(folder: CorpusFolder, task: str, shots: Sequence[Example]) -> None:
    """Raise RunFolderError if a task's texts were not drawn from ``shots``, to which its rows refer by number.

    ``shots`` are those in the folder or, if they are missing there, drawn again.
    """
    if folder.shots_hash(task) in ("", value_hash(shots)) or task not in folder.drawn_tasks:
        return
    name = f"tasks/{task}/{SHOTS_FILE}"
    if not folder.has(name):
        raise _missing(folder, task, SHOTS_FILE)
    raise RunFolderError(
        f"{folder.path}/{name} was changed after texts were generated from it, and their rows refer to its shots by "
        "number. Restore it, or generate the task's texts again in another folder (--out)."
    )


def _missing(folder: CorpusFolder, task: str, name: str) -> RunFolderError:
    return RunFolderError(
        f"{folder.path}/tasks/{task}/{name} is missing; the texts in data/{task} were generated from it. Restore it, "
        "or generate the task's texts again in another folder (--out)."
    )


def replayed(brief: TaskBrief, shards: Sequence[ShardRecord]) -> AheadPlan:
    """Return the plan of a task as it is after the units in its shards."""
    plan = AheadPlan(brief)
    plan.next_batches(lambda label: ())
    for record in (record for shard in shards for record in shard.units):
        plan.finish([record])
        plan.next_batches(lambda label: ())
    return plan


def _classes(counts: ClassCounts) -> str:
    """Return a line with the kept and drawn texts of the slowest classes, and a forecast for the slowest one."""
    missing = {label: (counts.per_class - count.kept) / count.acceptance for label, count in counts.by_label.items()}
    slowest = sorted(missing, key=missing.__getitem__, reverse=True)
    shown = [(label, counts.by_label[label]) for label in slowest[:SHOWN_CLASSES]]
    parts = [f"{label} {count.kept} kept of {count.drawn} drawn" for label, count in shown]
    if len(slowest) > SHOWN_CLASSES:
        parts.append(f"{len(slowest) - SHOWN_CLASSES} more")
    if forecast := counts.forecast():
        parts.append(forecast)
    return ", ".join(parts)
