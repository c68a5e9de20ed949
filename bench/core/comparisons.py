"""Results of `fourshot compare`: ``comparison.json``, committed as bench/results/compare-<task>-<hardware>.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from fourshot.bench.core.results import TITLES
from fourshot.engine.checkpoints.embedded import NAME as EMBEDDED
from fourshot.engine.errors import InputError
from fourshot.pipeline.report.data import MethodRow
from fourshot.pipeline.runs.compare import SCHEMA, SeedResult

HOW_TO_MEASURE = (
    "Run `fourshot compare TASK --methods zero_shot,icl,lora,fourshot,lora25 --seeds 3` and copy its comparison.json "
    "to bench/results/compare-TASK-<hardware>.json"
)


class MeasuredComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A `Comparison` read from its file. Settings are untyped, because results must outlive changes of the settings."""

    schema: int
    task: str
    model_name: str
    model_revision: str
    seeds: tuple[int, ...]
    rows: tuple[MethodRow, ...]
    results: tuple[SeedResult, ...]
    settings: dict[str, dict[str, Any]]  # by method
    versions: dict[str, str] = {}
    hardware: dict[str, Any] = {}
    commit: str = ""

    @property
    def num_test(self) -> int:
        return self.results[0].scores.n

    def row(self, method: str) -> MethodRow | None:
        return next((row for row in self.rows if row.method == method), None)


Comparisons = Mapping[str, MeasuredComparison]  # by task, in the order of `TITLES`


def read_comparison(path: Path) -> MeasuredComparison:
    """Read ``path``. Raise `InputError` if it is not a result of `fourshot compare`."""
    try:
        comparison = msgspec.json.decode(path.read_bytes(), type=MeasuredComparison)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not a result of `fourshot compare`: {error}. {HOW_TO_MEASURE}.") from error
    if comparison.schema != SCHEMA or not comparison.results:
        raise InputError(
            f"{path} has schema {comparison.schema} and {len(comparison.results)} scores; schema {SCHEMA} and at "
            f"least one score are needed. {HOW_TO_MEASURE}."
        )
    return msgspec.structs.replace(comparison, rows=tuple(map(_named_as_now, comparison.rows)))


def _named_as_now(row: MethodRow) -> MethodRow:
    """Return ``row`` with today's name: earlier builds called bias-corrected methods "calibrated".

    Now the word refers to the temperature alone.
    """
    return msgspec.structs.replace(row, display_name=row.display_name.replace(", calibrated", ", bias-corrected"))


def load_comparisons(folder: Path, hardware: str = "*", prefix: str = "compare") -> Comparisons:
    """Return the first base's results of `load_bases`: the embedded base's, if it was measured. Raises like it."""
    return next(iter(load_bases(folder, hardware, prefix).values()))


def load_bases(folder: Path, hardware: str = "*", prefix: str = "compare") -> dict[str, Comparisons]:
    """Return the results ``<prefix>-<task>-<hardware>.json`` by base model, the embedded base first.

    Files of other bases have the name of the base before the hardware, and may cover only some of the tasks. Raises
    `InputError` if the first base lacks a task, or a base has two results for a task or different seeds per task.
    """
    by_base: dict[str, dict[str, tuple[Path, MeasuredComparison]]] = {}
    for path in sorted(folder.glob(f"{prefix}-*-{hardware}.json")):
        comparison = read_comparison(path)
        by_task = by_base.setdefault(comparison.model_name, {})
        if comparison.task in by_task:
            raise InputError(
                f"{folder} has two results for {comparison.task}: {by_task[comparison.task][0].name} and {path.name}. "
                "Choose with --hardware, the last part of the names, or remove one."
            )
        by_task[comparison.task] = path, comparison
    if not by_base:
        raise InputError(f"{folder} has no result (looked for {prefix}-<task>-{hardware}.json). {HOW_TO_MEASURE}.")
    names = sorted(by_base, key=lambda name: (name != EMBEDDED, name))
    if missing := [task for task in TITLES if task not in by_base[names[0]]]:
        raise InputError(
            f"There is no result for {', '.join(missing)} with the base {names[0]} (looked for "
            f"{prefix}-<task>-{hardware}.json in {folder}). {HOW_TO_MEASURE}."
        )
    bases: dict[str, Comparisons] = {
        name: {task: by_base[name][task][1] for task in TITLES if task in by_base[name]} for name in names
    }
    for comparisons in bases.values():
        seeds = {task: comparison.seeds for task, comparison in comparisons.items()}
        if len(set(seeds.values())) > 1:
            raise InputError(
                f"The results do not belong together: seeds is {seeds}. Measure them with the same settings."
            )
    return bases


def method_rows(comparisons: Comparisons, method: str) -> list[MethodRow]:
    """Return the rows of ``method``, one per task. Raises `InputError` if a task lacks it."""
    rows = {task: comparison.row(method) for task, comparison in comparisons.items()}
    missing = [task for task, row in rows.items() if row is None]
    if missing:
        raise InputError(f"The method {method} was not measured on {', '.join(missing)}. {HOW_TO_MEASURE}.")
    return [row for row in rows.values() if row is not None]


def draw_means(rows: Sequence[MethodRow]) -> list[float]:
    """Return the mean accuracy over ``rows`` (one per task) for each draw of the shots, in per cent."""
    return [100 * fmean(draw) for draw in zip(*(row.seed_accuracies for row in rows), strict=True)]


def in_words(items: Sequence[str]) -> str:
    """Join ``items``, of which there is at least one: ``["a", "b", "c"]`` -> "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
