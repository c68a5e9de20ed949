"""The numbers in docs/benchmarks.md are those of the results that lie in bench/results."""

from pathlib import Path

import pytest

from bench.docs import RESULTS, put, sections
from engine.errors import InputError

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def test_the_page_says_what_was_measured() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert put(text, sections(RESULTS, "epyc-zen5-2cores")) == text, (
        "run: python -m bench.docs --write docs/benchmarks.md"
    )


def test_a_page_without_the_markers_is_refused() -> None:
    with pytest.raises(InputError, match="gain:start"):
        put("nothing", {"gain": "a table"})
