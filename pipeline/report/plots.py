"""The report's plots as inline SVG, made by hand rather than by matplotlib: `pipeline.report.svg` says why."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement

from markupsafe import Markup

from fourshot.pipeline.report import svg
from fourshot.pipeline.report.data import MethodRow
from fourshot.pipeline.report.svg import Axis, axis_from_zero, axis_over, log_axis

PLOT_HEIGHT = 220  # px
ROW_HEIGHT = 34  # px
MIN_SPAN = 0.2  # of the accuracy axis, so that one narrow interval does not look wide
NUM_COLOURS = 6  # of curves, in the style sheet
MAX_MARKED = 16  # points of a curve that get a dot each; more would run into one another


class Curve(NamedTuple):
    """A named line. Points are (x, y), x ascending; ``intervals`` are of y, none at all or one per point."""

    name: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float] | None] = ()
    marked: bool = False  # a dot at each point


def accuracy_axis(rows: Sequence[MethodRow]) -> Axis:
    """From just below the smallest to just above the largest value that is drawn, inside 0 .. 1."""
    drawn = [value for row in rows for value in (row.accuracy, *row.seed_accuracies, *(row.interval or ()))]
    spare = max(0.0, MIN_SPAN - (max(drawn) - min(drawn))) / 2
    axis = axis_over(min(drawn) - spare, max(drawn) + spare, num_ticks=6)
    low, high = max(0.0, axis.low), min(1.0, axis.high)
    return Axis(low, high, tuple(tick for tick in axis.ticks if low <= tick <= high))


def accuracy_mark(row: MethodRow, axis: Axis) -> Markup:
    """One method on the common axis: the interval as a bar, the seeds as rings, the mean as a dot."""
    plot = svg.root(ROW_HEIGHT, "mark", _accuracy_in_words(row))
    middle = "50%"
    for tick in axis.ticks:
        svg.line(plot, "grid", axis.per_cent(tick), axis.per_cent(tick), "0", "100%")
    if row.interval:
        svg.line(plot, "interval", axis.per_cent(row.interval[0]), axis.per_cent(row.interval[1]), middle, middle)
    if len(row.seed_accuracies) > 1:
        for value in row.seed_accuracies:
            _dot(plot, "seed", svg.share(axis.per_cent(value)), middle, "3.5")
    _dot(plot, "mean", svg.share(axis.per_cent(row.accuracy)), middle, "5.5")
    return svg.markup(plot)


def accuracy_scale(axis: Axis) -> Markup:
    """The labels below the rows of `accuracy_mark`."""
    plot = svg.root(20, "scale", "")
    for tick in axis.ticks:
        svg.text(plot, f"{100 * tick:g}", svg.share(axis.per_cent(tick)), "14", "middle")
    return svg.markup(plot)


def line_plot(
    curves: Sequence[Curve],
    label: str,
    *,
    integer_y: bool = False,
    log_x: bool = False,
    log_y: bool = False,
    y_from_zero: bool = True,
) -> Markup:
    """Curves, numbered from 0 in their classes so that the style sheet can colour them.

    Axes are linear and begin at zero unless told otherwise. Raises ValueError for nothing to draw, for values that are
    not finite, for intervals that do not match the points, and for a logarithm of what has none.
    """
    _check(curves)
    xs = [float(x) for curve in curves for x, _ in curve.points]
    ys = [float(y) for curve in curves for _, y in curve.points]
    ys += [bound for curve in curves for interval in curve.intervals if interval for bound in interval]
    few = len(set(xs)) <= MAX_MARKED
    x_axis = log_axis(xs, at_values=few) if log_x else axis_from_zero(max(xs), integer=all(x == int(x) for x in xs))
    if log_y:
        y_axis = log_axis(ys)
    elif y_from_zero and min(ys) >= 0:
        y_axis = axis_from_zero(max(ys), integer=integer_y)
    else:
        y_axis = axis_over(min(ys), max(ys), integer=integer_y)
    plot = svg.root(PLOT_HEIGHT, "plot", label)
    for tick in y_axis.ticks:
        height = svg.share(100 - y_axis.per_cent(tick))
        svg.line(plot, "axis" if tick == y_axis.low and not log_y else "grid", 0, 100, height, height)
        svg.text(plot, svg.number(tick), "-8", height, "end", dy="0.32em")
    for tick in x_axis.ticks:
        svg.text(plot, svg.number(tick), svg.share(x_axis.per_cent(tick)), "100%", "middle", dy="1.5em")
    inner = SubElement(
        plot, "svg", {"viewBox": "0 0 100 100", "preserveAspectRatio": "none", "width": "100%", "height": "100%"}
    )
    for number, curve in enumerate(curves):
        places = [(x_axis.per_cent(x), 100 - y_axis.per_cent(y)) for x, y in curve.points]
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
        SubElement(inner, "polyline", {"class": f"curve {colour_class(number)}", "points": path})
        for (x, _), interval in zip(places, curve.intervals, strict=False):
            if interval:
                ends = [svg.share(100 - y_axis.per_cent(bound)) for bound in interval]
                svg.line(plot, f"error {colour_class(number)}", x, x, *ends)
        for x, y in places if curve.marked or len(places) == 1 else ():
            _dot(plot, f"point {colour_class(number)}", svg.share(x), svg.share(y), "3.5")
    return svg.markup(plot)


def colour_class(number: int) -> str:
    """The CSS classes of the curve or bar ``number``, from 0; the second six have the first six's colours, paler."""
    return f"c{number % NUM_COLOURS}" + (" again" if number >= NUM_COLOURS else "")


