"""Every measured number in README.md and docs/, and the README's picture, drawn from the results in bench/results.

    fourshot bench docs --write README.md docs/*.md     puts each block between its markers, <!-- NAME:start -->
    fourshot bench docs --only results                  prints it
    fourshot bench docs --targets --out FILE.json       the targets of `fourshot compare`

A result is what a suite wrote, copied to bench/results/<suite>-<hardware>.json; of `fourshot compare` its
comparison.json, as compare-<task>-<hardware>.json. A document with the block "picture" gets the picture's files in
docs/ beside it.
"""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from fourshot.bench.core.comparisons import Comparisons, load_comparisons
from fourshot.bench.core.parts import fill
from fourshot.bench.core.results import RESULTS, TITLES, read_result, tell, write_result
from fourshot.bench.core.suite import Command
from fourshot.bench.core.targets import target_lines, targets_of
from fourshot.bench.core.workload import WAYS
from fourshot.bench.suites import adapters_report, breakeven, diversity, serving
from fourshot.bench.suites import filter as filter_bench
from fourshot.bench.suites.docs.accuracy_picture import accuracy_bars, description, draw_pictures
from fourshot.bench.suites.docs.method_tables import headline, results_table, targets, targets_result, wordings_table
from fourshot.bench.suites.latency import report as latency_report
from fourshot.bench.suites.throughput import report as throughput_report
from fourshot.engine.errors import InputError

