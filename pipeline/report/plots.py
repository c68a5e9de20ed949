"""Marks and bars that stand in the rows of the report's tables, as inline SVG. Figures: `pipeline.report.figures`."""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement

from markupsafe import Markup

from fourshot.pipeline.report import svg
from fourshot.pipeline.report.data import MethodRow
from fourshot.pipeline.report.svg import Axis, axis_over

ROW_HEIGHT = 34  # px
MIN_SPAN = 0.2  # of the accuracy axis, so that one narrow interval does not look wide


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


def _accuracy_in_words(row: MethodRow) -> str:
    words = f"{row.display_name}: accuracy {100 * row.accuracy:.1f} %"
    if row.interval:
        words += f", 95 % interval {100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f} %"
    return words


def _dot(parent: Element, css_class: str, x: str, y: str, radius: str) -> None:
    SubElement(parent, "circle", {"class": css_class, "cx": x, "cy": y, "r": radius})
