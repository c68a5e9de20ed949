"""A module that a forked process runs in tests: it answers, waits or fails, as each message says."""

import os
import signal
import sys
import time

from fourshot.engine.errors import InputError
from fourshot.engine.machine.processes import ParentLink, end_process, run_child


def _work(parent: ParentLink) -> None:
    print("seen by nobody")
    for wish in parent.messages(str):
        match wish:
            case "state":
                parent.send(
                    {
                        "pid": os.getpid(),
                        "parent": os.getppid(),
                        "arguments": sys.argv[1:],
                        "folder": os.getcwd(),
                        "environment": dict(os.environ),
                        "has_imported": "json.tool" in sys.modules,
                        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
                        "files": sorted(int(number) for number in os.listdir("/proc/self/fd"))[:-1],
                    }
                )
            case "refuse":
                raise InputError("no such thing")
            case "fail":
                raise RuntimeError("a fault")
            case "sleep":
                parent.send({"asleep": True})
                time.sleep(600)


if __name__ == "__main__":
    end_process(run_child(_work))
