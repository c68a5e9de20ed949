"""Figures of pages, drawn by matplotlib as inline SVG: curves and grouped bars with error bars.

Text remains text, and colours are those of the page's style sheet, so that figures follow dark mode.
"""

import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

XLINK = "http://www.w3.org/1999/xlink"
NO_VALUE = "\u2013"
MAX_MARKED = 16  # points of a curve that get a marker each; more would overlap
WIDTH, HEIGHT, BAR = 5.4, 3.0, 0.21  # inches; what a phone shows at full size
LINES, MARKERS = ("-", "--", ":", "-."), "os^D"  # of curves, in turn: twelve differ, four also without colours
# Placeholder colours in the drawing, replaced by those of the style sheet.
NAMES = ("accent", "c1", "c2", "c3", "c4", "c5")  # of the style sheet
INK, COLOURS = "#010203", {f"#0{n}0{n}0{n}": f"var(--{name})" for n, name in enumerate(NAMES, start=4)}
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "fourshot", "font.family": "sans-serif", "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.15, "axes.axisbelow": True,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "grid.color": INK, "xtick.color": INK,
    "ytick.color": INK,
}  # fmt: skip


class Curve(NamedTuple):
    """A named line. Points are (x, y), x ascending; ``intervals`` are of y, none at all or one per point."""

    name: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float] | None] = ()


class BarSeries(NamedTuple):
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
    """Return a figure of curves, with a marker at each point where there are few.

    Raises ValueError for nothing to draw, values that are not finite, intervals that do not match the points, and
    values that are not positive on a logarithmic axis.
    """
    if not curves or not all(curve.points for curve in curves):
        raise ValueError("a plot of nothing: give at least one curve, and each at least one point")
    for curve in curves:
        _check(curve.name, len(curve.points), curve.intervals, [value for point in curve.points for value in point])
        if (log_x and min(x for x, _ in curve.points) <= 0) or (log_y and min(y for _, y in curve.points) <= 0):
            raise ValueError(f"{curve.name} has a value that is not above 0, which a logarithmic axis cannot show")

    def draw(axes: "Axes") -> None:
        for number, curve in enumerate(curves):
            xs, ys = zip(*curve.points, strict=True)
            colour, line = list(COLOURS)[number % 6], LINES[number % 4]
            marker = MARKERS[number % 4] if len(xs) <= MAX_MARKED else ""
            axes.plot(xs, ys, color=colour, ls=line, marker=marker, ms=3.5, label=curve.name)
            for (x, _), interval in zip(curve.points, curve.intervals, strict=False):
                if interval:
                    axes.plot((x, x), interval, color=colour, lw=1, gid="error")
        all_xs = sorted({x for curve in curves for x, _ in curve.points})
        _scale(axes.xaxis, log_x, all_xs)
        _scale(axes.yaxis, log_y, ())
        axes.set(xlabel=x_name, ylabel=y_name)
        if y_from_zero and not log_y and axes.get_ylim()[0] < min(y for curve in curves for _, y in curve.points):
            axes.set_ylim(bottom=min(0.0, axes.dataLim.y0))

    ends = "; ".join(f"{curve.name}: {curve.points[-1][1]:g} at {curve.points[-1][0]:g}" for curve in curves)
    return _figure(draw, HEIGHT, f"{y_name} against {x_name}. {ends}", note, len(curves))


def bar_plot(groups: Sequence[str], series: Sequence[BarSeries], *, value_name: str, note: str = "") -> Markup:
    """Return a figure of horizontal bars from zero, one per group and series, each with its value beside it.

    Raises ValueError for no groups, no value at all, values below zero or not finite, and lengths that do not match.
    """
    for bars in series:
        _check(bars.name, len(groups), bars.intervals, [value for value in bars.values if value is not None])
        if len(bars.values) != len(groups) or any(value < 0 for value in bars.values if value is not None):
            raise ValueError(f"{bars.name}: give a value from zero on, or None, for each of {len(groups)} groups")
    if not any(value is not None for bars in series for value in bars.values):
        raise ValueError("a plot of nothing: give at least one group and one value")

    def draw(axes: "Axes") -> None:
        thick = 0.8 / len(series)
        for number, bars in enumerate(series):
            places = [group + (number + 0.5) * thick - 0.4 for group in range(len(groups))]
            axes.barh(places, [value or 0 for value in bars.values], 0.8 * thick, label=bars.name,
                      color=list(COLOURS)[number % 6], alpha=1 if number < 6 else 0.5)  # fmt: skip
            bounds = bars.intervals or [None] * len(groups)
            for place, value, interval in zip(places, bars.values, bounds, strict=True):
                if interval:
                    axes.plot(interval, (place, place), color=INK, lw=1, gid="error")
                text = NO_VALUE if value is None else f"{value:,.1f}"
                axes.annotate(text, (max(value or 0, *(interval or (0,))), place), (3, 0), va="center",
                              textcoords="offset points", fontsize=8)  # fmt: skip
        axes.set_yticks(range(len(groups)), groups)
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.set(xlabel=value_name, xlim=(0, None))
        axes.grid(axis="y", visible=False)

    def value_of(value: float | None) -> str:
        return NO_VALUE if value is None else f"{value:.4g}"

    words = [
        f"{group}: {', '.join(f'{bars.name} {value_of(bars.values[number])}' for bars in series)}"
        for number, group in enumerate(groups)
    ]
    height = 0.7 + BAR * (len(groups) * (len(series) + 0.6))
    return _figure(draw, height, f"{value_name}. {'; '.join(words)}", note, len(series))


def _check(name: str, number: int, intervals: Sequence[Any], values: Iterable[float]) -> None:
    if intervals and len(intervals) != number:
        raise ValueError(f"{name} has {number} values and {len(intervals)} intervals")
    if not all(math.isfinite(value) for value in (*values, *(b for pair in intervals if pair for b in pair))):
        raise ValueError(f"{name} has a value that is not finite, which cannot be drawn: leave it out")


def _scale(axis: Any, log: bool, ticks: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if log:
        axis._set_axes_scale("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        if ticks and len(ticks) <= MAX_MARKED:
            apart = math.log(ticks[-1] / ticks[0]) / 11  # room for four digits on a phone
            spaced_ticks: list[float] = []
            for tick in ticks:
                if not spaced_ticks or math.log(tick / spaced_ticks[-1]) >= apart:
                    spaced_ticks.append(tick)
            axis.set_ticks(spaced_ticks)
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _figure(draw: Any, height: float, words: str, note: str, entries: int) -> Markup:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height + 0.18 * math.ceil(entries / 2)), layout="constrained")
        draw(figure.subplots())
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True,
                       metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))  # fmt: skip
    svg = out.getvalue()
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r' id="[A-Za-z]+[A-Za-z0-9]*_\d+"', "", body)  # they recur in every figure
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)  # rules apply to the whole page
    body = re.sub(r'(?<= d=)"[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)  # finer than a pixel
    body = re.sub(r"\s*\n\s*", " ", body)
    for stand_in, colour in {INK: "currentColor", **COLOURS}.items():
        body = body.replace(stand_in, colour)
    head = Markup('<figure><svg class="drawn" role="img" aria-label="{}" xmlns:xlink="{}" {}>')
    aside = Markup('<p class="aside">{}</p>').format(note) if note else Markup("")
    return head.format(words, XLINK, Markup(view[0])) + Markup(body) + aside + Markup("</figure>")
