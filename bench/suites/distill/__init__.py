"""A student's accuracy by amount of real data, and by number of texts that its teacher annotated or generated.

    fourshot bench distill --data FOLDER --out FILE.json

FOLDER has a folder of train and test files for each task. The grid is real data (--real: a number per class, a share
such as 5%, or all) x strategy x amount of texts, for each seed. One teacher is trained for each task, amount of real
data and seed. Students are trained on parts of its texts. After a kill, the same command continues with the next cell.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby, product
from typing import Any

import msgspec

from fourshot.bench.core.options import as_settings
from fourshot.bench.core.parts import Page, Part, Section, TablePart
from fourshot.bench.core.results import FinishedPieces, show_progress, task_title
from fourshot.bench.core.statistics import estimate, with_interval
from fourshot.bench.core.suite import Suite
from fourshot.bench.suites.distill.cells import (
    NONE,
    TEACHER,
    Options,
    StudentCell,
    TeacherGroup,
    measure_cell,
    teach,
)
from fourshot.engine.errors import InputError
from fourshot.pipeline.report.figures import Curve, line_plot
from fourshot.pipeline.tasks.shots import check_real

Row = dict[str, Any]


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Measure the missing cells. A teacher is made only if one of its cells is missing.

    Raises InputError for invalid --real and negative --amounts.
    """
    for real in options.real:
        check_real(real)
    amounts = sorted({*options.amounts} - {0})
    if amounts and amounts[0] < 0:
        raise InputError(f"--amounts are numbers of texts from 0; got {amounts[0]}.")
    for task, real, seed in product(options.tasks, options.real, range(options.seeds)):
        group = TeacherGroup(task=task, real=real, seed=seed)
        cells = [StudentCell(strategy=TEACHER), StudentCell(strategy=NONE)]
        cells += [StudentCell(strategy=name, amount=amount) for name in options.strategies for amount in amounts]
        missing = [cell for cell in cells if group.piece(cell) not in done.pieces]
        if not missing:
            continue
        taught = teach(group, options)
        for cell in missing:
            row = {**msgspec.to_builtins(group), **measure_cell(taught, cell)}
            done.add(group.piece(cell), row)
            outcome = row.get("left_out") or f"accuracy {row['accuracy']:.3f} with {row['texts']} texts"
            show_progress(f"{group.piece(cell)}: {outcome}")
        taught.clear()
    measured_rows = [row for piece, row in done.pieces.items() if "/" in piece]
    measured = [row for row in measured_rows if "accuracy" in row]
    return {
        "rows": measured,
        "left_out": [row for row in measured_rows if "accuracy" not in row],
        "curves": curves_of(measured),
        "turning_points": turning_points(measured),
        "targets": [],
    }


def curves_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the curves: accuracy (%) by amount, mean and interval over seeds. All strategies share the point at 0."""
    curves = []
    for (task, real, strategy), curve_rows in _by_curve(rows).items():
        points = [
            {"amount": amount, **msgspec.to_builtins(estimate([100 * row["accuracy"] for row in cells], most=100))}
            for amount, cells in _by_amount(curve_rows).items()
        ]
        curves.append({"task": task, "real": real, "strategy": strategy, "points": points})
    return curves


def turning_points(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the smallest amount that no larger one improves on, by real data and strategy, or None for too few pairs.

    Amounts are compared in pairs with the same task and seed, pooled over all tasks. An improvement is a gain whose
    95 % interval (Student's t) is above 0.
    """
    pooled: dict[tuple[str, str], list[Row]] = {}
    for (_, real, strategy), curve_rows in _by_curve(rows).items():
        pooled.setdefault((real, strategy), []).extend(curve_rows)
    turns = []
    for (real, strategy), curve_rows in pooled.items():
        amounts = list(_by_amount(curve_rows))
        if len(amounts) < 2:
            continue
        turn = _turn(curve_rows, amounts)
        gain, change_after = None, None
        if turn is not None:
            gain, change_after = _gain(curve_rows, amounts[0], turn), _gain(curve_rows, turn, amounts[-1])
        turns.append({"real": real, "strategy": strategy, "no_gain_beyond": turn, "gain": gain, "then": change_after})
    return turns


def _turn(rows: Sequence[Row], amounts: Sequence[int]) -> int | None:
    """Return the first amount that no larger one improves on; None if it has too few pairs. ``amounts`` ascend."""
    for place, amount in enumerate(amounts):
        gains = [_gain(rows, amount, larger) for larger in amounts[place + 1 :]]
        if not any(gain and gain["low"] > 0 for gain in gains):
            return amount if all(gains) else None
    return None


