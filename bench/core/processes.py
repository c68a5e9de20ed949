"""Functions in separate processes: called once, or opened once and then queried repeatedly.

Several opened processes can exist at once, each with its engine, while only one works. So disturbances of the machine
affect all of them equally. Messages are decoded with the types in the functions' annotations.

    python -m fourshot.bench.core.processes module:function call|open [cores]
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import GenericAlias
from typing import Any, Generic, TypeVar, get_args, get_type_hints

import msgspec

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.processes import ChildProcess, ParentLink, end_process, import_path, run_child

STOP_S = 60.0
VALUE = "value"  # key of the value in a child's messages
Question = TypeVar("Question")
Answer = TypeVar("Answer")


def check_cores(option: str, cores: str) -> None:
    """Raise InputError if this process may not use ``cores``, in taskset's notation; "" stands for all cores."""
    usable = os.sched_getaffinity(0)
    ranges = [part.partition("-") for part in cores.split(",")] if cores else []
    try:
        wanted = {core for first, _, last in ranges for core in range(int(first), int(last or first) + 1)}
    except ValueError:
        wanted = {-1}
    if cores and not (wanted and wanted <= usable):
        shown = ",".join(map(str, sorted(usable)))
        raise InputError(f"{option} {cores}: give cores that this process may use ({shown}), such as {min(usable)}.")


def call_in_child(
    function: Callable[..., Answer], *arguments: Any, cores: str = "", environment: Mapping[str, str] | None = None
) -> Answer:
    """Call ``function``, which is at the top level of a module, in a fresh process. Return its result.

    ``cores``: the cores it may use, in taskset's notation. ``environment``: replaces this process's environment. Raises
    the function's exception, or FourshotError with the end of its output.
    """
    kind: Any = GenericAlias(dict, (str, get_type_hints(function)["return"]))
    with (
        tempfile.TemporaryDirectory() as folder,
        _child(function, "call", Path(folder) / "log", cores=cores, environment=environment, keeps_log=False) as child,
    ):
        child.send(arguments)
        answer: Answer = child.receive(kind)[VALUE]
        return answer


class OpenerProcess(Generic[Question, Answer]):
    """A process that calls ``opener(spec)`` once; the function it returned then answers every `ask`."""

    def __init__(
        self, opener: Callable[[Any], Callable[[Question], Answer]], spec: Any, log: Path, python: str = sys.executable
    ) -> None:
        """Start the process and wait until it is open. ``start_s``: seconds of the call of ``opener``.

        Raises FourshotError, with the end of ``log``, if it does not start.
        """
        self._child = _child(opener, "open", log, python=python)
        self._kind: Any = GenericAlias(dict, (str, get_args(get_type_hints(opener)["return"])[1]))
        self._child.send([spec])
        self.start_s = self._child.receive(dict[str, float])[VALUE]

    def ask(self, question: Question) -> Answer:
        """Return the process's answer. Raises FourshotError, with the end of its output, if the process ended."""
        self._child.send(question)
        answer: Answer = self._child.receive(self._kind)[VALUE]
        return answer

    def close(self) -> None:
        """End the process. Idempotent."""
        self._child.finish(STOP_S)


def fourshot(*words: object, model: str | None = None) -> list[str]:
    """Return the arguments of a `fourshot` command, as a user would type it, for this Python interpreter."""
    return [sys.executable, "-m", "fourshot", *map(str, words), *(["--model", model] if model else [])]


def run_fourshot(*words: object, model: str | None = None) -> None:
    """Run a `fourshot` command, with its output on standard error. Raises FourshotError if it fails."""
    if code := subprocess.run(fourshot(*words, model=model), stdout=sys.stderr).returncode:
        raise FourshotError(f"`fourshot {' '.join(map(str, words))}` ended with exit code {code}; see above.")


def peak_bytes() -> int:
    """Return the peak resident memory of this process. Unlike ``ru_maxrss``, it excludes what the parent held."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def _child(
    function: Callable[..., Any],
    mode: str,
    log: Path,
    *,
    cores: str = "",
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    keeps_log: bool = True,
) -> ChildProcess:
    # The environment of a user's shell, without the variables that stages set for their processes.
    variables = {**(os.environ if environment is None else environment)}
    if python == sys.executable:
        variables["PYTHONPATH"] = import_path()
    name = f"{function.__module__}:{function.__name__}"
    module, arguments = "fourshot.bench.core.processes", (name, mode, cores)
    return ChildProcess(module, log, *arguments, environment=variables, python=python, keeps_log=keeps_log)


def main(name: str, mode: str, cores: str = "") -> int:
    """Run the child: call ``name`` (``module:function``) once, or open it and answer. Return the exit code."""
    if cores:
        subprocess.run(["taskset", "-acp", cores, str(os.getpid())], stdout=subprocess.DEVNULL, check=True)

    def work(parent: ParentLink) -> None:
        module, _, attribute = name.partition(":")
        function = getattr(import_module(module), attribute)
        hints = get_type_hints(function)
        returns = hints.pop("return")
        given = zip(parent.receive(list[Any]), hints.values(), strict=False)
        started = time.perf_counter()
        answer = function(*(msgspec.convert(value, kind, str_keys=True) for value, kind in given))
        if mode == "call":
            parent.send({VALUE: answer})
            return
        parent.send({VALUE: time.perf_counter() - started})
        (question_type,), _ = get_args(returns)
        for question in parent.messages(question_type):
            parent.send({VALUE: answer(question)})

    return run_child(work)


if __name__ == "__main__":
    end_process(main(*sys.argv[1:]))
