"""The report in a real browser: on paper, in the colours of a system, with long texts."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from fourshot.pipeline.report.text import REASON_NAMES
from fourshot.pipeline.report.write import write_report
from tests.pipeline.report.full_report import full_data, judged

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WIDTH = 718  # of A4 in pixels, within Chromium's margins
LONG = "A long text. " * 1500
GROUND = "marks => marks.map(mark => getComputedStyle(mark).backgroundColor)"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    data = msgspec.structs.replace(full_data(), kept=(judged(0, "good", "kept", LONG),))
    page: Path = write_report(data, tmp_path_factory.mktemp("report"))[0]
    return page.as_uri()


def test_on_paper_nothing_is_cut_off_or_folded_away(browser: "Browser", url: str) -> None:
    with browser.new_context(viewport={"width": WIDTH, "height": 1047}) as context:
        page = context.new_page()
        page.goto(url)
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH
        reaches = "tables => tables.map(table => table.offsetWidth - table.parentElement.offsetWidth)"
        assert max(page.locator("table").evaluate_all(reaches)) <= 1
        assert page.locator("details:not([open])").count() > 4
        assert min(page.locator("table, pre").evaluate_all("parts => parts.map(part => part.offsetHeight)")) > 0
        long_text = page.get_by_text(LONG).first
        assert long_text.evaluate("node => node.scrollHeight <= node.clientHeight + 1")


def test_a_long_text_can_be_read_to_its_end(browser: "Browser", url: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        long_text = page.get_by_text(LONG).first
        assert long_text.evaluate("node => node.offsetHeight") < 250
        long_text.hover()
        page.mouse.wheel(0, 100_000)
        page.wait_for_function(
            "node => node.scrollTop + node.clientHeight + 1 >= node.scrollHeight", arg=long_text.element_handle()
        )


def test_marks_keep_their_colours_in_those_of_a_system(browser: "Browser", url: str) -> None:
    with browser.new_context(forced_colors="active") as context:
        page = context.new_page()
        page.goto(url)
        grounds = page.locator(".legend i").evaluate_all(GROUND)
        assert len({*grounds}) == len(grounds) > 10
        means = page.locator(".axis .interval, .axis .mean, .share .own").evaluate_all(GROUND)
        assert page.locator("body").evaluate_all(GROUND)[0] not in means


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_reason_has_a_colour_of_its_own(browser: "Browser", url: str, scheme: str) -> None:
    with browser.new_context(color_scheme=scheme) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(url)
        grounds = page.locator(".legend i").evaluate_all(GROUND)
        assert len(grounds) == len({*grounds}) == len(REASON_NAMES)
