"""The README's number and table, and the targets, drawn from the results of `fourshot compare` in bench/results.

    python -m fourshot.bench.suites.tables                          prints the table
    python -m fourshot.bench.suites.tables --write README.md        puts number and table between their markers
    python -m fourshot.bench.suites.tables --targets                prints the targets; --out FILE writes them as JSON

A result is the ``comparison.json`` of a comparison, copied to bench/results/compare-<task>-<hardware>.json.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.report.data import MethodRow
from fourshot.pipeline.scores import Scores

SCHEMA = 1
MISSING = "-"
RESULTS = Path(__file__).resolve().parents[1] / "results"
TASKS = {"sst2": "SST-2", "trec": "TREC", "ag_news": "AG News"}  # task -> heading, in the table's order
HOW_TO_MEASURE = (
    "Run `fourshot compare TASK --methods zero_shot,icl,lora,fourshot,lora25 --seeds 3` and copy its comparison.json "
    "to bench/results/compare-TASK-<hardware>.json"
)


class SeedScores(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one seed, less what no table shows."""

    scores: Scores


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed of a `Comparison`. Settings stay unread: results outlive changes of those."""

    schema: int
    task: str
    model_name: str
    seeds: list[int]
    rows: list[MethodRow]
    results: list[SeedScores]
    versions: dict[str, str] = {}
    hardware: dict[str, Any] = {}

    @property
    def num_test(self) -> int:
        return self.results[0].scores.n

    def row(self, method: str) -> MethodRow | None:
        return next((row for row in self.rows if row.method == method), None)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What was set out to be reached: ``measured`` at least ``goal``."""

    name: str
    unit: str
    measured: float
    goal: float
    met: bool


def load(folder: Path, hardware: str = "*", suite: str = "compare") -> dict[str, Result]:
    """The results of all `TASKS`, by task, in their order.

    ``hardware`` is the last part of the files' names, ``suite`` the first. Raises `InputError` where a task is missing
    or there twice, and where results do not belong together: other models or other seeds.
    """
    found: dict[str, tuple[Path, Result]] = {}
    for path in sorted(folder.glob(f"{suite}-*-{hardware}.json")):
        result = _read(path)
        if result.task in found:
            raise InputError(
                f"{folder} has two results for {result.task}: {found[result.task][0].name} and {path.name}. Choose "
                "with --hardware, the last part of the names, or remove one."
            )
        found[result.task] = path, result
    missing = [task for task in TASKS if task not in found]
    if missing:
        raise InputError(
            f"{folder} has no result for {', '.join(missing)} (looked for {suite}-<task>-{hardware}.json). "
            f"{HOW_TO_MEASURE}."
        )
    results = {task: found[task][1] for task in TASKS}
    for what in ("model_name", "seeds"):
        values = {task: getattr(result, what) for task, result in results.items()}
        if any(value != values["sst2"] for value in values.values()):
            raise InputError(f"The results do not belong together: {what} is {values}. Measure them alike.")
    return results


def _read(path: Path) -> Result:
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is no result of a comparison: {error}. {HOW_TO_MEASURE}.") from error
    if result.schema != SCHEMA or not result.rows or not result.results:
        raise InputError(
            f"{path} has schema {result.schema} and {len(result.rows)} methods; needed are schema {SCHEMA} and at "
            f"least one method. {HOW_TO_MEASURE}."
        )
    return result


def accuracies(results: Mapping[str, Result], method: str) -> list[float]:
    """Mean accuracy over seeds, 0 to 1, one per task. Raises `InputError` where a task lacks the method."""
    rows = {task: result.row(method) for task, result in results.items()}
    missing = [task for task, row in rows.items() if row is None]
    if missing:
        raise InputError(f"The method {method} was not measured on {', '.join(missing)}. {HOW_TO_MEASURE}.")
    return [row.accuracy for row in rows.values() if row is not None]


def targets(results: Mapping[str, Result]) -> list[Target]:
    """fourshot against what it has to reach. Points are per cent of accuracy; a goal below zero allows to be worse."""
    ours = accuracies(results, "fourshot")

    def points_above(method: str) -> list[float]:
        return [100 * (own - other) for own, other in zip(ours, accuracies(results, method), strict=True)]

    return [
        _target("fourshot, mean accuracy", "share", fmean(ours), 0.84),
        _target("fourshot above icl, mean", "points", fmean(points_above("icl")), 10),
        _target("fourshot above lora, mean", "points", fmean(points_above("lora")), 2),
        _target("fourshot above lora, worst task", "points", min(points_above("lora")), 0),
        _target("fourshot above lora25, mean", "points", fmean(points_above("lora25")), -4),
    ]


def _target(name: str, unit: str, measured: float, goal: float) -> Target:
    measured = round(measured, 6)  # equal accuracies may differ in the last bit
    return Target(name=name, unit=unit, measured=measured, goal=goal, met=measured >= goal)