LINE_LENGTH = 120
SHOWN_LOADS = (1, 16, "saturated")
Result = Mapping[str, Any]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the command."""

    write: Annotated[tuple[Path, ...], "Markdown files with markers, to be filled; without it, blocks are printed"] = ()
    only: Annotated[tuple[str, ...], "blocks, in place of all"] = ()
    results: Annotated[Path, "folder of results"] = RESULTS
    hardware: Annotated[str, "last part of the results' names, where there are several"] = "*"
    targets: Annotated[bool, "the targets of `fourshot compare`, and nothing else"] = False
    out: Annotated[Path | None, "with --targets: write them there as JSON too"] = None


class ResultFolder(NamedTuple):
    """Where results lie, and of which machine they are to be."""

    folder: Path
    hardware: str

    def files(self, prefix: str) -> list[Path]:
        return sorted(self.folder.glob(f"{prefix}-{self.hardware}.json"))

    def comparisons(self, prefix: str = "compare") -> Comparisons:
        return load_comparisons(self.folder, self.hardware, prefix)

    def suite(self, name: str) -> dict[str, Any]:
        """Raises `InputError` where there is more than one."""
        files = self.files(name)
        if len(files) > 1:
            raise InputError(f"{name} is there {len(files)} times in {self.folder}. Name one with --hardware.")
        return read_result(files[0], name)


def latency(result: Result) -> str:
    """Ratios at three loads, and the targets."""
    few = {**result, "against_icl": [row for row in result["against_icl"] if row["concurrency"] in SHOWN_LOADS]}
    return _section(result, "", latency_report.ratio_table(few), "", *target_lines(targets_of(result)))


def gain(result: Result) -> str:
    """The headline: what a served adapter gains over each kind of in-context learning."""
    ratios = {(row["way"], row["task"], row["concurrency"]): row for row in result["against_icl"]}
    lines = [
        "| a served adapter, relative to in-context prompts | cache off, saturated | cache off, alone (p50) "
        "| cache warm, saturated | cache warm, alone (p50) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for task in result["settings"]["tasks"]:
        for way in ("lora", "lora_bare"):
            saturated, alone = ratios.get((way, task, "saturated")), ratios.get((way, task, 1))
            if saturated and alone:
                numbers = [
                    f"{row[state][measure]['mean']:.1f}"
                    for state in ("icl_off", "icl_warm")
                    for row, measure in ((saturated, "throughput"), (alone, "p50"))
                ]
                lines.append(f"| {TITLES[task]}: {WAYS[way].display_name} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def adapters(result: Result) -> str:
    settings = result["settings"]
    intro = (
        f"{settings['slots']} adapters in slots, {settings['memory_adapters']} in memory; {settings['kv_cache_mib']} "
        f"MiB for cached examples; {settings['concurrency']} requests at a time."
    )
    return _section(result, intro, "", adapters_report.console_table(result))


def against_vllm(result: Result) -> str:
    ours, theirs = result["ours"], result["vllm"]
    return _section(
        result,
        "",
        "| | ours | `vllm bench serve` |",
        "| --- | ---: | ---: |",
        f"| requests/s | {ours['requests_per_s']:.2f} | {theirs['requests_per_s']:.2f} |",
        f"| mean latency, ms | {ours['mean_latency_ms']:.1f} | {theirs['mean_latency_ms']:.1f} |",
        "",
        *target_lines(targets_of(result)),
    )


def in_context_filter(result: Result) -> str:
    settings = result["settings"]
    intro = f"{settings['task']}, {settings['k']} examples per class, {settings['candidates']:,} texts."
    return _section(result, intro, "", filter_bench.table(result))


def noise(result: Result) -> str:
    lines = [
        "| | comparisons | flagged | scatter of a repeat | median change, all cells |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind, name in (("noise", "nothing changed"), ("planted", f"{result['settings']['sleep_ms']:g} ms per step")):
        rows = [row for row in result["comparisons"] if row["kind"] == kind]
        flagged = sum(bool(row["flagged"] or row["overall_flagged"]) for row in rows)
        scatter = sum(row["scatter"] for row in rows) / len(rows)
        low, high = (100 * pick(row["overall"] for row in rows) for pick in (min, max))
        lines.append(f"| {name} | {len(rows)} | {flagged} | {100 * scatter:.1f} % | {low:+.1f} to {high:+.1f} % |")
    every = result["pairs"]
    pairs = (
        f"All runs with all others: {every['flagged']} of {every['unchanged']} pairs of unchanged runs flagged, "
        f"{every['found']} of {every['slowed']} with a slowed one found."
    )
    return _section(result, "", *lines, "", pairs, "", *target_lines(targets_of(result)))


def picture(comparisons: Comparisons) -> str:
    """How a README shows the picture, with the numbers for those who cannot see it."""
    return (
        '<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="docs/accuracy-dark.svg">\n'
        f'<img src="docs/accuracy-light.svg" alt="{description(accuracy_bars(comparisons))}">\n</picture>'
    )


def _section(result: Result, *lines: str) -> str:
    """``lines`` below the machine, the model and the commit that they are of."""
    hardware = result["hardware"]
    gpus = hardware.get("gpus")
    machine = ", ".join(gpus) if gpus else f"{hardware.get('processor', '?')}, {hardware.get('cores', '?')} cores"
    return "\n".join([f"{machine}; {result['settings'].get('model', '')}; commit {result['commit']}.", *lines])


def _of_suite(name: str, draw: Callable[[Result], str]) -> tuple[str, Callable[[ResultFolder], str]]:
    return name, lambda results: draw(results.suite(name))


# Block -> the beginning of its results' names, and how it is drawn.
BLOCKS: dict[str, tuple[str, Callable[[ResultFolder], str]]] = {
    "number": ("compare-*", lambda results: headline(results.comparisons())),
    "picture": ("compare-*", lambda results: picture(results.comparisons())),
    "results": ("compare-*", lambda results: results_table(results.comparisons())),
    "wordings": ("bare-*", lambda results: wordings_table(results.comparisons("bare"), results.comparisons())),
    "gain": _of_suite("latency", gain),
    "latency": _of_suite("latency", latency),
    "adapters": _of_suite("adapters", adapters),
    "breakeven": _of_suite("breakeven", lambda result: _section(result, "", breakeven.SUITE.markdown(result))),
    "against-vllm": _of_suite("against-vllm", against_vllm),
    "throughput": _of_suite("throughput", lambda result: _section(result, "", throughput_report.table(result))),
    "filter": _of_suite("filter", in_context_filter),
    "noise": _of_suite("noise", noise),
    "diversity": _of_suite("diversity", diversity.MEASUREMENT.markdown),
    "serving": _of_suite("serving", lambda result: serving.table(dict(result))),
}


def marked_blocks(document: str) -> list[str]:
    """The names of the blocks that ``document`` has markers for, in their order."""
    return known_blocks(list(dict.fromkeys(re.findall(r"<!-- ([\w-]+):(?:start|end) -->", document))))


def known_blocks(names: Sequence[str]) -> list[str]:
    """``names``. Raises `InputError` for one that is no block."""
    if unknown := [name for name in names if name not in BLOCKS]:
        raise InputError(f"There is no block {', '.join(unknown)}. There are {', '.join(BLOCKS)}.")
    return list(names)


def draw_blocks(results: ResultFolder, names: Sequence[str], required: bool = False) -> dict[str, str]:
    """Each block by name. One that was not measured is left out, unless ``required``: then `InputError` is raised."""
    drawn = {}
    for name in names:
        prefix, draw = BLOCKS[name]
        if results.files(prefix):
            drawn[name] = wrapped(draw(results).strip())
        elif required:
            raise InputError(
                f"{results.folder} has no result {prefix}-{results.hardware}.json. Measure, or name others."
            )
        else:
            tell(f"{name} was not measured: there is no {prefix}-{results.hardware}.json in {results.folder}")
    return drawn


def wrapped(block: str) -> str:
    """``block`` in lines of at most 120 characters, but for its tables."""
    lines = []
    for line in block.splitlines():
        indent = "  " if line.startswith(("- ", "<img")) else ""
        wraps = len(line) > LINE_LENGTH and not line.startswith("|")
        lines += textwrap.wrap(line, LINE_LENGTH, subsequent_indent=indent) if wraps else [line]
    return "\n".join(lines)


def run(options: Options) -> int:
    """Print or write. Raises `InputError` for missing results, unknown blocks and documents without their markers."""
    results, only = ResultFolder(options.results, options.hardware), known_blocks(options.only)
    if options.out and not options.targets:
        raise InputError("--out goes with --targets.")
    if options.targets:
        comparisons = results.comparisons()
        print("\n".join(target_lines(targets(comparisons))))
        if options.out:
            write_result(options.out, targets_result(comparisons))
    for path in options.write:
        document = path.read_text(encoding="utf-8")
        drawn = draw_blocks(results, only or marked_blocks(document), required=bool(only))
        path.write_text(fill(document, drawn), encoding="utf-8")
        if "picture" in drawn:
            draw_pictures(results.comparisons(), path.parent / "docs")
    if not options.write and not options.targets:
        print("\n\n".join(draw_blocks(results, only or list(BLOCKS), required=bool(only)).values()))
    return 0


SUITE = Command(options=Options, command=run)
