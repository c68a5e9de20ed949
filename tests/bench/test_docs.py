"""The numbers in docs/benchmarks.md are those of the results that lie in bench/results."""

from pathlib import Path

import pytest

from fourshot.bench.suites.docs import RESULTS, put, sections
from fourshot.engine.errors import InputError

ROOT = Path(__file__).parents[2]


def test_the_pages_say_what_was_measured() -> None:
    drawn = sections(RESULTS, "epyc-zen5-2cores")
    page, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/benchmarks.md", "README.md"))
    assert put(page, drawn) == page, "run: python -m fourshot.bench.suites.docs --write docs/benchmarks.md"
    only = {name: section for name, section in drawn.items() if name == "gain"}
    assert put(readme, only) == readme, "run: python -m fourshot.bench.suites.docs --write README.md --only gain"


def test_a_page_without_the_markers_is_refused() -> None:
    with pytest.raises(InputError, match="gain:start"):
        put("nothing", {"gain": "a table"})
