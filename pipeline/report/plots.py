"""The report's plots as inline SVG.

Made by hand rather than by matplotlib, because positions in per cent and colours from the page's style sheet are what
keeps text at its size on a phone and lets dark mode reach into a plot. Trees are built with ElementTree, so every
text in them is escaped.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from pipeline.report.data import MethodRow

PLOT_HEIGHT = 220  # px
ROW_HEIGHT = 34  # px
MIN_SPAN = 0.2  # of the accuracy axis, so that one narrow interval does not look wide
NUM_COLOURS = 6  # of curves, in the style sheet


class Axis(NamedTuple):
    """The range of an axis and where it is labelled."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def per_cent(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)


class Curve(NamedTuple):
    """A named line. Points are (x, y), x ascending."""

    name: str
    points: Sequence[tuple[float, float]]


def axis_over(low: float, high: float, *, num_ticks: int = 5, integer: bool = False) -> Axis:
    """An axis with round ticks that covers ``low`` to ``high``."""
    from matplotlib.ticker import MaxNLocator

    if high <= low:
        high = low + 1.0
    ticks = MaxNLocator(nbins=num_ticks, integer=integer, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return Axis(float(ticks[0]), float(ticks[-1]), tuple(float(tick) for tick in ticks))


def _axis_from_zero(high: float, *, integer: bool) -> Axis:
    """An axis that ends with the data: the next round number may lie far beyond it."""
    high = high if high > 0 else 1.0
    ticks = axis_over(0.0, high, integer=integer).ticks
    return Axis(0.0, high, tuple(tick for tick in ticks if tick <= high))


def accuracy_axis(rows: Sequence[MethodRow]) -> Axis:
    """From just below the smallest to just above the largest value that is drawn, inside 0 .. 1."""
    drawn = [value for row in rows for value in (row.accuracy, *row.seed_accuracies, *(row.interval or ()))]
    spare = max(0.0, MIN_SPAN - (max(drawn) - min(drawn))) / 2
    axis = axis_over(min(drawn) - spare, max(drawn) + spare, num_ticks=6)
    low, high = max(0.0, axis.low), min(1.0, axis.high)
    return Axis(low, high, tuple(tick for tick in axis.ticks if low <= tick <= high))


def accuracy_mark(row: MethodRow, axis: Axis) -> Markup:
    """One method on the common axis: the interval as a bar, the seeds as rings, the mean as a dot."""
    svg = _svg(ROW_HEIGHT, "mark", _accuracy_in_words(row))
    middle = "50%"
    for tick in axis.ticks:
        _line(svg, "grid", axis.per_cent(tick), axis.per_cent(tick), "0", "100%")
    if row.interval:
        _line(svg, "interval", axis.per_cent(row.interval[0]), axis.per_cent(row.interval[1]), middle, middle)
    if len(row.seed_accuracies) > 1:
        for value in row.seed_accuracies:
            SubElement(svg, "circle", {"class": "seed", "cx": _share(axis.per_cent(value)), "cy": middle, "r": "3.5"})
    SubElement(svg, "circle", {"class": "mean", "cx": _share(axis.per_cent(row.accuracy)), "cy": middle, "r": "5.5"})
    return _markup(svg)


def accuracy_scale(axis: Axis) -> Markup:
    """The labels below the rows of `accuracy_mark`."""
    svg = _svg(20, "scale", "")
    for tick in axis.ticks:
        _text(svg, f"{100 * tick:g}", _share(axis.per_cent(tick)), "14", "middle")
    return _markup(svg)


def line_plot(curves: Sequence[Curve], label: str, *, integer_y: bool = False) -> Markup:
    """Curves from a zero line, numbered from 0 in their classes so that the style sheet can colour them."""
    x_axis = _axis_from_zero(max(x for curve in curves for x, _ in curve.points), integer=True)
    y_axis = _axis_from_zero(max(y for curve in curves for _, y in curve.points), integer=integer_y)
    svg = _svg(PLOT_HEIGHT, "plot", label)
    for tick in y_axis.ticks:
        height = 100 - y_axis.per_cent(tick)
        _line(svg, "axis" if tick == 0 else "grid", 0, 100, _share(height), _share(height))
        _text(svg, _number(tick), "-8", _share(height), "end", dy="0.32em")
    for tick in x_axis.ticks:
        _text(svg, _number(tick), _share(x_axis.per_cent(tick)), "100%", "middle", dy="1.5em")
    inner = SubElement(
        svg, "svg", {"viewBox": "0 0 100 100", "preserveAspectRatio": "none", "width": "100%", "height": "100%"}
    )
    for number, curve in enumerate(curves):
        path = " ".join(f"{x_axis.per_cent(x):.2f},{100 - y_axis.per_cent(y):.2f}" for x, y in curve.points)
        SubElement(inner, "polyline", {"class": f"curve c{number % NUM_COLOURS}", "points": path})
    return _markup(svg)


def stacked_bar(parts: Mapping[str, int], classes: Mapping[str, str], total: int, label: str) -> Markup:
    """One horizontal bar, each part as wide as its share of ``total``; ``classes`` maps a part to its CSS class."""
    svg = _svg(22, "bar", label)
    left = 0.0
    for name, count in parts.items():
        width = 100 * count / total
        rect = SubElement(
            svg, "rect", {"class": classes[name], "x": _share(left), "y": "0", "width": _share(width), "height": "100%"}
        )
        SubElement(rect, "title").text = f"{name}: {count}"
        left += width
    return _markup(svg)


def share_bar(share: float, css_class: str) -> Markup:
    """A small bar for one number of 0 .. 1 that is printed beside it."""
    svg = _svg(8, "share", "")
    SubElement(svg, "rect", {"class": "rail", "width": "100%", "height": "100%"})
    width = _share(100 * min(max(share, 0.0), 1.0))
    SubElement(svg, "rect", {"class": css_class, "width": width, "height": "100%"})
    return _markup(svg)


def _accuracy_in_words(row: MethodRow) -> str:
    words = f"{row.display_name}: accuracy {100 * row.accuracy:.1f} %"
    if row.interval:
        words += f", 95 % interval {100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f} %"
    return words


def _svg(height: int, css_class: str, label: str) -> Element:
    """The root of a plot. One without a label is hidden from screen readers: its numbers are printed beside it."""
    meaning = {"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}
    return Element("svg", {"class": css_class, "width": "100%", "height": str(height), **meaning})


def _line(parent: Element, css_class: str, x1: float, x2: float, y1: str, y2: str) -> None:
    SubElement(parent, "line", {"class": css_class, "x1": _share(x1), "x2": _share(x2), "y1": y1, "y2": y2})


def _text(parent: Element, text: str, x: str, y: str, anchor: str, dy: str = "0") -> None:
    SubElement(parent, "text", {"x": x, "y": y, "dy": dy, "text-anchor": anchor}).text = text


def _share(per_cent: float) -> str:
    return f"{per_cent:.2f}%"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _markup(svg: Element) -> Markup:
    return Markup(tostring(svg, encoding="unicode"))
