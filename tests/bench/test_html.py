"""The page of a benchmark and its figures: nothing is loaded, nothing unescaped, nothing drawn of nothing."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from fourshot.bench.core.page import Code, Folded, Part, Section, Table, link, provenance, targets, write_page
from fourshot.bench.core.plots import Bars, Curve, bar_plot, line_plot

EVIL = '<script>alert("1")</script>&'
RESULT = {
    "commit": "abc1234",
    "hardware": {"processor": EVIL, "cores": 2},
    "versions": {"vllm": "0.32"},
    "settings": {"train": {"rank": 8}},
    "targets": [{"name": "gain", "unit": "times", "measured": 5.25, "goal": 5, "met": True}],
}


def coordinates(figure: Markup) -> list[list[tuple[float, float]]]:
    """The points of each curve, in per cent of the plot from its upper left corner."""
    found = [node.get("points", "") for node in ElementTree.fromstring(figure).iter() if node.tag.endswith("polyline")]
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())] for points in found]


def test_a_page_loads_nothing_and_prints_every_text_as_it_is(tmp_path: Path) -> None:
    figure = line_plot([Curve(EVIL, [(1, 2), (2, 3)])], x_name=EVIL, y_name=EVIL, note=EVIL)
    bars = bar_plot([EVIL], [Bars(EVIL, [1.0])], value_name=EVIL, note=EVIL)
    parts: list[Part] = [EVIL, Table([EVIL, EVIL], [(EVIL, EVIL)], note=EVIL), Folded(EVIL, [Code(EVIL)]), figure, bars]
    path = write_page(
        tmp_path / "new" / "page.html", EVIL, [Section(EVIL, parts), targets(RESULT), provenance(RESULT)], lead=EVIL
    )
    page = path.read_text("utf-8")
    assert "<script" not in page and "alert(" in page
    assert not re.search(r"(src|href)=|@import|url\(", page), "something would be loaded"
    assert "abc1234" in page and "train.rank" in page and "5.25 times" in page


def test_a_figure_is_well_formed_and_says_in_words_what_it_shows() -> None:
    for figure in (
        line_plot([Curve("a & b", [(1, 2), (4, 3)])], x_name="texts", y_name="points"),
        bar_plot(["SST-2 <"], [Bars("a & b", [None]), Bars("c", [2.5])], value_name="points"),
    ):
        labels = [node.get("aria-label") for node in ElementTree.fromstring(figure).iter() if node.get("role") == "img"]
        assert len(labels) == 1 and labels[0] and "a & b" in labels[0]


def test_on_a_logarithmic_axis_equal_ratios_are_equally_far_apart() -> None:
    (curve,) = coordinates(
        line_plot([Curve("p99", [(1, 10), (32, 100), (1024, 1000)])], x_name="n", y_name="ms", log_x=True, log_y=True)
    )
    assert curve == [(0, 100), (50, 50), (100, 0)]
    (straight,) = coordinates(line_plot([Curve("p99", [(0, 0), (32, 5), (64, 10)])], x_name="n", y_name="ms"))
    assert straight == [(0, 100), (50, 50), (100, 0)]


def test_labels_of_a_logarithmic_axis_leave_each_other_room() -> None:
    figure = line_plot([Curve("a", [(x, 1) for x in (1, 1000, 1001, 1002)])], x_name="n", y_name="ms", log_x=True)
    labels = [node.text for node in ElementTree.fromstring(figure).iter() if node.tag == "text"]
    assert "1,000" in labels and "1,001" not in labels


def test_error_bars_span_their_intervals() -> None:
    figure = line_plot([Curve("a", [(0, 5), (10, 10)], [(0, 10), None])], x_name="n", y_name="ms")
    (bar,) = [node for node in ElementTree.fromstring(figure).iter() if "error" in node.get("class", "")]
    assert (bar.get("x1"), bar.get("y1"), bar.get("y2")) == ("0.00%", "100.00%", "0.00%")
    figure = bar_plot(["g"], [Bars("a", [5.0], [(2.5, 10.0)])], value_name="ms")
    (bar,) = [node for node in ElementTree.fromstring(figure).iter() if "error" in node.get("class", "")]
    assert (bar.get("x1"), bar.get("x2")) == ("25.00%", "100.00%")


def test_a_value_that_was_not_measured_has_no_bar_but_a_place() -> None:
    figure = bar_plot(["g", "h"], [Bars("a", [1.0, None]), Bars("b", [None, 2.0])], value_name="ms")
    tree = ElementTree.fromstring(figure)
    assert sum(node.tag == "rect" for node in tree.iter()) == 2
    assert figure.count("\u2013") >= 2


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
        (["g"], [Bars("a", [None])]),
        (["g"], [Bars("a", [1.0, 2.0])]),
        (["g"], [Bars("a", [-1.0])]),
        (["g"], [Bars("a", [math.nan])]),
        (["g", "h"], [Bars("a", [1.0, 2.0], [(0.0, 1.0)])]),
    ],
)
def test_bars_of_nothing_or_of_what_does_not_fit_raise(groups: list[str], series: list[Bars]) -> None:
    with pytest.raises(ValueError, match=r"nothing|values|zero"):
        bar_plot(groups, series, value_name="ms")


def test_pages_and_tables_that_are_not_whole_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one section"):
        write_page(tmp_path / "page.html", "t", [])
    with pytest.raises(ValueError, match="2 cells below 1 headings"):
        write_page(tmp_path / "page.html", "t", [Section("s", [Table(["a"], [("b", "c")])])])
    with pytest.raises(ValueError, match="no targets"):
        targets({})
    with pytest.raises(ValueError, match="http"):
        link("here", "javascript:alert(1)")
    assert not list(tmp_path.iterdir())
