"""A corpus on disk. A shard exists, completely, once its line is in the journal; without one it does not count.

README.md            the data card; `datasets` reads from it which files belong to which task, and their columns
manifest.json        the identity of the corpus: settings, model, format
layout.json          whether prompts that show shots begin with filler; absent otherwise
journal.jsonl        one line per shard: its file, its hash, and the units it covers
data/<task>/         shards of rows
damaged/<task>/      damaged shards as they were found, and files that are not in the journal
errors.jsonl         failed draws, with the reason
tasks/<task>/        the task, its shots, and the annotator's calibration
"""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec

from fourshot.engine.calibration import Calibration
from fourshot.engine.errors import RunFolderError
from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.corpus.manifests import CorpusManifest, TaskManifest
from fourshot.pipeline.corpus.rows import UNREADABLE, CorpusRow, encode_rows, read_rows
from fourshot.pipeline.corpus.settings import Format
from fourshot.pipeline.corpus.shards import READ, ShardRecord
from fourshot.pipeline.loop.counts import DrawRecord, check_records
from fourshot.pipeline.loop.units import DrawFault
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.synthesis.attributes import Attributes
from fourshot.pipeline.synthesis.prompt_style import STYLE_FILE, ChosenStyle
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import MANIFEST_FILE, WorkFolder

JOURNAL_FILE = "journal.jsonl"
ERRORS_FILE = "errors.jsonl"
SHOTS_FILE = "shots.json"
DAMAGED = "damaged"
ANOTHER_TASK = "Use the task as it is in data/{}, or another folder (--out)."  # the remedy
T = TypeVar("T")


