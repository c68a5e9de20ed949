"""Figures of a benchmark's page: curves and grouped bars, each with a legend, the names of its axes and error bars."""

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import SubElement

from markupsafe import Markup

from fourshot.pipeline.report import plots, svg
from fourshot.pipeline.report.plots import Curve, colour_class

BAR_HEIGHT = 18  # px, the gap included; the numbers beside the bars have this line height
NO_BAR = "\u2013"

__all__ = ["Bars", "Curve", "bar_plot", "line_plot"]


class Bars(NamedTuple):
    """A named series: a value per group, None where it was not measured; ``intervals`` none at all or one per group."""

    name: str
    values: Sequence[float | None]
    intervals: Sequence[tuple[float, float] | None] = ()


def line_plot(
    curves: Sequence[Curve],
    *,
    x_name: str,
    y_name: str,
    log_x: bool = False,
    log_y: bool = False,
    y_from_zero: bool = True,
    note: str = "",
) -> Markup:
    """A figure of curves, with a dot at each point where there are few. Names and note are escaped.

    Raises ValueError where `pipeline.report.plots.line_plot` does: nothing to draw, NaN, log of 0.
    """
    curves = [curve._replace(marked=curve.marked or len(curve.points) <= plots.MAX_MARKED) for curve in curves]
    ends = "; ".join(
        f"{c.name}: {svg.number(c.points[-1][1])} at {svg.number(c.points[-1][0])}" for c in curves if c.points
    )
    label = f"{y_name} against {x_name}. {ends}"
    plot = plots.line_plot(curves, label, log_x=log_x, log_y=log_y, y_from_zero=y_from_zero)
    return Markup(
        '<figure class="lines">{legend}<div class="frame">{plot}</div><p class="axis-name">{x_name}</p>{note}</figure>'
    ).format(legend=_legend(y_name, [c.name for c in curves]), plot=plot, x_name=x_name, note=_note(note))


def bar_plot(
    groups: Sequence[str], series: Sequence[Bars], *, value_name: str, digits: int = 1, note: str = ""
) -> Markup:
    """A figure of horizontal bars from zero, a row of ``series`` for each of ``groups``; the numbers stand beside them.

    Raises ValueError for no groups, no value at all, values below zero or not finite, and lengths that do not match.
    """
    highest = _highest(groups, series)
    axis = svg.axis_from_zero(highest, integer=False)
    rows = [
        Markup('<div class="track"><span class="name">{}</span>{}<span class="number">{}</span></div>').format(
            group, _group_bars(number, group, series, axis), _numbers(number, series, digits)
        )
        for number, group in enumerate(groups)
    ]
    return Markup('<figure class="bars">{legend}{rows}{note}</figure>').format(
        legend=_legend(value_name, [one.name for one in series]), rows=Markup("\n").join(rows), note=_note(note)
    )


def _highest(groups: Sequence[str], series: Sequence[Bars]) -> float:
    for one in series:
        if len(one.values) != len(groups) or (one.intervals and len(one.intervals) != len(groups)):
            raise ValueError(f"{one.name} has {len(one.values)} values for {len(groups)} groups: give one for each")
    values = [value for one in series for value in one.values if value is not None]
    if not values:
        raise ValueError("a plot of nothing: give at least one group and one value")
    drawn = [*values, *(bound for one in series for interval in one.intervals if interval for bound in interval)]
    if not all(math.isfinite(value) and value >= 0 for value in drawn):
        raise ValueError("bars begin at zero: values must be finite and not below it")
    return max(drawn)


def _group_bars(number: int, group: str, series: Sequence[Bars], axis: svg.Axis) -> Markup:
    words = "; ".join(f"{one.name}: {_value(one.values[number], 4)}" for one in series)
    plot = svg.root(BAR_HEIGHT * len(series), "group", f"{group}. {words}")
    for tick in axis.ticks:
        svg.line(plot, "grid", axis.per_cent(tick), axis.per_cent(tick), "0", "100%")
    for row, one in enumerate(series):
        value, top = one.values[number], BAR_HEIGHT * row
        if value is None:
            continue
        place = {"x": "0", "y": str(top + 3), "width": svg.share(axis.per_cent(value)), "height": str(BAR_HEIGHT - 6)}
        SubElement(plot, "rect", {"class": colour_class(row), **place})
        interval = one.intervals[number] if one.intervals else None
        if interval:
            middle = str(top + BAR_HEIGHT // 2)
            svg.line(plot, "error", axis.per_cent(interval[0]), axis.per_cent(interval[1]), middle, middle)
    return svg.markup(plot)


def _numbers(number: int, series: Sequence[Bars], digits: int) -> Markup:
    return Markup("<br/>").join(_value(one.values[number], digits) for one in series)


def _value(value: float | None, digits: int) -> str:
    return NO_BAR if value is None else f"{value:,.{digits}f}"


def _legend(axis_name: str, names: Sequence[str]) -> Markup:
    entries = [
        Markup('<span><i class="{}"></i>{}</span>').format(colour_class(n), name) for n, name in enumerate(names)
    ]
    return Markup('<figcaption class="legend"><b>{}</b>{}</figcaption>').format(axis_name, Markup("").join(entries))


def _note(note: str) -> Markup:
    return Markup('<p class="aside">{}</p>').format(note) if note else Markup("")
