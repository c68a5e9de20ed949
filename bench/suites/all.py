"""The suites that compare adapters with in-context learning, one after the other: latency, adapters, breakeven, paper.

    fourshot bench all --data FOLDER --out FOLDER

Each writes FOLDER/<suite>.json and its page. After a kill, the same command continues. To set a suite's own options,
run that suite directly.
"""

import subprocess
from pathlib import Path
from typing import Annotated

import msgspec

from fourshot.bench.core.options import Model, ThreeTasks
from fourshot.bench.core.processes import fourshot
from fourshot.bench.core.results import check_data, show_progress
from fourshot.bench.core.suite import SuiteCommand
from fourshot.engine.errors import InputError

ALL = ("latency", "adapters", "breakeven", "paper")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: ThreeTasks
    out: Annotated[Path, "a folder"]
    model: Model = None
    suites: Annotated[tuple[str, ...], "some of them"] = ALL


def command(suite: str, options: Options) -> list[str]:
    """Return the command that runs ``suite``."""
    out = options.out
    places: dict[str, tuple[object, ...]] = {
        "breakeven": ("--latency", out / "latency.json"),
        "paper": ("--report", out / "paper.html", "--runs", out / "paper-runs"),
    }
    words = ("--data", options.data, "--out", out / f"{suite}.json", *places.get(suite, ()))
    return fourshot("bench", suite, *words, model=options.model)


def run_all(options: Options) -> int:
    """Run the suites until one fails. Return the last exit code. Raises InputError for invalid options."""
    if unknown := sorted(set(options.suites) - set(ALL)):
        raise InputError(f"unknown suites {unknown}; allowed are {', '.join(ALL)}.")
    check_data(options.data, ("sst2", "trec", "ag_news"))
    latency = options.out / "latency.json"
    if "breakeven" in options.suites and "latency" not in options.suites and not latency.exists():
        raise InputError(f"breakeven needs {latency}, which latency writes: add it to --suites.")
    for suite in filter(options.suites.__contains__, ALL):  # breakeven reads what latency writes
        show_progress(f"== {suite}")
        if code := subprocess.run(command(suite, options)).returncode:
            return code
    return 0


SUITE = SuiteCommand(options=Options, command=run_all)
