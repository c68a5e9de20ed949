"""How the page of a review shows its texts: in sight at every size, quickly, and for a screen reader too."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fourshot.pipeline.cells.review import REVIEW, write_rows
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.rows.review_table import ReviewRow
from tests.pipeline.runs.small_run import write_run
from tests.serving.review.review_browser import NOTHING_WAITS, press_and_save

if TYPE_CHECKING:
    from playwright.sync_api import Page

TEXTS = 3000
LONG = range(20, 24)  # the texts that are longer than their place
MOST_MS = 100  # from a key to the layout that shows it; 5,000 rows in one table took 500


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = write_run(tmp_path / "run")
    rows = [
        ReviewRow(
            id=f"r{n}",
            text=f"Text {n} " + "word " * (4000 if n in LONG else n % 40),
            label="warm",
            keep=True,
            why="kept",
        )
        for n in range(TEXTS)
    ]
    write_rows(folder, REVIEW, rows)
    return folder


@pytest.mark.parametrize(
    "page",
    [{"viewport": {"width": 640, "height": 400}}, {"viewport": {"width": 360, "height": 740}}],
    ids=["zoom", "phone"],
    indirect=True,
)
def test_the_text_in_hand_stays_in_sight(page: "Page") -> None:
    for _ in range(25):  # over long ones
        page.keyboard.press("n")
        box = page.locator("#text").bounding_box()
        assert box and 0 <= box["y"] < 300, page.inner_text("#why")
        line = page.locator("#rows tr.current").bounding_box()
        around = page.locator("#list").bounding_box()
        assert line and around and around["y"] - 1 <= line["y"] <= around["y"] + around["height"], "so does its row"
    page.locator("#rows tr:nth-child(60)").click()
    box = page.locator("#text").bounding_box()
    assert box and box["y"] >= 0, "also after one looked through the list"
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"]  # type: ignore[index]


def test_a_long_text_is_shown_from_its_beginning_and_arrows_scroll_it(page: "Page") -> None:
    page.click(f"#rows tr:nth-child({LONG[0] + 1})")
    page.evaluate("document.querySelector('#text').scrollTop = 1000")
    page.keyboard.press("n")
    assert page.inner_text("#text").startswith(f"Text {LONG[1]} ")
    assert page.evaluate("document.querySelector('#text').scrollTop") == 0
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#text").startswith(f"Text {LONG[1]} ")


def test_thousands_of_texts_do_not_slow_a_key_down(page: "Page") -> None:
    took = page.evaluate(
        """() => Array.from("ndndndndn", key => {
          const begun = performance.now();
          document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
          document.body.getBoundingClientRect();
          return performance.now() - begun;
        })"""
    )
    assert sorted(took)[len(took) // 2] < MOST_MS, took
    page.wait_for_selector(NOTHING_WAITS)
    assert page.inner_text("#done") == f"review.csv: 4 of {TEXTS} changed"
    assert page.locator("#rows tr").count() == 100
    page.click("#later")
    assert page.inner_text("#section") == f"Texts 101 to 200 of {TEXTS}"
    assert page.inner_text("#rows tr.current td:nth-child(1)") == "110"
    page.click("#earlier")
    assert page.inner_text("#rows tr.current td:nth-child(1)") == "10"


def test_a_screen_reader_is_told_of_the_next_text_and_can_open_any(page: "Page") -> None:
    told = page.locator("[aria-live=polite]")
    assert told.locator("#why").count() == told.locator("#text").count() == 1
    press_and_save(page, "d")
    assert page.locator("[aria-current=true]").inner_text().startswith("Text 1 ")
    page.locator("#rows tr:nth-child(4)").get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert page.inner_text("#why").startswith("4 of 3000")


@pytest.mark.parametrize("page", [{"forced_colors": "active"}], indirect=True)
def test_forced_colours_show_what_is_pressed_and_which_row_is_in_hand(page: "Page") -> None:
    grounds = [
        page.locator(button).evaluate("one => getComputedStyle(one).backgroundColor") for button in ("#keep", "#drop")
    ]
    assert grounds[0] != grounds[1]
    outlines = [
        page.locator(row).first.evaluate("one => getComputedStyle(one).outlineStyle")
        for row in ("tr.current", "tbody tr:not(.current)")
    ]
    assert outlines == ["solid", "none"]
