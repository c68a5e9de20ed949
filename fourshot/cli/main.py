"""The `fourshot` command: it takes options, and gives an exit code and, if something fails, one sentence."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fourshot import __version__, start
from fourshot.failures import DEBUG, explain


def program() -> NoReturn:
    """Run the command, and end the process with its exit code."""
    start.leave_ascii()
    start.open_streams()
    if sys.flags.optimize > 1:
        print("fourshot: transformers needs docstrings. Leave -OO out, and unset PYTHONOPTIMIZE.", file=sys.stderr)
        sys.exit(2)
    try:
        start.set_missing_home()
        from fourshot.engine.machine.processes import end_process

        end_process(main())
    except KeyboardInterrupt:  # while modules are imported: `main` handles it during work
        print("fourshot: stopped.", file=sys.stderr)
        sys.exit(130)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (those of the process where None). Returns the exit code.

    0 done, 1 failed, 2 bad input, 130 stopped with Ctrl-C. Raises SystemExit where argparse does: help, usage errors.
    """
    # Each module declares its commands when it is imported; the help lists them in this order.
    from fourshot.cli import runs, review, students, corpus, tasks, predict, serve, adapters, keys, machine, bench  # noqa: F401, I001
    from fourshot.cli.console import Terminal
    from fourshot.printable import harmless
    from fourshot.cli.declare import GROUPS, read_command
    from fourshot.cli.given import check_given
    from fourshot.setting_values import warn_repeated

    try:
        options = read_command(sys.argv[1:] if arguments is None else arguments, __version__)
    except OSError as error:  # help cannot be printed
        start.abandon_output()
        if not isinstance(error, BrokenPipeError):
            print(f"fourshot: {explain(error, goes_on=False)[1]}", file=sys.stderr)
        return 1
    with Terminal(json=options.json, quiet=options.quiet) as terminal:
        try:
            check_given(options, terminal.warn)
            warn_repeated(vars(options), terminal.warn)
            code: int = options.action(options, terminal) or 0
            sys.stdout.flush()
        except BrokenPipeError:
            start.abandon_output()
            if hasattr(options, "out"):  # finished work is kept; for others, such as `predict | head`, this is no fault
                with contextlib.suppress(OSError):
                    print("fourshot: the output was closed; run the same command again to continue.", file=sys.stderr)
            return 1
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get(DEBUG, "0") not in ("", "0"):
                raise
            code, message = explain(error, goes_on=options.words[0] not in GROUPS)
            start.abandon_output()
            print(f"fourshot: {harmless(message)}", file=sys.stderr)
            with contextlib.suppress(OSError):  # standard output may be on the full disk
                terminal.result("error", {"error": type(error).__name__, "message": message, "exit_code": code})
    return code
