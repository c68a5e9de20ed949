"""Whether `fourshot bench compare` finds a slowdown that was planted, and finds nothing where nothing changed.

    fourshot bench noise --data FOLDER --out FILE.json

A small latency suite is run many times over: as it is, and with a sleep before every step of the model. Each clean run
is compared with the next clean one, and with a slowed one; and all with all. Runs lie beside the result; a killed call
goes on with them.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

from fourshot.bench.core.old import (
    at_least,
    at_most,
    check_data,
    check_out,
    header,
    positive,
    read_result,
    target_lines,
    tell,
    write_json,
)
from fourshot.bench.suites.compare import compare

SCHEMA = 1
SETTINGS: dict[str, Any] = {
    "tasks": ["trec"],
    "ways": ["zero_shot", "icl_warm", "lora"],
    "repeats": 5,
    "requests": {"1": 10, "16": 32},
    "slow_requests": {},
    "http": False,
}


def run_once(name: str, sleep_ms: float, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One small suite, unless its result lies there."""
    out = folder / f"{name}.json"
    if not out.exists():
        settings = folder / "settings.json"
        settings.write_text(json.dumps(SETTINGS), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "fourshot",
            "bench",
            "latency",
            "--data",
            str(options.data),
            "--out",
            str(out),
        ]
        command += ["--settings", str(settings), "--plant-sleep-ms", str(sleep_ms)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            out.unlink(missing_ok=True)
            raise RuntimeError(f"run {name} ended with code {done.returncode}: {done.stderr[-2000:]}")
        tell(f"run {name}: done")
    return read_result(out, "latency")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All runs and comparisons."""
    check_out(options.out)
    check_data(options.data, SETTINGS["tasks"])
    folder = options.out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    clean = [run_once("clean-0", 0.0, options, folder)]
    slow = []
    rows = []
    for number in range(1, options.repeats + 1):
        clean.append(run_once(f"clean-{number}", 0.0, options, folder))
        slow.append(run_once(f"slowed-{number}", options.sleep_ms, options, folder))
        for kind, pair in (("noise", clean[-2:]), ("planted", [clean[-1], slow[-1]])):
            found = compare(*pair)
            rows.append(
                {
                    "kind": kind,
                    "number": number,
                    "flagged": sum(one.flagged for one in found.changes),
                    "slower": found.slower,
                    "overall": found.overall,
                    "overall_flagged": found.overall_flagged,
                    "scatter": found.scatter,
                    "bound": found.bound,
                }
            )
            tell(json.dumps(rows[-1]))
    noise = sum(bool(row["flagged"] or row["overall_flagged"]) for row in rows if row["kind"] == "noise")
    planted = sum(bool(row["slower"]) for row in rows if row["kind"] == "planted")
    told = {"sleep_ms": options.sleep_ms, "repeats": options.repeats, "suite": SETTINGS}
    return {
        **header("noise", SCHEMA, told),
        "comparisons": rows,
        "pairs": pairs(clean, slow),
        "targets": [
            at_most("comparisons of unchanged code that were flagged", "", noise, 0),
            at_least("planted slowdowns that were found", "", planted, options.repeats),
        ],
    }


def pairs(clean: Sequence[Mapping[str, Any]], slow: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How often `compare` is right and wrong over all pairs, which share runs and so are fewer than they look."""
    unchanged = [compare(*pair) for pair in combinations(clean, 2)]
    changed = [compare(*pair) for pair in product(clean, slow)]
    return {
        "unchanged": len(unchanged),
        "flagged": sum(found.overall_flagged or any(one.flagged for one in found.changes) for found in unchanged),
        "slowed": len(changed),
        "found": sum(found.slower for found in changed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with trec/")
    parser.add_argument("--out", type=Path, required=True, help="where the result goes; the runs in a folder beside it")
    parser.add_argument("--repeats", type=positive, default=10, help="comparisons of each kind (default: %(default)s)")
    parser.add_argument("--sleep-ms", type=float, default=10.0, help="of the planted slowdown (default: %(default)s)")
    options = parser.parse_args()
    result = measure(options)
    write_json(options.out, result)
    print("\n".join(target_lines(result)))


if __name__ == "__main__":
    main()
