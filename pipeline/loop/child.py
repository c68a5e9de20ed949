"""The process of a worker: opens an engine, receives units from its parent and sends back the results."""

import queue
import signal
import threading
import time

import msgspec

from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.processes import ParentLink, end_process, run_child
from fourshot.engine.opening import open_engine
from fourshot.pipeline.loop.units import AnnotationUnit, DrawUnit, TaskBrief

READY = "engine ready at "  # in the log, with the seconds of the monotonic clock


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine is open."""


def _work(parent: ParentLink) -> None:
    """Open the engine, then process units until the parent sends no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which knows what must be saved
    engine = open_engine(parent.receive(EngineSettings))
    print(f"{READY}{time.perf_counter()}", flush=True)
    parent.send(Ready())
    from fourshot.pipeline.loop.unit_runner import Inbox, run_units

    inbox: Inbox = queue.SimpleQueue()

    def receive() -> None:
        for message in parent.messages(TaskBrief | DrawUnit | AnnotationUnit):
            inbox.put(message)
        inbox.put(None)

    threading.Thread(target=receive, daemon=True).start()
    run_units(engine, inbox, parent.send)


if __name__ == "__main__":
    end_process(run_child(_work, reported=(FourshotError,)))