class CorpusFolder(WorkFolder):
    """The folder of a corpus, with its shards and the files of its tasks."""

    def check_links(self) -> None:
        """Raise RunFolderError if the folder contains a link, through which files elsewhere would be changed.

        A folder with work of another kind, such as a run, which has links of its own, is reported as such instead.
        """
        if self.has(MANIFEST_FILE):
            self._check_kind(CorpusManifest)
        entries = self.path.iterdir() if self.has(MANIFEST_FILE) else ()
        ours = [entry for entry in entries if not entry.name.startswith(".")]
        links = sorted(place for entry in ours for place in (entry, *entry.rglob("*")) if place.is_symlink())
        if links:
            raise RunFolderError(
                f"{links[0]} is a link, but a corpus is written only inside its own folder. Replace the link with "
                "what it points to, or move the whole corpus: its folder itself may be a link."
            )

    def forget_unstarted(self, manifest: CorpusManifest) -> None:
        """Replace what a start with other settings left, if it gave no texts, such as because its engine failed."""
        if self.is_unstarted(manifest):
            shutil.rmtree(self.path / "tasks", ignore_errors=True)
            self.write(MANIFEST_FILE, manifest)

    def is_unstarted(self, manifest: CorpusManifest) -> bool:
        """Return whether the folder has a start with other settings, but no journal."""
        old, journal = _read_or_none(self, CorpusManifest), self.has(JOURNAL_FILE)
        return bool(old and old.kind == manifest.kind and old.identity() != manifest.identity() and not journal)

    def forget_unstarted_task(self, manifest: TaskManifest) -> None:
        """Remove what was stored for a task whose file was changed after a start, if nothing was drawn for it."""
        if self._is_unstarted_task(manifest):
            self.forget_task(manifest.task.name)

    def forget_task(self, name: str) -> None:
        """Remove what was stored for a task before its first draw: shots, prompt style, attributes."""
        shutil.rmtree(self._of(name).path)

    def _is_unstarted_task(self, manifest: TaskManifest) -> bool:
        old = _read_or_none(self._of(manifest.task.name), TaskManifest)
        return bool(old and old.identity() != manifest.identity() and manifest.task.name not in self.drawn_tasks)

    @cached_property
    def drawn_tasks(self) -> set[str]:
        """The tasks that the journal has draws for. It is read once, not for each of many tasks."""
        return {shard.task for shard in self.journal()}

    def manifest(self) -> CorpusManifest:
        return self.read(MANIFEST_FILE, CorpusManifest)

    def tasks(self) -> list[str]:
        """Return the names of all tasks that were begun, in this call or an earlier one."""
        return sorted(file.parent.name for file in self.path.glob(f"tasks/*/{MANIFEST_FILE}"))

    def task(self, name: str) -> Task:
        return self._of(name).read(MANIFEST_FILE, TaskManifest).task

    def begin(self, manifest: TaskManifest, shots: Sequence[Example]) -> None:
        """Add a task, or continue it. Raises RunFolderError if the corpus has another one with this name."""
        folder = self._of(manifest.task.name)
        manifest = msgspec.structs.replace(manifest, shots=value_hash(shots))
        folder.claim(manifest, remedy=ANOTHER_TASK.format(manifest.task.name))
        if not folder.has(SHOTS_FILE):
            folder.write(SHOTS_FILE, shots)

    def check_begin(self, manifest: TaskManifest) -> None:
        """Raise what `begin` would after `forget_unstarted_task`, without writing anything."""
        if not self._is_unstarted_task(manifest):
            folder, remedy = self._of(manifest.task.name), ANOTHER_TASK.format(manifest.task.name)
            folder.check_claim(manifest, remedy=remedy)

    def journal(self) -> list[ShardRecord]:
        """Read the journal. Raises RunFolderError for invalid lines, and for lines that contradict each other."""
        try:
            lines, last = self.lines(JOURNAL_FILE, ShardRecord), dict[str, int]()
            for line in lines:
                last[line.task] = check_records(line.rows, line.units, last.get(line.task, -1))
            return lines
        except RunFolderError:
            raise
        except ValueError as error:
            raise RunFolderError(
                f"{self.path / JOURNAL_FILE} was changed after it was written: {error}. Restore it, or create the "
                "corpus again in another folder (--out)."
            ) from error

    def resume(self, on_aside: Callable[[list[str]], object] = lambda files: None) -> dict[str, list[ShardRecord]]:
        """Return task -> shards. Lines of no shard are cut off, other files put aside, and temporary ones removed.

        ``on_aside`` is called with the files that were put aside, unless it is the single one that a kill leaves. More
        are a sign that the journal was lost.
        """
        shards = self.journal()
        self.keep_lines(JOURNAL_FILE, len(shards))
        self.keep_lines(ERRORS_FILE, sum(shard.faults for shard in shards))
        known_files = {shard.file for shard in shards if shard.file}
        disk_files = {str(file.relative_to(self.path)) for file in self.path.glob("data/*/*") if READ.match(file.name)}
        strangers = sorted(disk_files - known_files)
        strays = [file for file in strangers if not Path(file).name.startswith(".")]
        counts = Counter(shard.task for shard in shards)
        reported_files = strays
        if [Path(file).stem for file in strays] == [f"{counts[Path(file).parent.name]:06d}" for file in strays[:1]]:
            # The process was killed before the shard's line was in the journal. A shard of a task that was never begun
            # here comes from elsewhere. Since the other may too, neither is removed.
            reported_files = [file for file in strays if Path(file).parent.name not in self.tasks()]
        for file in strays:
            self._put_aside(file)
        for file in strangers:
            (self.path / file).unlink(missing_ok=True)
        if reported_files:
            on_aside(reported_files)
        by_task: dict[str, list[ShardRecord]] = {}
        for shard in shards:
            by_task.setdefault(shard.task, []).append(shard)
        return by_task

    def damage(self, shard: ShardRecord) -> str:
        """Return what is wrong with a shard, "" if it is unchanged. Without a hash, only its rows are counted."""
        file = self.path / shard.file
        if not shard.file:
            return ""
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return "is missing"
        except OSError as error:  # such as for a folder
            return f"cannot be read ({error.strerror})"
        if shard.sha256 and hashlib.sha256(content).hexdigest() == shard.sha256:
            return ""
        try:
            rows = len(read_rows(file))
        except UNREADABLE as error:
            return f"cannot be read ({' '.join(str(error).split())[:80]})"
        if rows != shard.rows:
            return f"has {rows} of its {shard.rows} rows"
        return "was changed" if shard.sha256 else ""

    def add_shard(
        self,
        task: str,
        number: int,
        units: Sequence[DrawRecord],
        rows: Sequence[CorpusRow],
        faults: Sequence[DrawFault],
        kind: Format,
    ) -> ShardRecord:
        """Write the results of ``units`` as shard ``number`` of the task, and then its line in the journal.

        The file appears completely or not at all. Without rows there is no file, but there is a line.
        """
        name = f"data/{task}/{number:06d}.{kind}" if rows else ""
        sha256 = self._write_rows(name, rows, kind)
        if faults:
            self.append(ERRORS_FILE, faults)
        shard = ShardRecord(task=task, file=name, rows=len(rows), sha256=sha256, faults=len(faults), units=tuple(units))
        self.append(JOURNAL_FILE, [shard])
        self.drawn_tasks.add(task)
        return shard

    def replace_shard(
        self, old: ShardRecord, units: Sequence[DrawRecord], rows: Sequence[CorpusRow], faults: Sequence[DrawFault]
    ) -> None:
        """Write the new results of a damaged shard's units; the damaged file is put aside."""
        known_faults = set(self.faults())
        if (self.path / old.file).exists():
            self._put_aside(old.file)
        name = old.file if rows else ""
        sha256 = self._write_rows(name, rows, self.manifest().format)
        new_faults = [fault for fault in faults if fault not in known_faults]
        if new_faults:
            self.append(ERRORS_FILE, new_faults)
        new = ShardRecord(
            task=old.task,
            file=name,
            rows=len(rows),
            sha256=sha256,
            faults=old.faults + len(new_faults),
            units=tuple(units),
        )
        lines = [new if shard == old else shard for shard in self.journal()]
        replace_file(self.path / JOURNAL_FILE, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def _put_aside(self, file: str) -> None:
        aside = self.path / DAMAGED / Path(file).relative_to("data")
        aside.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while aside.exists():  # earlier ones with this name are kept too
            number += 1
            aside = aside.with_name(f"{Path(file).stem}-{number}{Path(file).suffix}")
        os.replace(self.path / file, aside)

    def _write_rows(self, name: str, rows: Sequence[CorpusRow], kind: Format) -> str:
        """Write a shard if it has rows. Return its hash, or ""."""
        if not rows:
            return ""
        content = encode_rows(rows, kind)
        replace_file(self.path / name, content)
        return hashlib.sha256(content).hexdigest()

    def rows(self, shards: Sequence[ShardRecord]) -> Iterator[CorpusRow]:
        """Yield all rows, shard by shard."""
        for shard in shards:
            if shard.file:
                yield from read_rows(self.path / shard.file)

    def texts(self, shards: Sequence[ShardRecord]) -> Iterator[str]:
        """Iterate over the texts of all rows, shard by shard."""
        return (row.text for row in self.rows(shards))

    def faults(self) -> list[DrawFault]:
        return self.lines(ERRORS_FILE, DrawFault)

    def shots(self, task: str) -> list[Example] | None:
        """Return the shots of a task, or None if none are stored."""
        return self._of(task).find(SHOTS_FILE, list[Example])

    def shots_hash(self, task: str) -> str:
        """Return the hash of the shots from which the texts of a task were made; "" if it is unknown."""
        manifest = self._of(task).find(MANIFEST_FILE, TaskManifest)
        return manifest.shots if manifest else ""

    def calibration(self, task: str) -> Calibration | None:
        return self._of(task).find("annotator.json", Calibration)

    def write_calibration(self, task: str, calibration: Calibration) -> None:
        self._of(task).write("annotator.json", calibration)

    def write_attributes(self, task: str, attributes: Mapping[str, Attributes]) -> None:
        """Store the attributes that a worker listed. Others list the same for themselves, from the same seed."""
        self._of(task).write("attributes.json", attributes)

    def attributes(self, task: str) -> dict[str, Attributes]:
        """Return the attributes that an earlier process stored, by class; empty if it did not."""
        return self._of(task).find("attributes.json", dict[str, Attributes]) or {}

    def style(self, task: str) -> ChosenStyle | None:
        """Return the prompt style that was chosen for a task; None if none was."""
        return self._of(task).find(STYLE_FILE.name, ChosenStyle)

    def write_style(self, task: str, style: ChosenStyle) -> None:
        self._of(task).write(STYLE_FILE.name, style)

    def _of(self, task: str) -> WorkFolder:
        return WorkFolder(self.path / "tasks" / task)


def _read_or_none(folder: WorkFolder, kind: type[T]) -> T | None:
    """Return a folder's manifest, or None if it has none of this type."""
    try:
        return folder.read(MANIFEST_FILE, kind)
    except (OSError, RunFolderError):
        return None
