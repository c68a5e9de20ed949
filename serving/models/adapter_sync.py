"""Keeps the versions in use in line with the adapters' folder, without interrupting requests.

A new version is used once it is loaded and has processed a first text; until then the previous one is. A version that
is gone from the folder finishes its requests, then its memory and its copy are freed. One that is damaged there is not
gone: its checked copy stays in use, and the list of what is rejected reports the damage.

Loading takes a while. So what needs none is done first, such as a removal, or a pin of a loaded version. The folder is
scanned again before everything new has been loaded.

A task may have an adapter and a student. Both are loaded; the pinned or the newer one is used by default.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from msgspec import UNSET

from fourshot.engine.errors import FourshotError
from fourshot.pipeline.student_card import StudentCard
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.pipeline.text_student import TextStudentCard
from fourshot.serving.answers import RefusalError
from fourshot.serving.api import Method, Refused, TaskInfo
from fourshot.serving.models.in_context import InContext
from fourshot.serving.models.registry import FolderContents, Registry, Signature, StoredAdapter
from fourshot.serving.models.version import Loader, Version

logger = logging.getLogger("fourshot.serving")
RETRY_S = 10.0  # after which an error of the system is retried: a full disk may have room again


class AdapterSync:
    """Owns the versions in use. Everything but the reading of files happens on the server's event loop."""

    def __init__(
        self, registry: Registry, students: Loader, base_model: Loader | None = None, writers: Loader | None = None
    ) -> None:
        """``writers`` loads students that generate texts, ``students`` the others.

        Without ``base_model``, only students are served; the registry rejects everything else.
        """
        self._registry, self._students, self._base_model = registry, students, base_model
        self._writers = writers or students
        self._ready: dict[str, Version] = {}  # by key
        # By place: signature of what could not be loaded, the reason, and until when it is rejected unless it changes.
        self._refusals: dict[str, tuple[Signature | InContext, str, float]] = {}
        self._draining: dict[str, Version] = {}
        self._contents: FolderContents | None = None
        self._unloaded: set[str] = set()  # tasks with something new that has not been tried yet
        self._logged: set[Refused] = set()  # rejections that have been logged
        self._unreadable = ""  # why the folder could not be read, as logged last
        self.current: dict[str, list[Version]] = {}  # by task: the default version, then that of the other kind
        self.damaged: set[str] = set()  # tasks that still use a version that is damaged in the folder
        self.on_change: Callable[[str, bool], None] = lambda task, is_served: None

    @property
    def loaders(self) -> list[Loader]:
        return [*dict.fromkeys(loader for loader in (self._writers, self._students, self._base_model) if loader)]

    @property
    def num_inside(self) -> int:
        """Requests that are being computed, from all routes."""
        return sum(loader.num_inside for loader in self.loaders)

    @property
    def num_waiting(self) -> int:
        """Texts in the queues."""
        return sum(loader.dispatcher.num_waiting for loader in self.loaders)

    @property
    def tokens_per_s(self) -> float:
        """Rate of the base model, or of students if there is none."""
        return self.loaders[-1].dispatcher.tokens_per_s

    def close(self, refusal: RefusalError) -> None:
        """Refuse everything that waits, with ``refusal``."""
        for loader in self.loaders:
            loader.dispatcher.close(refusal)

    def _loader(self, stored: StoredAdapter | InContext) -> Loader:
        loader = self._writers if stored.generates_text else self._students if stored.is_student else self._base_model
        assert loader is not None, "the registry has refused it"
        return loader

    async def refresh(self, load_s: float = math.inf) -> bool:
        """Scan the folder and act on it. Returns whether everything new has been loaded or rejected.

        After ``load_s`` seconds of loading, the rest is left to the next scan.
        """
        try:
            contents = await asyncio.to_thread(self._registry.read)
        except OSError as error:  # a network disk that is away for a moment removes no task
            if self._unreadable != (reason := str(error)):
                logger.warning("the adapters' folder cannot be read: %s", reason)
            self._unreadable = reason
            return True
        self._unreadable = ""
        contents = self._with_damaged(contents)
        all_refused = contents.refused
        for refused in all_refused:
            if refused not in self._logged:
                logger.warning("%s is refused: %s", refused.path, refused.reason)
        self._logged = {*all_refused}
        self._contents = contents
        places = {stored.at for stored in contents.stored}
        self._refusals = {place: refusal for place, refusal in self._refusals.items() if place in places}
        self._unloaded = set()
        for task in sorted({*contents.tasks, *contents.in_context, *self.current}):
            await self._update_task(task, contents, may_load=False)
        waiting, load_until = sorted(self._unloaded, key=partial(self._turn, contents)), time.monotonic() + load_s
        for place, task in enumerate(waiting):
            if place and time.monotonic() >= load_until:
                break
            self._unloaded.discard(task)
            await self._update_task(task, contents, may_load=True)
        await self._unload_drained()
        draining = {version.task.name for version in self._draining.values()}  # they leave their slots first
        for loader in self.loaders:
            await loader.pin([version for task in self.current.keys() - draining for version in self.current[task]])
        return not self._unloaded

    def _turn(self, contents: FolderContents, task: str) -> tuple[int, str]:
        """Return the sort key of a task with something to load: what is gone or no longer pinned is replaced first."""
        current = {version.name for version in self.current.get(task, ())}
        if not current:
            return 2, task
        is_gone = not current <= {stored.name for stored in contents.versions(task)}
        return (0 if is_gone or contents.pins.get(task, "") not in {"", *current} else 1), task

    def _with_damaged(self, contents: FolderContents) -> FolderContents:
        """Return ``contents`` with the versions in use that are damaged in the folder but not gone."""
        refused = {fault.path: fault for fault in contents.faults}
        adapters, in_context = list(contents.adapters), dict(contents.in_context)
        keys = {stored.key for stored in adapters}
        self.damaged = set()
        for task, version in [(task, version) for task, versions in self.current.items() for version in versions]:
            stored = version.stored
            if stored.at not in refused or stored.key in keys or (task in in_context and not stored.is_student):
                continue
            if isinstance(stored, StoredAdapter):
                adapters.append(stored)
            else:
                in_context[task] = stored
            self.damaged.add(task)
            reason = f"{refused[stored.at].reason} The task {task} is still served, by the copy that was loaded before."
            refused[stored.at] = Refused(path=stored.at, reason=reason)
        return msgspec.structs.replace(
            contents, adapters=adapters, in_context=in_context, faults=list(refused.values())
        )

    async def _update_task(self, task: str, contents: FolderContents, *, may_load: bool) -> None:
        """Put the first adapter and the first student of ``task`` that work into use.

        Unless it ``may_load``, a version stays in use until a preferred one is loaded.
        """
        previous, stored = self.current.get(task, []), contents.versions(task)
        candidates = []
        for student in (False, True):
            current = next((version for version in previous if version.stored.is_student is student), None)
            entry = None if student else contents.in_context.get(task)
            candidates.append(
                await self._first_working(
                    current, [adapter for adapter in stored if adapter.is_student is student], entry, may_load
                )
            )
        order = [adapter.name for adapter in stored]  # a task in context, which has no name, comes last
        for place, version in enumerate(previous):  # one that is gone is used until another can be
            if version.name not in order:
                order.insert(place, version.name)
        versions = sorted(
            (version for version in candidates if version),
            key=lambda version: order.index(version.name) if version.name else 1 << 30,
        )
        if versions == previous:
            return
        for version in previous:
            if version not in versions:
                self._drain(version)
        for version in versions:
            self._draining.pop(version.stored.key, None)
            self._loader(version.stored).announce(version)
        self.current[task] = versions
        if not versions:
            del self.current[task]
        sources = " or ".join(f"by {version.name}" if version.name else "in context" for version in versions)
        logger.info("task %s is %s", task, f"answered {sources}" if sources else "no longer served")
        self.on_change(task, bool(versions))

    async def _first_working(
        self, current: Version | None, stored: Sequence[StoredAdapter], entry: InContext | None, may_load: bool
    ) -> Version | None:
        """Return the first of ``stored`` that works, else ``entry``, else None. ``current``: the version in use."""
        for adapter in stored:
            if current is not None and current.stored.key == adapter.key:
                current.card, current.stored = adapter.card, adapter  # it may have been moved
                return current
            if version := self._ready.get(adapter.key):
                return version
            if not self._is_refused(adapter):
                if not may_load:
                    self._unloaded.add(adapter.card.task.name)
                    return current
                if version := await self._admit(adapter):
                    return version
            if current is not None and current.name == adapter.name:  # its edited card does not work
                return current
        if entry is None or (current is not None and current.stored == entry):
            return current if entry is not None else None
        version = None if self._is_refused(entry) else await self._admit(entry)
        return version or (current if current is not None and not current.name else None)

    def _is_refused(self, stored: StoredAdapter | InContext) -> bool:
        """Whether ``stored`` could not be loaded, and is not to be tried again yet."""
        refusal = self._refusals.get(stored.at)
        return refusal is not None and refusal[0] == stored.signature and time.monotonic() < refusal[2]

    async def _admit(self, stored: StoredAdapter | InContext) -> Version | None:
        """Load a version; None if it is rejected."""
        refusal = self._refusals.get(stored.at)
        try:
            version = await self._loader(stored).admit(stored)
        except FourshotError as error:
            refused_until_s = time.monotonic() + RETRY_S if isinstance(error.__cause__, OSError) else math.inf
            self._refusals[stored.at] = (stored.signature, str(error), refused_until_s)
            if refusal is None or refusal[0] != stored.signature:
                logger.warning("%s is refused: %s", stored.at, error)
            return None
        self._refusals.pop(stored.at, None)
        if version.name:
            self._ready[stored.key] = version
        return version

    def _drain(self, version: Version) -> None:
        """Send no new requests to ``version``; those in progress may finish."""
        if version.name:
            version.left_at = time.monotonic()
            self._draining[version.stored.key] = version
            self._loader(version.stored).withdraw(version)

    async def _unload_drained(self) -> None:
        """Unload the replaced versions that are no longer in use."""
        for key, version in list(self._draining.items()):
            loader = self._loader(version.stored)
            if version.in_use or loader.is_busy(version):
                continue
            del self._draining[key]
            self._ready.pop(key, None)
            await loader.unload(version)

    def tasks(self) -> list[TaskInfo]:
        """Return the served tasks, sorted by name."""
        return [self._info(task, versions) for task, versions in sorted(self.current.items())]

    def _info(self, task: str, versions: Sequence[Version]) -> TaskInfo:
        contents, first = self._contents, versions[0]
        methods: list[Method] = [method for version in versions for method in version.methods]
        student = next(
            (version.card for version in versions if isinstance(version.card, StudentCard | TextStudentCard)), None
        )
        classified = None if isinstance(first.task, GenerationTask) else first.task
        return TaskInfo(
            task=task,
            labels=list(classified.label_names) if classified else [],
            adapter=first.name,
            versions=_names(contents, task),
            pinned=bool(contents and first.name and contents.pins.get(task) == first.name),
            methods=methods,
            student=student.name if student else "",
            fields=(list(classified.input_fields) or UNSET) if classified else UNSET,
            teacher=student.teacher if student else "",
            kind=UNSET if classified else "generation",
        )

    def refused(self) -> list[Refused]:
        """Return what is in the folder but not served, with the reasons."""
        contents = self._contents
        if contents is None:
            return []
        bad = [
            Refused(path=stored.at, reason=refusal[1])
            for stored in contents.stored
            if (refusal := self._refusals.get(stored.at)) is not None and refusal[0] == stored.signature
        ]
        return [*contents.refused, *bad]


def _names(contents: FolderContents | None, task: str) -> list[str]:
    """Return the names of a task's versions in the folder, the newest first, each once."""
    stored = sorted(contents.versions(task), key=lambda adapter: -adapter.written_at) if contents else []
    return list(dict.fromkeys(adapter.name for adapter in stored))
