"""`bench`: each suite is a command line of its own."""

import argparse
import sys
from importlib import import_module

from fourshot.bench.suites import SUITES, run_suite
from fourshot.cli.console import Terminal
from fourshot.cli.declare import Options, argument, command

WIDTH = max(map(len, SUITES))


@command(
    "bench",
    argument("suite", "SUITE", "one of those below", choices=list(SUITES)),
    argument("arguments", "...", "of the suite; --help shows them", nargs=argparse.REMAINDER),
    parser={
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "epilog": "suites:\n" + "\n".join(f"  {name:<{WIDTH}}  {measures}" for name, measures in SUITES.items()),
    },
)
def bench(options: Options, terminal: Terminal) -> int:
    """Measure throughput and latency."""
    suite = import_module(f"fourshot.bench.suites.{options.suite.replace('-', '_')}")
    if hasattr(suite, "SUITE"):
        return run_suite(options.suite, options.arguments)
    sys.argv = [f"fourshot bench {options.suite}", *options.arguments]
    suite.main()
    return 0
