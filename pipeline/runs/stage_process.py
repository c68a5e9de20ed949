"""Run a stage in a child process, so that its memory is released before the next stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import msgspec

from fourshot.engine.machine.processes import ChildProcess, ParentLink, end_process, prepare_child, run_child
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.stages import STAGE_TYPES
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.training.jobs.jobs import FailedJob


class EventMessage(msgspec.Struct, frozen=True, kw_only=True, tag="event"):
    event: Event


class DoneMessage(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    failed: tuple[FailedJob, ...] = ()  # of a stage that keeps going


def run_stage(stage: Stage, on_event: OnEvent) -> Sequence[FailedJob]:
    """Run ``stage``, in a child process if it needs one. Returns at once if nothing is left to do.

    Returns the failed items of a stage with ``keep_going``. An error of the child is raised here.
    """
    if stage.is_done:
        return ()
    if not stage.needs_process:
        return stage.run(on_event)
    imports, spins = stage.next_imports
    if imports and stage.log:
        prepare_child(imports, spins, Path(stage.log))
    if (failed_jobs := stage.run_in_processes(on_event)) is not None:
        return failed_jobs
    module = "fourshot.pipeline.runs.stage_process"
    with ChildProcess(module, Path(stage.log), spins=stage.spins, imports=stage.imports) as child:
        child.send(stage)
        for message in child.messages(EventMessage | DoneMessage):
            if isinstance(message, DoneMessage):
                return message.failed
            on_event(message.event)
        raise child.error("The process of this stage")


def _work(parent: ParentLink) -> None:
    any_stage: Any = Union[STAGE_TYPES]  # noqa: UP007
    stage = parent.receive(any_stage)
    failed = stage.run(lambda event: parent.send(EventMessage(event=event)))
    parent.send(DoneMessage(failed=tuple(failed)))


if __name__ == "__main__":
    end_process(run_child(_work))