def _gain(rows: Sequence[Row], few: int, many: int) -> dict[str, Any] | None:
    """Return the gain from ``few`` to ``many`` texts, in points; None for equal amounts and fewer than two pairs."""
    by_place: dict[tuple[str, int], dict[int, float]] = {}
    for row in rows:
        by_place.setdefault((row["task"], row["seed"]), {})[row["amount"]] = 100 * row["accuracy"]
    gains = [cells[many] - cells[few] for cells in by_place.values() if few in cells and many in cells]
    if few == many or len(gains) < 2:
        return None
    gain: dict[str, Any] = msgspec.to_builtins(estimate(gains, signed=True))
    return gain


def _by_curve(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Group the rows by task, real data and strategy; each group includes the students without texts, if any."""
    curves: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        curves[row["task"], row["real"], row["strategy"]].append(row)
    with_texts = {place[:2] for place in curves if place[2] not in (NONE, TEACHER)}
    return {
        (task, real, strategy): [*(curves.get((task, real, NONE), ()) if strategy != NONE else ()), *curve_rows]
        for (task, real, strategy), curve_rows in curves.items()
        if strategy != TEACHER and (strategy != NONE or (task, real) not in with_texts)
    }


def _by_amount(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Group the rows by amount of texts, ascending."""
    ordered = sorted(rows, key=lambda row: row["amount"])
    return {amount: list(cells) for amount, cells in groupby(ordered, key=lambda row: row["amount"])}


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return a table for each task, and a table of the turning points."""
    parts: list[Part] = []
    for task in result["settings"]["tasks"]:
        parts += [f"**{task_title(task)}**, accuracy in per cent:", _table(result, task)]
    columns: dict[str, Any] = {
        "real data": "{real}",
        "strategy": "{strategy}",
        "no gain beyond": lambda row: row["no_gain_beyond"],
        "gain up to there, points": lambda row: with_interval(row["gain"]) if row["gain"] else None,
        "change from there to the most, points": lambda row: with_interval(row["then"]) if row["then"] else None,
    }
    note = (
        "Over all tasks and seeds, in pairs, with intervals of 95 %. No gain beyond: the smallest amount that no "
        "larger one is better than by more than its interval; a dash where there are fewer than two pairs to compare."
    )
    if result["turning_points"]:
        parts.append(TablePart.of(result["turning_points"], columns, left=2, note=note))
    if result["left_out"]:
        cells = ", ".join("{task} {real} {strategy} {amount}".format_map(row) for row in result["left_out"])
        parts.append(f"Not measured, for want of texts: {cells}.")
    return parts


def _table(result: Mapping[str, Any], task: str) -> TablePart:
    curves = [curve for curve in result["curves"] if curve["task"] == task]
    amounts = sorted({point["amount"] for curve in curves for point in curve["points"]})
    lines: list[list[object]] = []
    for real in result["settings"]["real"]:
        teacher = [
            100 * row["accuracy"]
            for row in result["rows"]
            if (row["task"], row["real"], row["strategy"]) == (task, real, TEACHER)
        ]
        if teacher:
            accuracy = with_interval(estimate(teacher, most=100))
            lines.append([real, "the teacher", accuracy, *([None] * (len(amounts) - 1))])
        for curve in curves:
            if curve["real"] == real:
                by_amount = {point["amount"]: point for point in curve["points"]}
                lines.append([real, curve["strategy"], *(with_interval(by_amount.get(amount)) for amount in amounts)])
    return TablePart(["real data", "", *map(str, amounts)], lines, left=2)


def page(result: Mapping[str, Any]) -> Page:
    """Return a page with each task's curves by amount of real data, and the report's tables."""
    sections = []
    for task in result["settings"]["tasks"]:
        parts: list[Part] = []
        for real in result["settings"]["real"]:
            curves = [curve for curve in result["curves"] if (curve["task"], curve["real"]) == (task, real)]
            drawn = [_curve(curve) for curve in curves if len(curve["points"]) > 1]
            if drawn:
                x_name, note = f"texts beside {real} real", "intervals of 95 % over seeds"
                parts.append(line_plot(drawn, x_name=x_name, y_name="accuracy, %", y_from_zero=False, note=note))
        sections.append(Section(task_title(task), [*parts, _table(result, task)]))
    tables = report(result)[2 * len(sections) :]
    sections.append(Section("Where more texts no longer help", tables or ["Not measured."]))
    return Page("Students by real data and by what a teacher said", sections)


def _curve(curve: Mapping[str, Any]) -> Curve:
    points = curve["points"]
    has_intervals = all(point["low"] is not None for point in points)
    intervals = [(point["low"], point["high"]) for point in points] if has_intervals else []
    return Curve(curve["strategy"], [(point["amount"], point["mean"]) for point in points], intervals)


SUITE = Suite(
    options=Options,
    settings=lambda options: as_settings(
        options, "tasks", "real", "strategies", "amounts", "seeds", "test_limit", "student"
    ),
    measure=measure,
    report=report,
    page=page,
)
