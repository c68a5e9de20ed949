"""The measured numbers in README.md and docs/, and the README's picture, from the results in bench/results.

    fourshot bench docs --write README.md docs/*.md     fills each block between its markers, <!-- NAME:start -->
    fourshot bench docs --only results                  prints a block
    fourshot bench docs --targets --out FILE.json       the targets of `fourshot compare`

A suite's result is copied to bench/results/<suite>-<hardware>.json. The comparison.json of `fourshot compare` is copied
to compare-<task>-<hardware>.json, or compare-<task>-<base>-<hardware>.json for a further base. bench/results/seen.toml
records when labels of which texts were compared with predictions. For a document with the block "picture", the
picture's files are written to docs/ beside it.
"""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from fourshot.bench.core.comparisons import Comparisons, load_bases, load_comparisons
from fourshot.bench.core.parts import TablePart, fill, markdown, target_lines, targets_of
from fourshot.bench.core.results import RESULTS, read_result, show_progress, write_result
from fourshot.bench.core.suite import SuiteCommand
from fourshot.bench.suites import load_suite
from fourshot.bench.suites.docs import method_tables as tables
from fourshot.bench.suites.docs.accuracy_picture import accuracy_bars, description, draw_pictures
from fourshot.bench.suites.docs.side_by_side import AGAIN, side_by_side
from fourshot.bench.suites.latency.report import gain, rates, ratios
from fourshot.engine.checkpoints.embedded import NAME
from fourshot.engine.errors import InputError

LINE_LENGTH = 120
SHOWN_LOADS = (1, 16, "saturated")
GPU_RESULTS = "gpu-latency-*.json"
SEEN_FILE = "seen.toml"
SuiteResult = Mapping[str, Any]


class SpotCheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An occasion on which labels of some texts were compared with predictions."""

    when: str  # a date
    base: str
    commit: str  # commit of the code that predicted; "" for work over many commits
    texts: str
    why: str


class SpotChecks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of the file `SEEN_FILE`."""

    seen: tuple[SpotCheck, ...]


def load_spot_checks(folder: Path) -> tuple[SpotCheck, ...]:
    """Read the spot checks of `SEEN_FILE` in ``folder``. Raises `InputError` if it is missing or invalid."""
    file = folder / SEEN_FILE
    try:
        return msgspec.toml.decode(file.read_bytes(), type=SpotChecks).seen
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}. It records which texts were seen when.") from error
    except msgspec.DecodeError as error:
        keys = ", ".join(SpotCheck.__struct_fields__)
        raise InputError(f"{file} is not a list of spot checks: {error}. Write [[seen]] with {keys}.") from error


def spot_check_table(folder: Path) -> str:
    """Return the spot checks in the file's order, oldest first, as a Markdown table."""
    rows = [(item.when, item.base, item.texts, item.why, item.commit or None) for item in load_spot_checks(folder)]
    return markdown([TablePart(["date", "base model", "texts", "purpose", "commit"], rows, left=5)])


class Options(msgspec.Struct, frozen=True, kw_only=True):
    write: Annotated[tuple[Path, ...], "Markdown files with markers, to be filled; without it, blocks are printed"] = ()
    only: Annotated[tuple[str, ...], "blocks, in place of all"] = ()
    results: Annotated[Path, "folder of results"] = RESULTS
    hardware: Annotated[str, "last part of the results' names, where there are several"] = "*"
    targets: Annotated[bool, "the targets of `fourshot compare`, and nothing else"] = False
    out: Annotated[Path | None, "with --targets: write them there as JSON too"] = None


class ResultFolder(NamedTuple):
    """A folder of results, and the hardware in their names."""

    folder: Path
    hardware: str

    def files(self, prefix: str) -> list[Path]:
        """Return the results that `named` matches, sorted."""
        return sorted(self.folder.glob(self.named(prefix)))

    def named(self, prefix: str) -> str:
        """Return the pattern of file names: ``prefix`` itself if it has an ending, otherwise with the hardware."""
        return prefix if "." in prefix else f"{prefix}-{self.hardware}.json"

    def comparisons(self, prefix: str = "compare") -> Comparisons:
        return load_comparisons(self.folder, self.hardware, prefix)

    def bases(self) -> dict[str, Comparisons]:
        return load_bases(self.folder, self.hardware)

    def suite(self, name: str) -> dict[str, Any]:
        """Read the result of the suite ``name``. Raises `InputError` if there are several."""
        files = self.files(name)
        if len(files) > 1:
            raise InputError(f"{name} is there {len(files)} times in {self.folder}. Name one with --hardware.")
        return read_result(files[0], name)


def with_filler(results: ResultFolder) -> SuiteResult:
    """Return the latency result of a later measurement with filler, as runs make adapters, or the suite's own."""
    later = results.files(f"{AGAIN}/latency-filler-*.json")
    return read_result(later[-1], "latency") if later else results.suite("latency")


def latency(result: SuiteResult) -> str:
    """Return the ratios at three loads, and the targets."""
    return _section(result, "", markdown([ratios(result, SHOWN_LOADS)]), "", *target_lines(targets_of(result)))


def gpu_latency(results: ResultFolder) -> str:
    """Return requests per second for each result on a GPU, with or without ``torch.compile``, and the targets."""
    sections = []
    for file in results.files(GPU_RESULTS):
        result = read_result(file, "latency")
        start = "with" if result["settings"]["compile"] else "without"
        missing = len(result["missing"])
        lines = [f"Started {start} `torch.compile`; dummy weights. Texts per second, lowest to highest repeat."]
        if missing:
            lines.append(f"{missing} measurements of single repeats are missing, because the machine was lost.")
        table, goals = markdown([rates(result, SHOWN_LOADS)]), target_lines(targets_of(result))
        sections.append(_section(result, *lines, "", table, "", *goals))
    return "\n\n".join(sections)


