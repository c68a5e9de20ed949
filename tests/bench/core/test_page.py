"""The page of a benchmark and its figures: nothing is loaded, nothing unescaped, nothing drawn of nothing."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from fourshot.bench.core.parts import (
    FoldedPart,
    Page,
    Part,
    Section,
    TablePart,
    fill,
    link,
    markdown,
    write_page,
)
from fourshot.engine.errors import InputError
from fourshot.pipeline.report import figures
from fourshot.pipeline.report.figures import BarSeries, Curve, bar_plot, line_plot

EVIL = '<script>alert("1")</script>&'
RESULT = {
    "commit": "abc1234",
    "hardware": {"processor": EVIL, "cores": 2},
    "versions": {"vllm": "0.32"},
    "settings": {"train": {"rank": 8}},
    "targets": [{"name": "gain", "unit": "times", "measured": 5.25, "goal": 5, "met": True}],
}


def tree(figure: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(figure)


def words(figure: Markup) -> list[str]:
    """Every text in a figure."""
    return [node.text or "" for node in tree(figure).iter() if node.tag.endswith("text")]


def path(figure: Markup, style: str) -> list[tuple[float, float]]:
    """The points of the first path whose style contains ``style``."""
    (drawn, *_) = [node.get("d", "") for node in tree(figure).iter() if style in node.get("style", "")]
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", drawn)]


def bars(figure: Markup, colour: str = "fill: var(--") -> int:
    return sum(colour in node.get("style", "") for node in tree(figure).iter() if node.tag.endswith("path"))


def test_a_page_loads_nothing_and_prints_every_text_as_it_is(tmp_path: Path) -> None:
    figure = line_plot([Curve(EVIL, [(1, 2), (2, 3)])], x_name=EVIL, y_name=EVIL, note=EVIL)
    drawn = bar_plot([EVIL], [BarSeries(EVIL, [1.0])], value_name=EVIL, note=EVIL)
    table = TablePart([EVIL, EVIL], [(EVIL, EVIL)], note=EVIL)
    parts: list[Part] = [EVIL, table, FoldedPart(EVIL, [EVIL]), figure, drawn]
    out = write_page(tmp_path / "new" / "page.html", Page(EVIL, [Section(EVIL, parts)], lead=EVIL), RESULT)
    page = out.read_text("utf-8")
    assert "<script" not in page and "alert(" in page
    assert not re.search(r"""(src|href)=["'][^#]|@import|url\([^#]""", page), "something would be loaded"
    assert "abc1234" in page and "train.rank" in page and "5.25 times" in page


def test_a_figure_is_well_formed_and_says_in_words_what_it_shows() -> None:
    for figure in (
        line_plot([Curve("a & b", [(1, 2), (4, 3)])], x_name="texts", y_name="points"),
        bar_plot(["SST-2 <"], [BarSeries("a & b", [None]), BarSeries("c", [2.5])], value_name="points"),
    ):
        labels = [node.get("aria-label") for node in tree(figure).iter() if node.get("role") == "img"]
        assert len(labels) == 1 and labels[0] and "a & b" in labels[0]
        assert "a & b" in words(figure) and "points" in words(figure)
        assert figure == Markup(figure) and "currentColor" in figure and not re.search("#0[1-9]0[1-9]0[1-9]", figure)


def test_each_curve_and_bar_has_a_colour_of_the_style_sheet() -> None:
    css = (Path(figures.__file__).parent / "report.css").read_text(encoding="utf-8")
    names = [str(number) for number in range(7)]
    lines = line_plot([Curve(name, [(1, 2), (4, 3)]) for name in names], x_name="x", y_name="y")
    bars_of_all = bar_plot(["g"], [BarSeries(name, [1.0]) for name in names], value_name="y")
    for figure in (lines, bars_of_all):
        used = set(re.findall(r"var\((--\w+)\)", figure))
        assert len(used) == 6 and all(f"{name}:" in css for name in used)


def test_without_colours_curves_are_told_apart_by_dashes_and_marks() -> None:
    lines = line_plot([Curve(name, [(1, 2), (4, 3)]) for name in "abcdefghijkl"], x_name="x", y_name="y")
    strokes = re.findall(r'style="fill: none; (?:stroke-dasharray: ([^;]*); [^"]*)?stroke: var\((--\w+)\)', lines)
    assert len({*strokes}) == 12 and len({dashes for dashes, _ in strokes[:4]}) == 4


def test_on_a_logarithmic_axis_equal_ratios_are_equally_far_apart() -> None:
    logs = line_plot([Curve("p99", [(1, 10), (32, 100), (1024, 1000)])], x_name="n", y_name="m", log_x=True, log_y=True)
    straight = line_plot([Curve("p99", [(0, 0), (32, 5), (64, 10)])], x_name="n", y_name="ms")
    for figure in (logs, straight):
        (left, high), (middle, centre), (right, low) = path(figure, "stroke: var(--accent); stroke-width: 1.5")
        assert middle == pytest.approx((left + right) / 2, abs=0.01) and left < right
        assert centre == pytest.approx((high + low) / 2, abs=0.01) and low < high


