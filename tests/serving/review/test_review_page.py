"""The keys of the page of a review, and that no text of it is markup."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from fourshot.pipeline.cells.review import ASK, REVIEW, decisions, write_rows
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.rows.review_table import ReviewAnswer, ReviewRow
from fourshot.pipeline.task import Label
from tests.pipeline.runs.small_run import TASK, write_run
from tests.serving.review.review_browser import MANY, NOTHING_WAITS, open_page, press_and_save, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def asked(folder: RunFolder) -> None:
    """Two texts that a person is asked about, before the page is opened."""
    rows = [ReviewRow(id=f"u0000000{n}", text=f"Slush {n}.", label="", keep=True, why="asked") for n in range(2)]
    write_rows(folder, ASK, rows)


def test_keys_keep_drop_relabel_and_give_back_what_was_proposed(page: "Page", folder: RunFolder) -> None:
    assert page.inner_text("#why").startswith("1 of 5")
    press_and_save(page, "d")  # the first shot
    page.keyboard.press("n")  # over the second one
    assert page.inner_text("#text") == "Snow in the hall."
    assert "label disagrees · cold 0.55 · warm 0.45" in page.inner_text("#why")
    press_and_save(page, "2")  # a new label is kept
    press_and_save(page, "k")  # the next doubtful one, as it is labelled
    assert page.inner_text("#text") == "<b>Steam</b> over the pot."
    page.keyboard.press("l")
    page.keyboard.type("shade 8")
    press_and_save(page, "Enter")
    assert decisions(folder, REVIEW, MANY).answers == {
        "shot-0": ReviewAnswer(label="warm", keep=False),
        "r00-000001": ReviewAnswer(label="cold", keep=True),
        "r00-000003": ReviewAnswer(label="cold", keep=True),
        "r00-000000": ReviewAnswer(label="shade 8", keep=True),
    }
    assert "4 of 5 changed" in page.inner_text("#done")
    press_and_save(page, "r")
    page.click("#rows tr:first-child")
    press_and_save(page, "r")
    assert decisions(folder, REVIEW, MANY).answers.keys() == {"r00-000001", "r00-000003"}
    page.reload()
    page.wait_for_selector("#now")
    assert "2 of 5 changed" in page.inner_text("#done")


def test_a_label_that_is_typed_is_taken_at_enter_alone(page: "Page", folder: RunFolder) -> None:
    page.keyboard.press("l")
    page.keyboard.press("ArrowDown")
    page.keyboard.type("dk2")  # keys elsewhere
    page.keyboard.press("Enter")
    assert page.inner_text("#note") == "No label is called “dk2”."
    page.fill("#label", "HADE 7")
    page.keyboard.press("Enter")
    assert page.inner_text("#note") == "No label is called “HADE 7”. There is shade 7."
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    assert page.inner_text("#why").startswith("2 of 5"), "the keys are keys again"
    page.keyboard.press("l")
    page.keyboard.type("shade 7")
    press_and_save(page, "Enter")
    assert decisions(folder, REVIEW, MANY).answers == {"shot-1": ReviewAnswer(label="shade 7", keep=True)}
    press_and_save(page, "d")
    assert decisions(folder, REVIEW, MANY).answers.keys() == {"shot-1"}, "the third was dropped already"
    assert page.inner_text("#why").startswith("4 of 5")


def test_undo_takes_the_last_decision_back_and_goes_there(page: "Page", folder: RunFolder) -> None:
    page.click("#rows tr:nth-child(2)")
    press_and_save(page, "1")  # a decision that stays
    page.click("#rows tr:first-child")
    press_and_save(page, "d")
    press_and_save(page, "u")
    assert page.inner_text("#why").startswith("1 of 5 · labelled warm · shot")
    assert page.inner_text("#note") == "Text 1 is as it was before."
    assert decisions(folder, REVIEW, MANY).answers == {"shot-1": ReviewAnswer(label="warm", keep=True)}
    press_and_save(page, "u")
    assert page.inner_text("#why").startswith("2 of 5 · labelled cold")
    assert not decisions(folder, REVIEW, MANY).answers
    page.keyboard.press("u")
    assert page.inner_text("#note") == "There is nothing to undo."


def test_a_key_that_is_held_down_decides_one_text(page: "Page", folder: RunFolder) -> None:
    for _ in range(4):
        page.keyboard.down("d")
    page.keyboard.up("d")
    assert page.inner_text("#why").startswith("2 of 5")
    page.focus("#drop")
    for _ in range(4):
        page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    assert page.inner_text("#why").startswith("3 of 5")
    for _ in range(2):
        page.keyboard.down("n")
    assert page.inner_text("#why").startswith("5 of 5"), "one may leaf through with a key held down"
    page.wait_for_selector(NOTHING_WAITS)
    assert decisions(folder, REVIEW, MANY).answers.keys() == {"shot-0", "shot-1"}


def test_the_report_is_one_click_away_and_the_place_is_kept(page: "Page") -> None:
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.wait_for_url("**#r00-000001")
    page.click("#report")
    page.wait_for_url("**/report")
    assert page.title() == "The report"
    page.go_back()
    page.wait_for_selector("#why:has-text('3 of 5')")


def test_the_page_opens_after_the_last_text_that_was_changed(page: "Page") -> None:
    page.keyboard.press("n")
    press_and_save(page, "d")
    page.goto("about:blank")
    page.goto("")
    page.wait_for_selector("#why:has-text('3 of 5')")


@pytest.mark.usefixtures("asked")
def test_a_text_that_a_label_is_asked_for_can_be_left_open_again(page: "Page", folder: RunFolder) -> None:
    assert page.inner_text("#done") == "ask.csv: 0 of 2 changed, 2 without a label"
    page.keyboard.press("k")
    assert page.inner_text("#note") == "Give it a label first."
    press_and_save(page, "1")
    page.keyboard.press("p")
    press_and_save(page, "r")
    assert page.inner_text("#done") == "ask.csv: 0 of 2 changed, 2 without a label"
    assert decisions(folder, ASK, MANY).open == ("u00000000", "u00000001")


@pytest.mark.usefixtures("asked")
def test_after_the_last_text_that_was_asked_the_page_says_what_is_next(page: "Page") -> None:
    press_and_save(page, "1")
    assert page.is_hidden("#finished")
    press_and_save(page, "2")
    page.wait_for_selector("#finished:has-text('Repeat the command of the run')")
    page.reload()
    page.wait_for_selector("#done:has-text('review.csv: 0 of 5 changed')")
    assert page.inner_text("#text") == "Sunlight on the red barn."


def test_a_label_that_is_a_digit_has_this_digit_as_its_key(browser: "Browser", tmp_path: Path) -> None:
    task = msgspec.structs.replace(TASK, labels=(*TASK.labels, Label(name="1"), Label(name="0")))
    folder, faults = write_run(tmp_path / "run", task), list[Exception]()
    with serving(folder) as (url, _), browser.new_context(base_url=url) as context:
        page = open_page(context, url, faults)
        assert page.locator("#labels button").all_inner_texts() == ["2 warm", "3 cold", "1 1", "0 0"]
        assert "0 to 3 relabel" in page.inner_text("#now")
        for key in "103":
            press_and_save(page, key)
    answers = decisions(folder, REVIEW, task).answers.values()
    assert [answer.label for answer in answers] == ["1", "0", "cold"] and not faults
