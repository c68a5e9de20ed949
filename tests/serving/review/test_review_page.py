"""The page that `fourshot report RUN --serve` opens, in a real browser: its keys, and that no text of it is markup."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from fourshot.pipeline.cells.review import REVIEW, decisions
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.rows.review_table import ReviewAnswer
from fourshot.pipeline.task import Label
from tests.pipeline.runs.small_run import TASK, write_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MANY = msgspec.structs.replace(TASK, labels=(*TASK.labels, *(Label(name=f"shade {n}") for n in range(9))))


class Ready(msgspec.Struct):
    address: str


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = write_run(tmp_path / "run", MANY)
    (folder.path / "report.html").write_text("<title>The report</title>")
    return folder


@pytest.fixture
def page(browser: "Browser", folder: RunFolder) -> Iterator["Page"]:
    """Opened at the address that the command prints. Whatever a test does, no script may fail."""
    command = [sys.executable, "-m", "fourshot", "report", str(folder.path), "--serve", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    try:
        url = msgspec.json.decode(process.stdout.readline(), type=Ready).address
        with browser.new_context(base_url=url) as context:
            page = context.new_page()
            page.set_default_timeout(10_000)
            faults: list[Exception] = []
            page.on("pageerror", lambda fault: faults.append(fault))
            page.goto("")
            page.wait_for_selector("#now")
            yield page
            assert not faults
    finally:
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=20)[1]
    assert process.returncode == 0, err.decode()


def saved(page: "Page", key: str) -> None:
    """Press a key that decides, and wait until the table has it."""
    with page.expect_response(lambda response: response.request.method == "PUT"):
        page.keyboard.press(key)


def test_keys_keep_drop_relabel_and_take_back(page: "Page", folder: RunFolder) -> None:
    assert page.inner_text("#why").startswith("1 of 5")
    saved(page, "d")  # the first shot
    page.keyboard.press("n")  # over the second one
    assert page.inner_text("#text") == "Snow in the hall."
    assert "label disagrees · cold 0.55 · warm 0.45" in page.inner_text("#why")
    saved(page, "2")  # a new label is kept
    saved(page, "k")  # the next doubtful one, as it is labelled
    assert page.inner_text("#text") == "<b>Steam</b> over the pot."
    page.keyboard.press("l")
    with page.expect_response(lambda response: response.request.method == "PUT"):
        page.select_option("#labels select", "shade 8")
    assert decisions(folder, REVIEW, MANY).answers == {
        "shot-0": ReviewAnswer(label="warm", keep=False),
        "r00-000001": ReviewAnswer(label="cold", keep=True),
        "r00-000003": ReviewAnswer(label="cold", keep=True),
        "r00-000000": ReviewAnswer(label="shade 8", keep=True),
    }
    assert "4 of 5 changed" in page.inner_text("#done")
    saved(page, "u")
    page.click("#rows tr:first-child")
    saved(page, "u")
    assert decisions(folder, REVIEW, MANY).answers.keys() == {"r00-000001", "r00-000003"}
    page.reload()
    page.wait_for_selector("#now")
    assert "2 of 5 changed" in page.inner_text("#done")


def test_what_cannot_be_saved_is_said_and_taken_back(page: "Page", folder: RunFolder) -> None:
    with folder.lock():
        saved(page, "d")
        page.wait_for_selector("#fault:has-text('Not saved: Another fourshot process works')")
    assert page.inner_text("#why").startswith("1 of 5")
    assert page.get_attribute("#keep", "aria-pressed") == "true"
    assert not decisions(folder, REVIEW, MANY).answers


def test_the_report_is_one_click_away(page: "Page") -> None:
    page.click("#report")
    page.wait_for_url("**/report")
    assert page.title() == "The report"
