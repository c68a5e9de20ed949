"""Base classes of the stages: a stage is work on items, as a value that can be sent to another process.

A stage is idempotent: it skips finished items, so one that was killed is simply run again.
"""

import os
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, ClassVar, Self

import msgspec

from fourshot.engine.core import Adapter, Engine, EngineSettings
from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.gpus import gpus
from fourshot.engine.machine.threads import ENGINE_SPINS
from fourshot.engine.opening import imports_of
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.loop.workers import engine_settings
from fourshot.training.jobs.jobs import HERE, FailedJob, Placement

_kept_to_the_end: list[Engine] = []  # until this process ends: an engine without references is closed


class Stage(msgspec.Struct, frozen=True, kw_only=True, tag_field="stage"):
    """Base class. Subclasses define their items, when one is finished, and how one is processed."""

    model_path: str
    items: tuple[Any, ...]  # each has a ``key``, which identifies it, also in failures
    placement: Placement = HERE  # where the work runs, for stages that can be distributed
    keep_going: bool = False  # an item that fails does not stop the others; its error is returned instead of raised
    log: str = ""  # file for the output of libraries

    needs_process: ClassVar[bool] = True  # it loads a model, whose memory the next stage needs
    spins: ClassVar[str] = ENGINE_SPINS  # of the stage's process, see `engine.machine.threads`

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do. Loads no model."""
        return all(map(self.is_finished, self.items))

    @property
    def imports(self) -> str:
        """The module whose import takes most of its process's start, see `ChildProcess`; "" for none."""
        return ""

    @property
    def next_imports(self) -> tuple[str, str]:
        """``imports`` and ``spins`` of the stage that likely comes next: its process is prepared now; "" for none."""
        return "", ""

    def is_finished(self, item: Any) -> bool:
        """Whether an item is finished: its own ``is_finished``, unless a subclass overrides this."""
        return bool(item.is_finished)

    def run(self, on_event: OnEvent) -> list[FailedJob]:
        """Process the unfinished items in this process. Returns failures; without ``keep_going``, raises the first."""
        return self._each(partial(self._do, on_event=on_event))

    def run_in_processes(self, on_event: OnEvent) -> list[FailedJob] | None:
        """Process the items in several child processes and return the failures; None if `run` has to be used."""
        return None

    def _do(self, item: Any, on_event: OnEvent) -> None:
        """Process one item, as far as it is not finished."""
        raise NotImplementedError

    def joined(self, stages: Collection[Self]) -> Self:
        """Return this stage with the items of all ``stages``, each once, in their order."""
        items = {item.key: item for stage in stages for item in stage.items}
        return msgspec.structs.replace(self, items=tuple(items.values()))

    def _each(self, do: Callable[[Any], None]) -> list[FailedJob]:
        failed = []
        for item in self.items:
            try:
                do(item)
            except FourshotError as error:
                if not self.keep_going:
                    raise
                failed.append(FailedJob(key=item.key, kind=type(error).__name__, message=str(error)))
        return failed


class EngineStage(Stage, frozen=True, kw_only=True):
    """A stage whose items are processed one after another by one open engine."""

    def adapters(self) -> set[Adapter]:
        """Return all adapters that the stage queries."""
        raise NotImplementedError

    def do(self, item: Any, engine: Engine, on_event: OnEvent) -> None:
        """Process one item, except what is finished of it."""
        raise NotImplementedError

    def run(self, on_event: OnEvent) -> list[FailedJob]:
        if self.is_done:
            return []
        from fourshot.engine.opening import open_engine

        on_event(Event(stage=self.name, message="starting the engine"))
        engine = open_engine(self.engine_settings())
        try:
            return self._each(partial(self.do, engine=engine, on_event=on_event))
        finally:
            # Closing vLLM takes two seconds. On the CPU, the memory belongs to this process, which ends with its stage.
            # On GPUs, vLLM may have processes of its own, which hold their memory until they are told to exit.
            if gpus(os.environ):
                engine.close()
            else:
                _kept_to_the_end.append(engine)

    @property
    def imports(self) -> str:
        return imports_of(EngineSettings(model=self.model_path))

    def engine_settings(self) -> EngineSettings:
        """Return settings for one adapter at a time, without compiling: that takes longer than a run samples."""
        return engine_settings(self.model_path, self.adapters(), most_loras=1, gpus=self.placement.gpus_per_engine)
