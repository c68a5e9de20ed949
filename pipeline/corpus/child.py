"""The process of a worker: opens an engine and does units, which come on standard input; results go out."""

import os
import queue
import signal
import sys
import threading
import time
from typing import Any

import msgspec

from fourshot.engine.errors import FourshotError
from fourshot.engine.opening import open_engine
from fourshot.engine.processes import die_with_parent
from fourshot.pipeline.corpus.units import Opening, TaskBrief, Unit, UnitResult
from fourshot.pipeline.synthesis.worker import Failure

READY = "engine ready at "  # in the log, with the seconds of the monotonic clock


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine is open."""


def main() -> int:
    """Open the engine, then do units until standard input ends."""
    parent = int(sys.argv[1])
    die_with_parent()
    if os.getppid() != parent:  # it ended before we asked to be told
        return 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which knows what is to be saved
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not come between our lines
    encode = msgspec.json.Encoder().encode

    def tell(said: Ready | UnitResult | Failure) -> None:
        out.write(encode(said) + b"\n")

    opening = msgspec.json.decode(sys.stdin.buffer.readline(), type=Opening)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    try:
        engine = open_engine(opening.engine)
        print(f"{READY}{time.perf_counter()}", flush=True)
        tell(Ready())
        from fourshot.pipeline.corpus.drawing import work

        threading.Thread(target=_receive, args=(inbox,), daemon=True).start()
        work(engine, inbox, tell)
    except FourshotError as error:  # an adapter that cannot be loaded, say: another start would not help
        tell(Failure(kind=type(error).__name__, message=str(error)))
        return error.exit_code
    return 0


def _receive(inbox: "queue.SimpleQueue[Any]") -> None:
    decode = msgspec.json.Decoder(TaskBrief | Unit).decode
    for line in sys.stdin.buffer:
        inbox.put(decode(line))
    inbox.put(None)


if __name__ == "__main__":
    sys.exit(main())