def test_labels_of_a_logarithmic_axis_leave_each_other_room() -> None:
    figure = line_plot([Curve("a", [(x, 1) for x in (1, 1000, 1001, 1002)])], x_name="n", y_name="ms", log_x=True)
    assert "1,000" in words(figure) and "1,001" not in words(figure)


def test_numbers_in_words_are_not_cut() -> None:
    figure = line_plot([Curve("loss: 0.12345", [(1, 2), (2, 3)])], x_name='"0.98765"', y_name="ms")
    assert {"loss: 0.12345", '"0.98765"'} <= set(words(figure))


def test_error_bars_span_their_intervals() -> None:
    figure = line_plot([Curve("a", [(0, 5), (10, 10)], [(0, 10), None])], x_name="n", y_name="ms")
    errors = [node for node in tree(figure).iter() if node.get("id") == "error"]
    assert len(errors) == 1
    (_, low), (_, high) = path(figure, "stroke: var(--accent); stroke-linecap")
    curve = path(figure, "stroke: var(--accent); stroke-width: 1.5")
    assert high == pytest.approx(curve[1][1], abs=0.01) and (low + high) / 2 == pytest.approx(curve[0][1], abs=0.01)
    figure = bar_plot(["g"], [BarSeries("a", [5.0], [(2.5, 10.0)])], value_name="ms")
    assert len([node for node in tree(figure).iter() if node.get("id") == "error"]) == 1


def test_a_value_that_was_not_measured_has_no_bar_but_a_place() -> None:
    figure = bar_plot(["g", "h"], [BarSeries("a", [1.0, None]), BarSeries("b", [None, 2.0])], value_name="ms")
    assert words(figure).count("\u2013") == 2 and {"1.0", "2.0", "g", "h"} <= set(words(figure))


@pytest.mark.parametrize(
    "curves",
    [
        [],
        [Curve("a", [])],
        [Curve("a", [(1, 1)]), Curve("b", [])],
        [Curve("a", [(1, math.nan)])],
        [Curve("a", [(1, 1)], [(0, math.inf)])],
        [Curve("a", [(1, 1), (2, 2)], [(0, 1)])],
        [Curve("a", [(0, 1)])],
    ],
)
def test_what_cannot_be_drawn_on_a_logarithmic_axis_raises(curves: list[Curve]) -> None:
    with pytest.raises(ValueError, match=r"nothing|finite|intervals|above 0"):
        line_plot(curves, x_name="n", y_name="ms", log_x=True)


@pytest.mark.parametrize(
    ("groups", "series"),
    [
        ([], []),
        (["g"], []),
        (["g"], [BarSeries("a", [None])]),
        (["g"], [BarSeries("a", [1.0, 2.0])]),
        (["g"], [BarSeries("a", [-1.0])]),
        (["g"], [BarSeries("a", [math.nan])]),
        (["g", "h"], [BarSeries("a", [1.0, 2.0], [(0.0, 1.0)])]),
    ],
)
def test_bars_of_nothing_or_of_what_does_not_fit_raise(groups: list[str], series: list[BarSeries]) -> None:
    with pytest.raises(ValueError, match=r"nothing|value|zero"):
        bar_plot(groups, series, value_name="ms")


def test_pages_and_tables_that_are_not_whole_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one section"):
        write_page(tmp_path / "page.html", Page("t", []), {})
    with pytest.raises(ValueError, match="2 cells below 1 headings"):
        write_page(tmp_path / "page.html", Page("t", [Section("s", [TablePart(["a"], [("b", "c")])])]), {})
    with pytest.raises(ValueError, match="http"):
        link("here", "javascript:alert(1)")
    assert not list(tmp_path.iterdir())


def test_the_same_parts_are_markdown() -> None:
    table = TablePart(["way", "load", "rate"], [("lora", 1, None), ("icl", "all", 2.5)], left=2)
    shown = "| way | load | rate |\n| --- | --- | ---: |\n| lora | 1 | - |\n| icl | all | 2.5 |"
    assert markdown(["Measured.", table, Markup("<svg/>")]) == f"Measured.\n\n{shown}"


@pytest.mark.parametrize("document", ["", "<!-- a:end -->", "<!-- a:end --> <!-- a:start -->"])
def test_a_document_without_markers_is_left_alone(document: str) -> None:
    with pytest.raises(InputError, match="a:start"):
        fill(document, {"a": "table"})
    page = "x\n<!-- a:start -->\nold\n<!-- a:end -->\ny"
    filled = fill(page, {"a": r"\1 new"})
    assert filled == page.replace("old", r"\1 new") and fill(filled, {"a": r"\1 new"}) == filled
