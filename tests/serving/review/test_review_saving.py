"""What the page of a review says of decisions that are not in the table yet, and that none is lost without a word."""

import re
import signal
import subprocess
from typing import TYPE_CHECKING

from fourshot.pipeline.cells.review import REVIEW, decisions
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.rows.review_table import ReviewAnswer
from tests.serving.review.review_browser import MANY, NOTHING_WAITS, open_page, press_and_save, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

Served = tuple[str, subprocess.Popen[bytes]]


def test_a_tab_with_decisions_on_their_way_asks_before_it_is_closed_and_sends_them(
    page: "Page", served: Served, folder: RunFolder
) -> None:
    url, process = served
    context = page.context
    process.send_signal(signal.SIGSTOP)
    for key in ("d", "d", "p", "2"):  # the last text gets another decision while the one before is waiting
        page.keyboard.press(key)
    assert page.inner_text("#done") == "review.csv: 1 of 5 changed, 1 not saved yet", "2 is as it was"
    page.keyboard.press("1")
    assert page.inner_text("#done") == "review.csv: 2 of 5 changed, 2 not saved yet"
    with page.expect_event("dialog") as asked:
        page.close(run_before_unload=True)
    assert asked.value.type == "beforeunload"
    with page.expect_event("close"):
        asked.value.accept()
    process.send_signal(signal.SIGCONT)
    page = open_page(context, url, [])
    for _ in range(100):  # what the closed tab sent is answered beside what this one asks
        if len(decisions(folder, REVIEW, MANY).answers) == 2:
            break
        page.reload()
    assert decisions(folder, REVIEW, MANY).answers == {
        "shot-0": ReviewAnswer(label="warm", keep=False),
        "r00-000001": ReviewAnswer(label="warm", keep=True),
    }


def test_what_cannot_be_saved_is_said_until_it_is_saved(page: "Page", folder: RunFolder) -> None:
    with folder.lock():
        page.keyboard.press("d")
        page.wait_for_selector("#fault:has-text('Not saved: Another fourshot process works')")
        assert page.inner_text("#why").startswith("2 of 5"), "the hand is there by now"
        page.keyboard.press("1")
        page.keyboard.press("2")
        page.wait_for_selector("#fault:has-text('(Text 1, 2, 3.)')")
        assert page.get_attribute("#rows tr:nth-child(1)", "class") == "changed dropped failed"
        assert "3 of 5 changed, 3 not saved yet" in page.inner_text("#done")
        page.keyboard.press("n")
        page.keyboard.press("k")  # the last text, as the table has it
        page.wait_for_selector("#note:has-text('Another fourshot process works')")
        assert "(Text 1, 2, 3.)" in page.inner_text("#fault"), "nothing of the last one is lost"
    assert not decisions(folder, REVIEW, MANY).answers
    page.click("#rows tr:nth-child(4)")
    with page.expect_response(lambda response: response.request.method == "PUT"):
        page.keyboard.press("k")
    assert "(Text 1, 2, 3.)" in page.inner_text("#fault"), "another text's success does not hide it"
    page.click("#again")
    page.wait_for_selector(NOTHING_WAITS)
    assert page.inner_text("#fault") == ""
    assert decisions(folder, REVIEW, MANY).answers == {
        "shot-0": ReviewAnswer(label="warm", keep=False),
        "shot-1": ReviewAnswer(label="warm", keep=True),
        "r00-000001": ReviewAnswer(label="cold", keep=True),
        "r00-000003": ReviewAnswer(label="cold", keep=True),
    }


def test_a_later_decision_that_is_saved_stands_where_an_earlier_one_was_refused(
    page: "Page", folder: RunFolder
) -> None:
    held: list[Route] = []
    page.route("**/rows/review.csv/*", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request("**/rows/review.csv/shot-0"):
        page.keyboard.press("d")
    page.keyboard.press("p")
    page.keyboard.press("2")
    held[0].fulfill(status=400, json={"error": "The disk is full."})
    page.wait_for_selector(NOTHING_WAITS)
    assert page.inner_text("#rows tr:first-child").split("\t")[2:4] == ["cold", "yes"]
    assert page.inner_text("#fault") == ""
    assert decisions(folder, REVIEW, MANY).answers == {"shot-0": ReviewAnswer(label="cold", keep=True)}
    page.keyboard.press("p")
    press_and_save(page, "k")
    assert decisions(folder, REVIEW, MANY).answers == {"shot-0": ReviewAnswer(label="cold", keep=True)}


def test_two_tabs_do_not_overwrite_each_other(page: "Page", served: Served, folder: RunFolder) -> None:
    other = open_page(page.context, served[0], [])
    press_and_save(page, "2")
    other.keyboard.press("k")  # it still shows warm
    other.wait_for_selector("#fault:has-text('changed elsewhere and is kept as cold now. Decide again. (Text 1.)')")
    assert decisions(folder, REVIEW, MANY).answers == {"shot-0": ReviewAnswer(label="cold", keep=True)}
    assert "1 of 5 changed" in other.inner_text("#done") and other.is_hidden("#again")
    other.keyboard.press("u")
    assert other.inner_text("#note") == "There is nothing to undo.", "it was no decision"
    other.keyboard.press("p")
    press_and_save(other, "1")
    assert other.inner_text("#fault") == ""
    assert not decisions(folder, REVIEW, MANY).answers


def test_a_page_shows_what_was_changed_elsewhere_when_one_comes_back_to_it(page: "Page", folder: RunFolder) -> None:
    table = folder.path / "review.csv"
    lines = table.read_text("utf-8-sig").splitlines()
    table.write_text("\n".join(line for line in lines if not line.startswith("shot-0")), "utf-8-sig")
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    page.wait_for_selector("#rows tr:first-child.dropped")
    assert "shot-0" not in table.read_text("utf-8-sig")
    press_and_save(page, "k")
    assert not decisions(folder, REVIEW, MANY).answers, "it was seen as dropped, and put back on purpose"


def test_a_page_whose_command_ended_says_what_to_do(browser: "Browser", folder: RunFolder) -> None:
    told = "#fault:has-text('Not saved: The command has ended or was started again.')"
    with browser.new_context() as context:
        faults: list[Exception] = []
        with serving(folder) as (url, _):
            page = open_page(context, url, faults)
        page.keyboard.press("d")
        page.wait_for_selector(told)
        port = re.findall(r":(\d+)/", url)[0]
        with serving(folder, "--port", port):
            with page.expect_response(lambda response: response.status == 404):
                page.click("#again")
            page.wait_for_selector(told)
            assert "1 not saved yet" in page.inner_text("#done")
            page.reload()
            assert "open the one that `fourshot report` printed last" in page.inner_text("body")
        assert not faults
