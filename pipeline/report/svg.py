"""What marks and bars in rows are put together from: an axis, and elements of inline SVG.

By hand rather than by matplotlib: positions are in per cent, so that a mark is as wide as its column of the table,
whatever that is. Colours come from the page's style sheet. Trees are built with ElementTree, so every text is escaped.
"""

from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup


class Axis(NamedTuple):
    """The range of an axis and where it is labelled."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def per_cent(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)


def axis_over(low: float, high: float, *, num_ticks: int = 5, integer: bool = False) -> Axis:
    """An axis with round ticks that covers ``low`` to ``high``."""
    from matplotlib.ticker import MaxNLocator

    if high <= low:
        high = low + 1.0
    ticks = MaxNLocator(nbins=num_ticks, integer=integer, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return Axis(float(ticks[0]), float(ticks[-1]), tuple(float(tick) for tick in ticks))


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


def markup(svg: Element) -> Markup:
    return Markup(tostring(svg, encoding="unicode"))
