"""Fixtures: a run with eleven labels, and its review in a browser tab."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fourshot.pipeline.cells.run_folder import RunFolder
from tests.pipeline.runs.small_run import write_run
from tests.serving.review.review_browser import MANY, open_page, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = write_run(tmp_path / "run", MANY)
    (folder.path / "report.html").write_text("<title>The report</title>")
    return folder


@pytest.fixture
def served(folder: RunFolder) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with serving(folder) as ready:
        yield ready


@pytest.fixture
def page(
    browser: "Browser", served: tuple[str, subprocess.Popen[bytes]], request: pytest.FixtureRequest
) -> Iterator["Page"]:
    """A tab at the address that the command prints. No script may fail in any test."""
    faults: list[Exception] = []
    with browser.new_context(base_url=served[0], **getattr(request, "param", {})) as context:
        yield open_page(context, served[0], faults)
    assert not faults
