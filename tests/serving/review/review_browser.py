"""The page that `fourshot report RUN --serve` opens, in a real browser."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.task import Label
from tests.pipeline.runs.small_run import TASK

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

MANY = msgspec.structs.replace(TASK, labels=(*TASK.labels, *(Label(name=f"shade {n}") for n in range(9))))
NOTHING_WAITS = "#done:not(:has-text('not saved'))"


class Ready(msgspec.Struct):
    address: str


@contextmanager
def serving(folder: RunFolder, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the command. Yield the address that it prints, and its process, which must exit with 0 on SIGINT."""
    command = [sys.executable, "-m", "fourshot", "report", str(folder.path), "--serve", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    try:
        line = process.stdout.readline()
        yield msgspec.json.decode(line, type=Ready).address, process
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=20)[1]
    assert process.returncode == 0, err.decode()


def open_page(context: "BrowserContext", url: str, faults: list[Exception]) -> "Page":
    """Open a tab with the texts shown. Exceptions of its scripts are appended to ``faults``."""
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda fault: faults.append(fault))
    page.goto(url)
    page.wait_for_selector("#now")
    return page


def press_and_save(page: "Page", key: str) -> None:
    """Press a key that makes a decision, and wait until the decision and all others are saved."""
    with page.expect_response(lambda response: response.request.method == "PUT"):
        page.keyboard.press(key)
    page.wait_for_selector(NOTHING_WAITS)
