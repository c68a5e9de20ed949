"""A child process for the tests of `engine.machine.processes`: for each message, it does as its argument says."""

import os
import signal
import sys

import msgspec

from fourshot.engine import errors
from fourshot.engine.machine.processes import ParentLink, end_process, run_child


class Question(msgspec.Struct, frozen=True, kw_only=True):
    number: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    pid: int = 0


def work(parent: ParentLink) -> None:
    for question in parent.messages(Question):
        match sys.argv[1]:
            case "print":
                print("from python", flush=True)
                os.write(1, b"from a library in C, without a line end")
                os.system("echo from a process of its own")
            case "TaskFileError":
                raise errors.TaskFileError("task.toml", ["no name", "no labels"])
            case "OSError":
                raise OSError(28, "No space left on device", "weights")
            case "die":
                sys.stderr.write("the last words\n")
                sys.stderr.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            case "half":
                os.write(parent._out.fileno(), b'{"number":')
                os._exit(3)
            case "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case kind if hasattr(errors, kind):
                raise getattr(errors, kind)("what was got\nwhat to do")
        parent.send(Answer(number=2 * question.number, pid=os.getpid()))


if __name__ == "__main__":
    end_process(run_child(work))
