"""The `fourshot` command: options in, an exit code and, where something fails, one sentence out."""

import argparse
import errno
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fourshot import __version__, run

if TYPE_CHECKING:
    from fourshot.cli.console import Terminal

DEMO_TEXT = "I paid for the same photo book twice, can I have my money back?"
DEBUG = "FOURSHOT_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (those of the process where None). Returns the exit code.

    0 done, 1 failed, 2 bad input, 130 stopped with Ctrl-C. Raises SystemExit where argparse does: help, usage errors.
    """
    from fourshot.cli.pipeline_parsers import read_command
    from fourshot.cli.serving_parsers import add_commands

    options = read_command(arguments, __version__, add_commands)
    from fourshot.cli.console import Terminal

    with Terminal(json=options.json, quiet=options.quiet) as terminal:
        try:
            code = _command(options.command)(options, terminal)
            sys.stdout.flush()
        except BrokenPipeError:
            _abandon_output()  # whoever read it has gone
            return 1
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get(DEBUG, "0") not in ("", "0"):
                raise
            code, message = _explain(error)
            _abandon_output()
            print(f"fourshot: {message}", file=sys.stderr)
            terminal.result("error", {"error": type(error).__name__, "message": message, "exit_code": code})
    return code


def _command(name: str) -> "Callable[[argparse.Namespace, Terminal], int]":
    if name in _COMMANDS:
        return _COMMANDS[name]
    from fourshot.cli import pipeline_commands as commands

    if name in commands.COMMANDS:
        return commands.COMMANDS[name]
    from fourshot.cli.serving_commands import COMMANDS

    return COMMANDS[name]


def _abandon_output() -> None:
    """Drop what cannot be written to standard output: Python would try again at exit, and fail with a trace."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an error that reached the edge of the process."""
    from fourshot.engine.errors import FourshotError

    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped; run the same command again to go on."
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    full = full or "No space left on device" in str(error)  # libraries wrap it: their own type, the cause as text
    # Errors of ours that name it say it in one line; a stage that died of it shows its log, which is no help here.
    if isinstance(error, FourshotError) and not (full and "\n" in str(error)):
        return error.exit_code, str(error)
    if full:
        place = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return 1, (
            f"the disk is full{place}. What was finished is kept. Make room and run the same command again, or name "
            "a folder on another disk with --out."
        )
    if isinstance(error, OSError):
        return 1, f"{error}. Set {DEBUG}=1 to see where."
    return 1, (
        f"unexpected {type(error).__name__}: {error}\nThis is a fault in fourshot, not in what you gave. "
        f"Set {DEBUG}=1 and run the command again to see where."
    )


def _demo(options: argparse.Namespace, terminal: "Terminal") -> int:
    from fourshot.cli.pipeline_commands import program
    from fourshot.cli.pipeline_parsers import DEMO_FOLDER, DEMO_TASK
    from fourshot.serving.clients.local import LocalClassifier

    folder = Path(options.out or DEMO_FOLDER)
    with terminal.progress() as on_event:
        summary = run(DEMO_TASK, model=options.model, folder=folder, on_event=on_event)
    with terminal.hushed(), LocalClassifier(summary.adapter_path, options.model, kind="transformers") as classifier:
        (answer,) = classifier.predict([DEMO_TEXT])
    terminal.result("result", {"run": summary, "text": DEMO_TEXT, "answer": answer})
    terminal.scores(summary.table)
    terminal.say(f"Report: {Path(summary.report_path).resolve()}")
    terminal.say(f"Ask the new classifier: {program()} predict {shlex.quote(str(folder))} {shlex.quote(DEMO_TEXT)}")
    terminal.say(f"{answer.label}\t{answer.probability:.3f}\t{DEMO_TEXT}")
    return 0


def _doctor(options: argparse.Namespace, terminal: "Terminal") -> int:
    from fourshot.engine.doctor import examine

    if options.serve:
        from fourshot.cli.serving_commands import doctor

        return doctor(options, terminal)
    failed = 0
    for finding in examine(options.model, options.deep):
        failed += finding.state == "fail"
        terminal.result("finding", finding)
        terminal.say(f"{finding.state:<5} {finding.name:<18} {finding.found} {finding.remedy}".rstrip())
    return 1 if failed else 0


def _bench(options: argparse.Namespace, terminal: "Terminal") -> int:
    from importlib import import_module

    from fourshot.bench.core.suite import run_suite

    suite = import_module(f"fourshot.bench.suites.{options.suite.replace('-', '_')}")
    if hasattr(suite, "SUITE"):
        return run_suite(options.suite, options.arguments)
    sys.argv = [f"fourshot bench {options.suite}", *options.arguments]
    suite.main()
    return 0


_COMMANDS: dict[str, "Callable[[argparse.Namespace, Terminal], int]"] = {
    "demo": _demo,
    "doctor": _doctor,
    "bench": _bench,
}