def stacked_bar(parts: Mapping[str, int], classes: Mapping[str, str], total: int, label: str) -> Markup:
    """One horizontal bar, each part as wide as its share of ``total``; ``classes`` maps a part to its CSS class."""
    plot = svg.root(22, "bar", label)
    left = 0.0
    for name, count in parts.items():
        width = 100 * count / total
        place = {"x": svg.share(left), "y": "0", "width": svg.share(width), "height": "100%"}
        rect = SubElement(plot, "rect", {"class": classes[name], **place})
        SubElement(rect, "title").text = f"{name}: {count}"
        left += width
    return svg.markup(plot)


def share_bar(share: float, css_class: str) -> Markup:
    """A small bar for one number of 0 .. 1 that is printed beside it."""
    plot = svg.root(8, "share", "")
    SubElement(plot, "rect", {"class": "rail", "width": "100%", "height": "100%"})
    width = svg.share(100 * min(max(share, 0.0), 1.0))
    SubElement(plot, "rect", {"class": css_class, "width": width, "height": "100%"})
    return svg.markup(plot)


def _check(curves: Sequence[Curve]) -> None:
    if not curves or not all(curve.points for curve in curves):
        raise ValueError("a plot of nothing: give at least one curve, and each at least one point")
    for curve in curves:
        if curve.intervals and len(curve.intervals) != len(curve.points):
            raise ValueError(f"{curve.name} has {len(curve.points)} points and {len(curve.intervals)} intervals")
        bounds = [bound for interval in curve.intervals if interval for bound in interval]
        if not all(math.isfinite(value) for value in (*(v for point in curve.points for v in point), *bounds)):
            raise ValueError(f"{curve.name} has a value that is not finite, which cannot be drawn: leave it out")


def _accuracy_in_words(row: MethodRow) -> str:
    words = f"{row.display_name}: accuracy {100 * row.accuracy:.1f} %"
    if row.interval:
        words += f", 95 % interval {100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f} %"
    return words


def _dot(parent: Element, css_class: str, x: str, y: str, radius: str) -> None:
    SubElement(parent, "circle", {"class": css_class, "cx": x, "cy": y, "r": radius})
