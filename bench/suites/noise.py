"""Whether `fourshot bench compare` finds a planted slowdown, and flags nothing if nothing changed.

    fourshot bench noise --data FOLDER --out FILE.json

A small latency suite is run repeatedly, with and without a sleep before every step of the model. Each clean run is
compared with the next clean one and with a slowed one, and then all runs with all.
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.options import Out, Positive
from fourshot.bench.core.parts import Part, TablePart, at_least, at_most
from fourshot.bench.core.processes import fourshot
from fourshot.bench.core.results import FinishedPieces, read_result, show_progress
from fourshot.bench.core.suite import Suite
from fourshot.bench.suites.compare import compare
from fourshot.engine.errors import FourshotError

SETTINGS: dict[str, Any] = {
    "tasks": ["trec"],
    "ways": ["zero_shot", "icl_warm", "lora"],
    "repeats": 5,
    "requests": {"1": 10, "16": 32},
    "slow_requests": {},
    "http": False,
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: Annotated[Path, "a folder with trec/"]
    out: Out
    repeats: Annotated[Positive, "comparisons of each kind"] = 10
    sleep_ms: Annotated[float, "of the planted slowdown"] = 10.0


def run_once(name: str, sleep_ms: float, options: Options) -> dict[str, Any]:
    """Run the small suite. Return its result. Raises FourshotError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out, settings = Path(folder) / "latency.json", Path(folder) / "settings.json"
        settings.write_text(json.dumps(SETTINGS), encoding="utf-8")
        words = ("--data", options.data, "--out", out, "--settings", settings, "--plant-sleep-ms", sleep_ms)
        ended = subprocess.run(fourshot("bench", "latency", *words), capture_output=True, text=True)
        if ended.returncode:
            raise FourshotError(f"run {name} ended with code {ended.returncode}: {ended.stderr[-2000:]}")
        return read_result(out, "latency")


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Make the runs that are not ``done``, and compare all."""

    def made(name: str, sleep_ms: float = 0.0) -> Any:
        return done.add_once(name, partial(run_once, name, sleep_ms, options), "done")

    clean = [made("clean-0")]
    slowed, comparisons = list[Any](), list[dict[str, Any]]()
    for number in range(1, options.repeats + 1):
        clean.append(made(f"clean-{number}"))
        slowed.append(made(f"slowed-{number}", options.sleep_ms))
        for kind, pair in (("noise", clean[-2:]), ("planted", [clean[-1], slowed[-1]])):
            changes = compare(*pair)
            flagged = sum(change.flagged for change in changes.changes)
            fields = ("slower", "overall", "overall_flagged", "scatter", "bound")
            numbers = {name: getattr(changes, name) for name in fields}
            comparisons.append({"kind": kind, "number": number, "flagged": flagged, **numbers})
            show_progress(json.dumps(comparisons[-1]))
    noise = sum(bool(row["flagged"] or row["overall_flagged"]) for row in comparisons if row["kind"] == "noise")
    planted = sum(bool(row["slower"]) for row in comparisons if row["kind"] == "planted")
    return {
        "comparisons": comparisons,
        "pairs": pairs(clean, slowed),
        "targets": [
            at_most("comparisons of unchanged code that were flagged", "", noise, 0),
            at_least("planted slowdowns that were found", "", planted, options.repeats),
        ],
    }


def pairs(clean: Sequence[Mapping[str, Any]], slowed: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count how often `compare` flags unchanged and slowed pairs. Pairs share runs, so they are not independent."""
    unchanged = [compare(*pair) for pair in combinations(clean, 2)]
    changed = [compare(*pair) for pair in product(clean, slowed)]
    return {
        "unchanged": len(unchanged),
        "flagged": sum(pair.overall_flagged or any(change.flagged for change in pair.changes) for pair in unchanged),
        "slowed": len(changed),
        "found": sum(pair.slower for pair in changed),
    }


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return a table of the flagged comparisons of each kind."""
    rows = []
    for kind, name in (("noise", "nothing changed"), ("planted", f"{result['settings']['sleep_ms']:g} ms per step")):
        comparisons = [row for row in result["comparisons"] if row["kind"] == kind]
        flagged = sum(bool(row["flagged"] or row["overall_flagged"]) for row in comparisons)
        low, high = (100 * pick(row["overall"] for row in comparisons) for pick in (min, max))
        scatter = f"{100 * fmean(row['scatter'] for row in comparisons):.1f} %"
        rows.append((name, len(comparisons), flagged, scatter, f"{low:+.1f} to {high:+.1f} %"))
    pair_counts = result["pairs"]
    headings = ["", "comparisons", "flagged", "scatter of a repeat", "median change, all cells"]
    note = (
        f"All runs with all others: {pair_counts['flagged']} of {pair_counts['unchanged']} pairs of unchanged runs "
        f"flagged, {pair_counts['found']} of {pair_counts['slowed']} with a slowed one found."
    )
    return [TablePart(headings, rows, note)]


SUITE = Suite(
    options=Options,
    settings=lambda options: {"sleep_ms": options.sleep_ms, "repeats": options.repeats, "suite": SETTINGS},
    tasks=lambda options: SETTINGS["tasks"],
    measure=measure,
    report=report,
)
