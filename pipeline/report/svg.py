"""What plots are put together from: axes, and elements of inline SVG.

Positions are in per cent and colours come from the page's style sheet: that keeps text at its size on a phone and lets
dark mode reach into a plot. Trees are built with ElementTree, so every text in them is escaped.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

MIN_TICK_DISTANCE = 9.0  # per cent of a logarithmic axis: room for four digits on a phone


class Axis(NamedTuple):
    """The range of an axis and where it is labelled."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def per_cent(self, value: float) -> float:
        if self.log:
            return 100 * math.log(value / self.low) / math.log(self.high / self.low)
        return 100 * (value - self.low) / (self.high - self.low)


def axis_over(low: float, high: float, *, num_ticks: int = 5, integer: bool = False) -> Axis:
    """An axis with round ticks that covers ``low`` to ``high``."""
    from matplotlib.ticker import MaxNLocator

    if high <= low:
        high = low + 1.0
    ticks = MaxNLocator(nbins=num_ticks, integer=integer, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return Axis(float(ticks[0]), float(ticks[-1]), tuple(float(tick) for tick in ticks))


def axis_from_zero(high: float, *, integer: bool) -> Axis:
    """An axis that ends with the data: the next round number may lie far beyond it."""
    high = high if high > 0 else 1.0
    ticks = axis_over(0.0, high, integer=integer).ticks
    return Axis(0.0, high, tuple(tick for tick in ticks if tick <= high))


def log_axis(values: Sequence[float], *, at_values: bool = False) -> Axis:
    """A logarithmic axis over ``values``, labelled at round numbers, or at the values themselves.

    Labels that would touch are left out. Raises ValueError for values that have no logarithm.
    """
    if not values or min(values) <= 0:
        raise ValueError(f"a logarithmic axis needs values above 0, got {min(values, default=None)}")
    low, high = min(values), max(values)
    if high <= low:
        low, high = low / 2, high * 2
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_ones = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    if len(decades) > 5:
        round_ones = [10.0**decade for decade in decades]
    ticks: list[float] = []
    axis = Axis(low, high, (), log=True)
    for tick in sorted(set(values)) if at_values else round_ones:
        room = not ticks or axis.per_cent(tick) - axis.per_cent(ticks[-1]) >= MIN_TICK_DISTANCE
        if low <= tick <= high and room:
            ticks.append(tick)
    return axis._replace(ticks=tuple(ticks))


def root(height: int, css_class: str, label: str) -> Element:
    """A plot of ``height`` px. One without a label is hidden from screen readers: its numbers are printed beside it."""
    meaning = {"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}
    return Element("svg", {"class": css_class, "width": "100%", "height": str(height), **meaning})


def line(parent: Element, css_class: str, x1: float, x2: float, y1: str, y2: str) -> None:
    SubElement(parent, "line", {"class": css_class, "x1": share(x1), "x2": share(x2), "y1": y1, "y2": y2})


def text(parent: Element, words: str, x: str, y: str, anchor: str, dy: str = "0") -> None:
    SubElement(parent, "text", {"x": x, "y": y, "dy": dy, "text-anchor": anchor}).text = words


def share(per_cent: float) -> str:
    return f"{per_cent:.2f}%"


def number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def markup(svg: Element) -> Markup:
    return Markup(tostring(svg, encoding="unicode"))
