"""Compare two results of the suite latency, or two of adapters: what changed by more than their noise.

    fourshot bench compare BEFORE.json AFTER.json

The values of the repeats are compared, cell by cell. Each is scaled by a yardstick, a fixed computation timed around
the cell, so that a slower machine is not mistaken for a slower engine. The variance of repeats is pooled over all cells
of both results, because three repeats of one cell say little about it.

There are two tests. Did everything change? The median change over all cells must exceed the bound that the variance
gives for such a median. It must also exceed `DRIFT`, by which runs of the same code, minutes apart, can differ on a
shared machine. Did a cell change? Its change must exceed the bound for the largest of that many chance differences, and
`LEAST`. If not everything changed, the common change is considered drift and subtracted first.

Exit code 1 if something became slower, 0 otherwise, 2 for files that cannot be compared.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, pvariance
from typing import Annotated, Any, NamedTuple

import msgspec
from scipy.stats import t  # type: ignore[import-untyped]

from fourshot.bench.core.options import POSITIONAL
from fourshot.bench.core.parts import Part, TablePart, markdown
from fourshot.bench.core.results import read_result, show_progress
from fourshot.bench.core.suite import SuiteCommand
from fourshot.engine.errors import InputError

CHANCE = 0.01  # probability of a false alarm among all cells
DRIFT = 0.10  # share; more than twice the standard deviation over pairs of unchanged runs (docs/benchmarks.md)
LEAST = 0.05  # least change of a flagged cell, as a share
EQUAL_SPEED = "Values are geometric means over the repeats, as the first result's machine would have measured them."
DRIFT_APART = f"{EQUAL_SPEED} The last column is relative to the common change, which counts as drift."
COMPARED = {"latency": ("route", "way", "task", "load"), "adapters": ("kind", "spread", "number")}
MEASURES = {"requests_per_s": -1.0, "p50_ms": 1.0}  # value -> sign of a change to slower


class CellChange(msgspec.Struct, frozen=True, kw_only=True):
    """The change of one value of one cell."""

    cell: str
    measure: str
    before: float
    after: float
    slower: float  # share of ``before``, without drift; 0.1: 10 % slower, whatever the measure; negative: faster
    flagged: bool


class ResultChanges(msgspec.Struct, frozen=True, kw_only=True):
    """All changes between two results, with the bounds that they are judged by."""

    changes: tuple[CellChange, ...]
    scatter: float  # standard deviation of a repeat's logarithm
    bound: float  # beyond which a cell's change is flagged, as a share
    overall: float  # median change over all cells, as a share; positive: slower
    overall_bound: float
    overall_flagged: bool

    @property
    def slower(self) -> bool:
        flagged = any(change.flagged and change.slower > 0 for change in self.changes)
        return flagged or (self.overall_flagged and self.overall > 0)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> ResultChanges:
    """Compare two results. Raises InputError if their suites differ, or no cell has two repeats in both."""
    pairs = _pairs(before, after)
    freedom = sum(len(pair.earlier) + len(pair.later) - 2 for pair in pairs)
    squares = (len(side) * pvariance(side) for pair in pairs for side in (pair.earlier, pair.later))
    scatter = math.sqrt(sum(squares) / freedom)
    quantile = float(t.ppf(1 - CHANCE / len(pairs) / 2, freedom))
    repeats = min(min(len(pair.earlier), len(pair.later)) for pair in pairs)
    overall = median(pair.slower for pair in pairs)
    # A median over many cells varies far less than a cell; `DRIFT` covers what all repeats share.
    overall_bound = max(math.log1p(DRIFT), 3 * scatter * math.sqrt(2 / repeats / len(pairs)) * 1.25)
    overall_flagged = abs(overall) > overall_bound
    drift = 0.0 if overall_flagged else overall
    return ResultChanges(
        changes=tuple(pair.change(drift, quantile * scatter) for pair in pairs),
        scatter=scatter,
        bound=max(math.expm1(quantile * scatter * math.sqrt(2 / repeats)), LEAST),
        overall=math.expm1(overall),
        overall_bound=math.expm1(overall_bound),
        overall_flagged=overall_flagged,
    )


class CellPair(NamedTuple):
    """One value of one cell in both results, as a logarithm per repeat."""

    cell: str
    measure: str
    earlier: list[float]
    later: list[float]

    @property
    def slower(self) -> float:
        return MEASURES[self.measure] * (fmean(self.later) - fmean(self.earlier))

    def change(self, drift: float, bound: float) -> CellChange:
        """Return the change. ``drift``: the change common to all pairs; ``bound``: on a single repeat's deviation."""
        slower = self.slower - drift
        bound *= math.sqrt(1 / len(self.earlier) + 1 / len(self.later))
        return CellChange(
            cell=self.cell,
            measure=self.measure,
            before=math.exp(fmean(self.earlier)),
            after=math.exp(fmean(self.later)),
            slower=math.expm1(slower),
            flagged=abs(slower) > max(bound, math.log1p(LEAST)),
        )


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[CellPair]:
    """Return the values with two repeats in both results. Raises InputError for none, or incomparable results."""
    suite = before["suite"]
    if suite != after["suite"] or suite not in COMPARED:
        raise InputError(
            f"got results of {before['suite']!r} and {after['suite']!r}. Both must be of one of these suites: "
            f"{', '.join(COMPARED)}."
        )
    _check_comparable(before, after)
    if not before.get("cells") or not after.get("cells"):
        raise InputError(
            "a result without cells was given: its measurement was cut off before the first. Measure again."
        )
    yards = [yard for cell in before["cells"] for yard in cell.get("yardstick_s") or [] if yard]
    yard_s = median(yards) if yards else 0.0  # 0: not timed
    earlier, later = _values(before, suite, yard_s), _values(after, suite, yard_s)
    shared = [key for key in earlier if key in later and min(len(earlier[key]), len(later[key])) > 1]
    if not shared:
        raise InputError(
            "the two results have no cell with two repeats in common: measure both with the same settings."
        )
    if zeros := [key[0] for key in shared if not all((*earlier[key], *later[key]))]:
        raise InputError(f"the cell {zeros[0]} has a value of 0, which is impossible. Measure it again.")
    return [CellPair(*key, list(map(math.log, earlier[key])), list(map(math.log, later[key]))) for key in shared]


