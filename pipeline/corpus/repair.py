"""Repair damaged shards: detect them by hash and number of rows, and repeat their units from the journal.

A unit is determined by its own fields, so it has the same prompts, seeds and ids as before. The new texts are judged
with all intact rows in place, and a class keeps no more of them than it lacks.
"""

from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import RunFolderError
from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.rows import row_of
from fourshot.pipeline.corpus.shards import ShardRecord
from fourshot.pipeline.corpus.sink import stored_calibration
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.loop.counts import DrawRecord
from fourshot.pipeline.loop.ledger import JudgedBatch, Ledger
from fourshot.pipeline.loop.plan import Biases, DrawBatch, DrawPlan, class_slice, in_place_unit
from fourshot.pipeline.loop.progress import ProgressReporter
from fourshot.pipeline.loop.units import DrawFault, TaskBrief, UnitProgress, UnitResult
from fourshot.pipeline.task_data import TaskData


class ShardDamage:
    """The damaged shards found so far in one call."""

    def __init__(self, files: CorpusFolder, on_event: OnEvent) -> None:
        self._files, self._on_event = files, on_event
        self.faults: dict[str, str] = {}  # file -> its damage
        self._has_told_unhashed = False

    def find_damage(self, shards: Mapping[str, Sequence[ShardRecord]], named: Collection[str]) -> dict[str, set[str]]:
        """Return task -> files of its damaged shards, and report each of them.

        ``named``: the tasks whose shards can be repaired. Raises RunFolderError if a shard of another task is damaged,
        or one that was already repaired in this call.
        """
        written_shards = [shard for of_task in shards.values() for shard in of_task if shard.file]
        unhashed = sum(not shard.sha256 for shard in written_shards)
        if unhashed and not self._has_told_unhashed:
            self._tell(
                f"{unhashed} of {len(written_shards)} shards were written without a hash: only their rows are counted"
            )
            self._has_told_unhashed = True
        damaged_shards = [(shard, damage) for shard in written_shards if (damage := self._files.damage(shard))]
        for shard, damage in damaged_shards:
            title = f"{self._files.path / shard.file} {damage}"
            if shard.file in self.faults:
                raise RunFolderError(
                    f"{title}, after it was generated again. Check the disk, and whether another program writes there."
                )
            if shard.task not in named:
                raise RunFolderError(
                    f"{title}. Restore it; or also name the task {shard.task} (--tasks), and its texts are generated "
                    "again."
                )
        damaged: dict[str, set[str]] = {}
        for shard, damage in damaged_shards:
            damaged.setdefault(shard.task, set()).add(shard.file)
            self.faults[shard.file] = damage
            self._tell(f"{shard.file} {damage}: its texts are generated again")
        return damaged

    def _tell(self, message: str) -> None:
        self._on_event(Event(stage="corpus", message=message))


class RepairPlan(DrawPlan):
    """The plan to repeat the units of some shards, in their order. A batch has the number of its unit."""

    annotates_in_place = True

    def __init__(self, brief: TaskBrief, shards: Sequence[ShardRecord], files: Collection[str]) -> None:
        """``shards``: all of the task; ``files``: those of the shards to be repaired."""
        super().__init__(brief)
        self._brief = brief
        self._records: list[tuple[DrawRecord, int]] = []  # with the number of the first draw in its class
        drawn: Counter[str] = Counter()
        for shard in shards:
            for record in shard.units:
                if shard.file in files:
                    self._records.append((record, drawn[record.label]))
                else:
                    self.counts.by_label[record.label].kept += record.kept
                drawn[record.label] += record.draws
        self._remaining = deque(record.number for record, _ in self._records)
        self.finished = self._remaining[0]

    @property
    def is_done(self) -> bool:
        return not self._remaining

    def next_batches(self, biases: Biases) -> list[DrawBatch]:
        if self.issued:
            return []
        self.issued = self._remaining[-1] + 1
        settings, name = self._brief.settings, self._brief.task.name
        return [
            DrawBatch(
                record.number,
                (
                    in_place_unit(
                        self._brief.key,
                        record.number,
                        class_slice(settings, name, record.label, first, record.draws, biases(record.label)),
                    ),
                ),
            )
            for record, first in self._records
        ]

    def finish(self, records: Sequence[DrawRecord]) -> None:
        self._remaining.popleft()
        self.finished = self._remaining[0] if self._remaining else self.issued
        self.counts.add(records)


class RepairSink:
    """Rewrites the damaged shards of one task, each as soon as all of its units are judged."""

    def __init__(
        self,
        folder: CorpusFolder,
        brief: TaskBrief,
        shards: Sequence[ShardRecord],
        files: Collection[str],
        model: ResolvedModel,
        progress: ProgressReporter,
    ) -> None:
        """``shards``: all of the task; ``files``: the damaged ones."""
        self._folder, self._brief, self._model, self._progress = folder, brief, model, progress
        self._shards, self._files = shards, files
        self._remaining = deque(shard for shard in shards if shard.file in files)
        self._judged: list[JudgedBatch] = []  # of the first remaining shard

    def open(self) -> Ledger:
        """Return a ledger of the damaged units, which compares their texts with those of intact shards."""
        name = self._brief.task.name
        ledger = Ledger(
            self._brief,
            RepairPlan(self._brief, self._shards, self._files),
            test_texts=TaskData(self._brief.task, needs_test=False).test_texts,
            calibration=stored_calibration(self._folder, name),
        )
        kept: dict[str, list[str]] = {}
        for row in self._folder.rows([shard for shard in self._shards if shard.file not in self._files]):
            kept.setdefault(row.label, []).append(row.text)
        ledger.remember(kept)
        return ledger

    def report(self, ledger: Ledger, message: UnitResult | UnitProgress) -> None:
        """Add the engine's counters to the progress."""
        if isinstance(message, UnitResult):
            self._progress.count(message)

    def add(self, ledger: Ledger, judged: Sequence[JudgedBatch]) -> None:
        """Buffer judged batches, and rewrite their shard once its last batch is judged."""
        task = self._brief.task
        for batch in judged:
            self._judged.append(batch)
            self._progress.add(len(batch.kept))
            if batch.number < self._remaining[0].units[-1].number:
                continue
            rows = [
                row_of(task, *pair, self._model.name, self._model.revision)
                for part in self._judged
                for pair in part.kept
            ]
            faults: list[DrawFault] = [fault for part in self._judged for fault in part.faults]
            records = [record for part in self._judged for record in part.records]
            shard = self._remaining.popleft()
            self._folder.replace_shard(shard, records, rows, faults)
            self._judged = []
            self._progress.report(task.name, f"{shard.file} is generated again, {len(rows)} rows")

    def write(self, *, only_due: bool = False) -> None:
        """Do nothing: `add` writes every shard as soon as it is judged."""

    def finish(self, ledger: Ledger) -> None:
        """Do nothing: texts that are missing now are generated later, with all others."""
