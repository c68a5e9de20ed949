"""The README's picture: accuracy by task and method, light and dark, drawn from results of `fourshot compare`."""

from io import BytesIO
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from fourshot.bench.core.comparisons import Comparisons, draw_means, method_rows
from fourshot.bench.core.results import TITLES
from fourshot.engine.machine.files import replace_file

METHODS = ("zero_shot_calibrated", "icl_calibrated", "lora", "fourshot", "lora25")
THEMES = {  # theme -> text, grid, a colour for each of `METHODS`: only fourshot's is strong
    "light": ("#1f2328", "#d0d7de", ("#c9ced4", "#8c959f", "#9ec5e8", "#0969da", "#e8c268")),
    "dark": ("#e6edf3", "#30363d", ("#484f58", "#7d8590", "#3a6186", "#58a6ff", "#a5822c")),
}
TITLE = "Accuracy by task and method"
CAPTION = "Means over draws of the shots. Vertical lines: one standard deviation to both sides."
WIDTH_IN, HEIGHT_IN = 8.8, 3.6  # inches of 72 px; GitHub shows a README at most 830 px wide
BAR = 0.165  # width, as a share of the distance between two groups


class AccuracyBar(NamedTuple):
    """One bar; accuracy and deviation in per cent."""

    group: str  # a task's title, or "Mean"
    method: str  # its display name
    accuracy: float
    deviation: float | None  # sample standard deviation over the draws of the shots; None if all draws are equal


def accuracy_bars(comparisons: Comparisons) -> list[AccuracyBar]:
    """Return the bars by group, in the order of `METHODS`. The deviation of "Mean" is over the draws' own means."""
    rows = {method: method_rows(comparisons, method) for method in METHODS}
    bars = []
    for index, group in enumerate([*TITLES.values(), "Mean"]):
        for by_task in rows.values():
            chosen = by_task[index : index + 1] or by_task
            draws = draw_means(chosen)
            deviation = stdev(draws) if len(set(draws)) > 1 else None
            bars.append(AccuracyBar(group, by_task[0].display_name, fmean(draws), deviation))
    return bars


def description(bars: list[AccuracyBar]) -> str:
    """Return the picture in words. It is also stored in the picture, which shows whether that is up to date."""
    groups: dict[str, list[str]] = {}
    for bar in bars:
        spread = f" ± {bar.deviation:.1f}" if bar.deviation else ""
        groups.setdefault(bar.group, []).append(f"{bar.method} {bar.accuracy:.1f}{spread}")
    numbers = ". ".join(f"{group}: {'; '.join(of_group)}" for group, of_group in groups.items())
    return f"Accuracy in per cent, ± one standard deviation over draws of the shots. {numbers}."


def draw_pictures(comparisons: Comparisons, folder: Path) -> list[Path]:
    """Write ``accuracy-light.svg`` and ``accuracy-dark.svg``. Equal numbers give equal bytes. Return the paths."""
    bars = accuracy_bars(comparisons)
    paths = []
    for theme in THEMES:
        paths.append(folder / f"accuracy-{theme}.svg")
        replace_file(paths[-1], picture(bars, theme))
    return paths


def picture(bars: list[AccuracyBar], theme: str) -> bytes:
    """Return the picture as SVG: a bar per method in each group, with a line of ± one standard deviation."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    text, grid, colours = THEMES[theme]
    groups = list(dict.fromkeys(bar.group for bar in bars))
    style = {"svg.hashsalt": "fourshot", "svg.fonttype": "none", "text.color": text, "font.size": 10}
    with mpl.rc_context({**style, "axes.labelcolor": text, "xtick.color": text, "ytick.color": text}):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        axes = figure.subplots()
        for number, method in enumerate(dict.fromkeys(bar.method for bar in bars)):
            chosen = [bar for bar in bars if bar.method == method]
            places = [group + BAR * (number - (len(METHODS) - 1) / 2) for group in range(len(groups))]
            heights = [bar.accuracy for bar in chosen]
            axes.bar(places, heights, 0.9 * BAR, color=colours[number], label=method, zorder=2)
            for place, bar in zip(places, chosen, strict=True):
                top = bar.accuracy + (bar.deviation or 0.0)
                if bar.deviation:
                    axes.errorbar(
                        place, bar.accuracy, bar.deviation, color=text, lw=0.9, capsize=2, capthick=0.9, zorder=3
                    )
                weight = "bold" if METHODS[number] == "fourshot" else "normal"
                axes.text(place, top + 1.5, f"{bar.accuracy:.0f}", ha="center", size=8.5, weight=weight)
        axes.set_xticks(range(len(groups)), groups)
        axes.set_ylim(0, 100)
        axes.set_ylabel("test texts classified correctly, %")
        figure.supxlabel(CAPTION, size=8.5)
        axes.grid(axis="y", color=grid, lw=0.7, zorder=0)
        axes.tick_params(length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(grid)
        figure.legend(
            loc="outside upper center",
            ncols=len(METHODS),
            frameon=False,
            fontsize=9.5,
            handlelength=1.0,
            columnspacing=1.3,
        )
        out = BytesIO()
        metadata = {
            "Date": None,
            "Creator": None,
            "Title": TITLE,
            "Description": description(bars),
        }
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    return out.getvalue()
