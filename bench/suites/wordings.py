"""What the instruction in a classifier's prompt is worth: the table in docs/training.md.

    python -m fourshot.bench.suites.wordings                             prints it
    python -m fourshot.bench.suites.wordings --write docs/training.md    puts it between its markers

Drawn from bench/results/bare-<task>-<hardware>.json, the ``comparison.json`` of comparisons of `PAIRS`, and for the
prompt in context from compare-<task>-<hardware>.json.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from fourshot.bench.suites import tables
from fourshot.bench.suites.tables import RESULTS, TASKS, Result
from fourshot.engine.errors import InputError
from fourshot.pipeline.report.data import MethodRow

PAIRS = {"lora": "lora_bare", "fourshot": "fourshot_bare", "lora25": "lora25_bare"}  # with the instruction, without


def table(compared: Mapping[str, Result], in_context: Mapping[str, Result]) -> str:
    """Accuracy, prompt tokens and their ratio to those in context, by task, as Markdown.

    Every cell has the number with the instruction, then that without it. Raises `InputError` where a method is missing.
    """
    lines = [f"|  | {' | '.join(TASKS.values())} | mean |", f"| --- |{' ---: |' * (len(TASKS) + 1)}"]
    for plain, bare in PAIRS.items():
        rows = list(zip(_rows(compared, plain), _rows(compared, bare), strict=True))
        means = fmean(row.accuracy for row, _ in rows), fmean(row.accuracy for _, row in rows)
        cells = [_accuracies(*pair) for pair in rows]
        lines.append(
            _line(rows[0][0].display_name, [*cells, f"{_two(*means, 100)} ({100 * (means[1] - means[0]):+.1f})"])
        )
    with_it, without = (_tokens(compared, method) for method in ("fourshot", "fourshot_bare"))
    shown = _tokens(in_context, "icl")
    ratios = [[icl / own for icl, own in zip(shown, tokens, strict=True)] for tokens in (with_it, without)]
    lines.append(_line("prompt tokens per text", _pairs(with_it, without)))
    lines.append(_line("in context, times as many", _pairs(*ratios)))
    return "\n".join(lines)


def _accuracies(plain: MethodRow, bare: MethodRow) -> str:
    """Both, and by how much the second is better: mean and sample standard deviation over the draws."""
    gains = [100 * (two - one) for one, two in zip(plain.seed_accuracies, bare.seed_accuracies, strict=True)]
    spread = f" ± {stdev(gains):.1f}" if len(gains) > 1 else ""
    return f"{_two(plain.accuracy, bare.accuracy, 100)} ({fmean(gains):+.1f}{spread})"


def _rows(results: Mapping[str, Result], method: str) -> list[MethodRow]:
    tables.accuracies(results, method)  # raises where one is missing
    return [row for result in results.values() if (row := result.row(method))]


def _tokens(results: Mapping[str, Result], method: str) -> list[float]:
    return [row.prompt_tokens_per_example or 0.0 for row in _rows(results, method)]


def _pairs(plain: Sequence[float], bare: Sequence[float]) -> list[str]:
    both = [*zip(plain, bare, strict=True), (fmean(plain), fmean(bare))]
    return [_two(*pair) for pair in both]


def _two(one: float, other: float, factor: float = 1.0) -> str:
    return f"{factor * one:.1f}, {factor * other:.1f}"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 2 results or markers are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--hardware", default="*", help="last part of the results' names, where there are several")
    parser.add_argument("--write", type=Path, metavar="FILE", help="Markdown file with markers, to be filled")
    options = parser.parse_args(arguments)
    try:
        drawn = table(
            tables.load(options.results, options.hardware, "bare"), tables.load(options.results, options.hardware)
        )
        if options.write:
            options.write.write_text(tables.fill(options.write.read_text("utf-8"), {"wordings": drawn}), "utf-8")
        else:
            print(drawn)
    except InputError as error:
        print(f"fourshot.bench.suites.wordings: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