def picture(comparisons: Comparisons) -> str:
    """Return the picture's HTML for a README, with the numbers as alternative text."""
    return (
        '<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="docs/accuracy-dark.svg">\n'
        f'<img src="docs/accuracy-light.svg" alt="{description(accuracy_bars(comparisons))}">\n</picture>'
    )


def _section(result: SuiteResult, *lines: str) -> str:
    """Return ``lines`` below a line with the machine, the model (if the settings name one) and the commit."""
    hardware = result["hardware"]
    gpus = hardware.get("gpus")
    machine = ", ".join(gpus) if gpus else f"{hardware.get('processor', '?')}, {hardware.get('cores', '?')} cores"
    model = result["settings"].get("model", "")
    facts = (machine, NAME if model == "embedded" else model, f"commit {result['commit']}")
    return "\n".join(["; ".join(filter(None, facts)) + ".", *lines])


def _of_suite(name: str, draw: Callable[[SuiteResult], str]) -> tuple[str, Callable[[ResultFolder], str]]:
    return name, lambda results: draw(results.suite(name))


def _report(result: SuiteResult) -> str:
    """Return the report and targets of the suite that wrote ``result``."""
    suite: Any = load_suite(result["suite"])[0]
    report: str = suite.markdown(result)
    return report


PLACED = ("adapters", "breakeven", "against-vllm", "throughput", "filter", "noise")  # shown below machine and commit
# Block -> prefix of its results' names, and the function that renders it.
BLOCKS: dict[str, tuple[str, Callable[[ResultFolder], str]]] = {
    "number": ("compare-*", lambda results: tables.headline(results.comparisons())),
    "baselines": ("compare-*", lambda results: tables.baselines(results.comparisons())),
    "picture": ("compare-*", lambda results: picture(results.comparisons())),
    "accuracy": ("compare-*", lambda results: tables.base_tables(results.bases(), tables.short_table)),
    "results": ("compare-*", lambda results: tables.base_tables(results.bases(), tables.results_table)),
    "seen": (SEEN_FILE, lambda results: spot_check_table(results.folder)),
    "wordings": ("bare-*", lambda results: tables.wordings_table(results.comparisons("bare"), results.comparisons())),
    "gain": ("latency", lambda results: markdown([gain(with_filler(results))])),
    "latency": _of_suite("latency", latency),
    "gpu": (GPU_RESULTS, gpu_latency),
    **{name: _of_suite(name, lambda result: _section(result, "", _report(result))) for name in PLACED},
    **{name: _of_suite(name, _report) for name in ("engine-start", "diversity", "fleet", "serving", "paper")},
    "again": (f"{AGAIN}/*.json", lambda results: side_by_side(results.folder)),
}


def marked_blocks(document: str) -> list[str]:
    """Return the names of the blocks that ``document`` has markers for, in order. Raises as `known_blocks`."""
    return known_blocks(list(dict.fromkeys(re.findall(r"<!-- ([\w-]+):(?:start|end) -->", document))))


def known_blocks(names: Sequence[str]) -> list[str]:
    """Return ``names`` as a list. Raises `InputError` if one is not a block."""
    if unknown := [name for name in names if name not in BLOCKS]:
        raise InputError(f"There is no block {', '.join(unknown)}. There are {', '.join(BLOCKS)}.")
    return list(names)


def draw_blocks(results: ResultFolder, names: Sequence[str], required: bool = False) -> dict[str, str]:
    """Render the blocks ``names``. A block without results is left out, or if ``required``, raises `InputError`."""
    blocks = {}
    for name in names:
        prefix, draw = BLOCKS[name]
        if results.files(prefix):
            blocks[name] = wrapped(draw(results).strip())
        elif required:
            raise InputError(f"{results.folder} has no result {results.named(prefix)}. Measure, or name others.")
        else:
            show_progress(f"{name} was not measured: there is no {results.named(prefix)} in {results.folder}")
    return blocks


def wrapped(block: str) -> str:
    """Wrap the lines of ``block`` at 120 characters, except tables."""
    lines = []
    for line in block.splitlines():
        indent = "  " if line.startswith(("- ", "<img")) else ""
        wraps = len(line) > LINE_LENGTH and not line.startswith("|")
        lines += textwrap.wrap(line, LINE_LENGTH, subsequent_indent=indent, break_on_hyphens=False) if wraps else [line]
    return "\n".join(lines)


def run(options: Options) -> int:
    """Print or write the blocks. Raises `InputError` for missing results, unknown blocks, and missing markers."""
    results, only = ResultFolder(options.results, options.hardware), known_blocks(options.only)
    if options.out and not options.targets:
        raise InputError("--out goes with --targets.")
    if not options.results.is_dir():
        raise InputError(f"--results {options.results} is not a folder. Name one with results of `fourshot bench`.")
    if missing := [str(path) for path in options.write if not path.is_file()]:
        raise InputError(f"--write: there is no file {missing[0]}. Name Markdown files that have markers.")
    if options.targets:
        comparisons = results.comparisons()
        print("\n".join(target_lines(tables.targets(comparisons))))
        if options.out:
            write_result(options.out, tables.targets_result(comparisons))
    for path in options.write:
        document = path.read_text(encoding="utf-8")
        drawn = draw_blocks(results, only or marked_blocks(document), required=bool(only))
        path.write_text(fill(document, drawn), encoding="utf-8")
        if "picture" in drawn:
            draw_pictures(results.comparisons(), path.parent / "docs")
    if not options.write and not options.targets:
        print("\n\n".join(draw_blocks(results, only or list(BLOCKS), required=bool(only)).values()))
    return 0


SUITE = SuiteCommand(options=Options, command=run)
