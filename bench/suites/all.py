"""The suites that compare adapters with in-context learning, one after the other: latency, adapters, breakeven, paper.

    fourshot bench all --data FOLDER --out FOLDER

Each writes FOLDER/<suite>.json and its page; a run that was killed goes on where it was. For a
suite's own options, run that suite.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from fourshot.bench.core.old import check_data, tell

SUITES = ("latency", "adapters", "breakeven", "paper")


def command(suite: str, data: Path, out: Path, model: str | None) -> list[str]:
    """How a suite is run."""
    given = [sys.executable, "-m", "fourshot", "bench", suite, "--data", str(data), "--out", str(out / f"{suite}.json")]
    if suite == "breakeven":
        given += ["--latency", str(out / "latency.json")]
    if suite == "paper":
        given += ["--report", str(out / "paper.html"), "--runs", str(out / "paper-runs")]
    return [*given, *(["--model", model] if model else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with sst2/, trec/ and ag_news/")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--model", help="base model; the embedded one if left out")
    parser.add_argument("--suites", default=",".join(SUITES), help="comma-separated (default: %(default)s)")
    options = parser.parse_args()
    suites = options.suites.split(",")
    if unknown := sorted(set(suites) - set(SUITES)):
        parser.error(f"unknown suites {unknown}; allowed are {', '.join(SUITES)}")
    check_data(options.data, ("sst2", "trec", "ag_news"))
    if "breakeven" in suites and "latency" not in suites and not (options.out / "latency.json").exists():
        parser.error(f"breakeven needs {options.out / 'latency.json'}, which latency writes: add it to --suites")
    for suite in suites:
        tell(f"== {suite}")
        done = subprocess.run(command(suite, options.data, options.out, options.model))
        if done.returncode:
            raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