def targets_file(results: Mapping[str, Result]) -> dict[str, Any]:
    """The content of compare-targets.json."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return {
        "schema": SCHEMA,
        "suite": "compare",
        "commit": head.stdout.strip(),
        "hardware": {task: result.hardware for task, result in results.items()},
        "versions": next(iter(results.values())).versions,
        "settings": {"model": next(iter(results.values())).model_name, "seeds": next(iter(results.values())).seeds},
        "summary": {task: {row.method: row.accuracy for row in result.rows} for task, result in results.items()},
        "targets": targets(results),
    }


def headline(results: Mapping[str, Result]) -> str:
    """The number, in one sentence, with what it is to be compared with."""
    ours, in_context = fmean(accuracies(results, "fourshot")), fmean(accuracies(results, "icl"))
    tokens = {
        method: fmean(row.prompt_tokens_per_example or 0 for result in results.values() if (row := result.row(method)))
        for method in ("fourshot", "icl")
    }
    real = [str(row.real_examples) for result in results.values() if (row := result.row("fourshot"))]
    first = next(iter(results.values()))
    return (
        f"**{100 * ours:.1f} %** of the test texts of {_listed(list(TASKS.values()))} are classified correctly "
        f"(mean of the three tasks, {len(first.seeds)} draws of the examples each) by {first.model_name} with an "
        f"adapter made from {_listed(real)} labelled texts. The same model with the same texts in its prompt: "
        f"{100 * in_context:.1f} %, and {tokens['icl']:.0f} prompt tokens per text instead of "
        f"{tokens['fourshot']:.0f}."
    )


def table(results: Mapping[str, Result]) -> str:
    """Methods by tasks as Markdown, then the targets. A method that a task lacks has a dash there and no mean."""
    first = next(iter(results.values()))
    names = {row.method: row.display_name for result in results.values() for row in result.rows}
    headings = ["", *TASKS.values(), "mean", "prompt tokens per text", "real texts", "synthetic texts"]
    lines = [
        f"Accuracy in per cent: mean ± sample standard deviation over {len(first.seeds)} draws of the shots. "
        f"{first.model_name}; {_listed([f'{result.num_test:,}' for result in results.values()])} test texts. "
        "The last three columns have one number per task.",
        "",
        f"| {' | '.join(headings)} |",
        f"| --- |{' ---: |' * (len(headings) - 1)}",
    ]
    for method, name in names.items():
        rows = [result.row(method) for result in results.values()]
        cells = [name, *(_accuracy(row) for row in rows)]
        cells.append(f"{100 * fmean(row.accuracy for row in rows if row):.1f}" if all(rows) else MISSING)
        cells += [
            _per_task([getattr(row, field) if row else None for row in rows])
            for field in ("prompt_tokens_per_example", "real_examples", "synthetic_examples")
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Set out to be reached:", ""]
    lines += [
        f"- {target.name}: {target.measured:.3g} {target.unit}, at least {target.goal:g} wanted, "
        f"{'met' if target.met else '**not met**'}"
        for target in targets(results)
    ]
    return "\n".join(lines)


def _accuracy(row: MethodRow | None) -> str:
    if row is None:
        return MISSING
    deviation = f" ± {100 * row.accuracy_deviation:.1f}" if row.accuracy_deviation else ""
    return f"{100 * row.accuracy:.1f}{deviation}"


def _per_task(values: Sequence[float | None]) -> str:
    return ", ".join(MISSING if value is None else f"{value:.0f}" for value in values)


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def fill(document: str, blocks: Mapping[str, str]) -> str:
    """``document`` with each block between ``<!-- name:start -->`` and ``<!-- name:end -->``, for what was there.

    Raises `InputError` where a pair of markers is not there exactly once.
    """
    for name, block in blocks.items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(document)) != 1:
            raise InputError(f"The document must have {start} and, after it, {end} exactly once. Put them in.")
        document = pattern.sub(lambda _, filled=f"{start}\n{block}\n{end}": filled, document)  # type: ignore[misc]
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 results or markers are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--hardware", default="*", help="last part of the results' names, where there are several")
    parser.add_argument("--write", type=Path, metavar="FILE", help="Markdown file with markers, to be filled")
    parser.add_argument("--targets", action="store_true", help="the targets instead of the table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="with --targets: write them there as JSON too")
    options = parser.parse_args(arguments)
    if options.out and not options.targets:
        parser.error("--out goes with --targets")
    try:
        results = load(options.results, options.hardware)
        if options.targets:
            for target in targets(results):
                print(
                    f"{'met    ' if target.met else 'NOT MET'} {target.name}: {target.measured:.3f} {target.unit}, "
                    f"at least {target.goal:g} wanted"
                )
            if options.out:
                encoded = msgspec.json.encode(targets_file(results))
                options.out.write_bytes(msgspec.json.format(encoded, indent=1) + b"\n")
        elif options.write:
            filled = fill(options.write.read_text("utf-8"), {"number": headline(results), "results": table(results)})
            options.write.write_text(filled, "utf-8")
        else:
            print(table(results))
    except InputError as error:
        print(f"fourshot.bench.suites.tables: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