def report(compared: ResultChanges) -> list[Part]:
    """Return a table of the flagged changes, and a summary."""
    flagged = sorted((change for change in compared.changes if change.flagged), key=lambda change: -change.slower)
    rows = [
        (change.cell, change.measure, f"{change.before:.2f}", f"{change.after:.2f}", f"{100 * change.slower:+.1f} %")
        for change in flagged
    ]
    beyond = "beyond noise" if compared.overall_flagged else "within noise"
    note = EQUAL_SPEED if compared.overall_flagged else DRIFT_APART
    direction = "slower" if compared.overall > 0 else "faster"
    return [
        *([TablePart(["cell", "", "before", "after", "slower by"], rows, left=2, note=note)] if rows else []),
        f"{len(flagged)} of {len(compared.changes)} values changed beyond noise (a repeat scatters by "
        f"{100 * compared.scatter:.1f} %, so a change counts {_beyond(compared.bound)}).\n"
        f"Everything together: {abs(100 * compared.overall):.1f} % {direction}, {beyond} (it counts "
        f"{_beyond(compared.overall_bound)}).",
    ]


def _beyond(bound: float) -> str:
    """Return the two bounds of ``slower`` in `CellChange` as text; as ratios, they are equal in both directions."""
    return f"from {100 * bound:+.1f} % or {100 * (1 / (1 + bound) - 1):+.1f} % on"


def _check_comparable(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise InputError if the results are of different models or shapes, and so of different computations."""
    for name in ("model", "shape", "dummy_weights"):
        values = [(result.get("settings") or {}).get(name, result.get(name)) for result in (before, after)]
        if None not in values and values[0] != values[1]:
            raise InputError(
                f"the results differ in {name.replace('_', ' ')}: {values[0]} and {values[1]}. Give two that were "
                "measured with the same."
            )


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield the differences in hardware, versions and settings."""
    for part in ("hardware", "versions", "settings"):
        earlier, later = (result.get(part) or {} for result in (before, after))
        for name in sorted({*earlier, *later}):
            if earlier.get(name) != later.get(name):
                yield f"{part} {name}: {earlier.get(name)}, {later.get(name)}"


def _values(result: Mapping[str, Any], suite: str, yard_s: float) -> dict[tuple[str, str], Sequence[float]]:
    names = COMPARED[suite]
    return {
        ("/".join(str(cell[name]) for name in names), measure): _at_equal_speed(cell, measure, yard_s)
        for cell in result["cells"]
        for measure in MEASURES
        if measure in cell
    }


def _at_equal_speed(cell: Mapping[str, Any], measure: str, yard_s: float) -> list[float]:
    """Scale the values to a machine whose yardstick takes ``yard_s``; unchanged if a yardstick is missing."""
    values, yards = cell[measure]["values"], cell.get("yardstick_s") or []
    if not yard_s or len(yards) != len(values) or not all(yards):
        return list(values)
    return [value * (yard / yard_s) ** -MEASURES[measure] for value, yard in zip(values, yards, strict=True)]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    before: Annotated[Path, POSITIONAL, "a result"]
    after: Annotated[Path, POSITIONAL, "a later one of the same suite"]


def run_compare(options: Options) -> int:
    """Compare and print. Return 1 if something became slower, otherwise 0."""
    before, after = read_result(options.before), read_result(options.after)
    compared = compare(before, after)
    if differences := list(_differences(before, after)):
        show_progress("Not the same in both: " + "; ".join(differences))
    print(markdown(report(compared)))
    return 1 if compared.slower else 0


SUITE = SuiteCommand(options=Options, command=run_compare)
