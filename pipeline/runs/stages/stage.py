"""What every stage is: work on items, as a value that can be handed to another process.

A stage is idempotent: items that are finished are left alone, so one that was killed is simply given again.
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

_kept_to_the_end: list[Engine] = []  # of this process: an engine that nobody has any more is closed


class Stage(msgspec.Struct, frozen=True, kw_only=True, tag_field="stage"):
    """Subclasses say what their items are, when one is finished, and how they are done."""

    model_path: str
    items: tuple[Any, ...]  # each has a ``key``, which names it in a failure, the same for items that are the same
    placement: Placement = HERE  # where the work is done, for stages that can spread it
    keep_going: bool = False  # an item that fails does not stop the others, and is returned instead of raised
    log: str = ""  # the file for what libraries print

    needs_process: ClassVar[bool] = True  # holds a model, whose memory is to be free for the next stage
    spins: ClassVar[str] = ENGINE_SPINS  # of the process it is done in, see `engine.machine.threads`

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do, found out without loading a model."""
        return all(map(self.is_finished, self.items))

    @property
    def imports(self) -> str:
        """The module whose import takes most of the start of its process, see `ChildProcess`."""
        return ""

    @property
    def next_imports(self) -> tuple[str, str]:
        """``imports`` and ``spins`` of the stage that likely comes next, to be begun with meanwhile; "" for nothing."""
        return "", ""

    def is_finished(self, item: Any) -> bool:
        """What the item says, unless its stage knows more."""
        return bool(item.is_finished)

    def run(self, on_event: OnEvent) -> list[FailedJob]:
        """Do in this process what is not finished. Returns what failed where ``keep_going``, else raises it."""
        return self._each(partial(self._do, on_event=on_event))

    def run_in_processes(self, on_event: OnEvent) -> list[FailedJob] | None:
        """Do it in several processes that are made for it; None where it is done in one, by `run`."""
        return None

    def _do(self, item: Any, on_event: OnEvent) -> None:
        """Do one item, as far as it is not finished."""
        raise NotImplementedError

    def joined(self, stages: Collection[Self]) -> Self:
        """The same stage for the items of all ``stages``, each once, in their order."""
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
    """A stage whose items are done one after another with one open engine."""

    def adapters(self) -> set[Adapter]:
        """All adapters that answer in it."""
        raise NotImplementedError

    def do(self, item: Any, engine: Engine, on_event: OnEvent) -> None:
        """Do one item; what of it is finished is left alone."""
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
            # Closing takes vLLM two seconds. On the CPU the memory is the process's, which ends with its stage; on GPUs
            # there may be processes of vLLM's own, which hold theirs until they are told.
            if gpus(os.environ):
                engine.close()
            else:
                _kept_to_the_end.append(engine)

    @property
    def imports(self) -> str:
        return imports_of(EngineSettings(model=self.model_path))

    def engine_settings(self) -> EngineSettings:
        """One adapter answers at a time here; and a run samples for less time than compiling takes."""
        return engine_settings(self.model_path, self.adapters(), most_loras=1, gpus=self.placement.gpus_per_engine)
