"""`bench`: each suite is a command line of its own."""

import argparse

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
    return run_suite(options.suite, options.arguments)
