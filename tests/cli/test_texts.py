"""What `predict` takes for a text: of its words, and of the lines of standard input."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from fourshot.cli import predict
from fourshot.cli.declare import read_command


def texts_of(content: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """The texts in standard input, and the warnings about them."""
    warnings: list[str] = []
    terminal: Any = SimpleNamespace(warn=warnings.append)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    return predict.read_texts([], terminal), warnings


@pytest.mark.parametrize("text", ["\u6620\u753b" * 60 + ". \u826f\u3044", "a\0b.csv"])
def test_a_text_that_is_too_long_for_the_name_of_a_file_is_a_text(text: str) -> None:
    assert predict.doubts_of([text], [text]) == []


@pytest.mark.parametrize(
    "words", ["RUN --quiet -- hello -b", "RUN hello --quiet -- -b", "RUN -- hello -b", "--quiet -- RUN hello -b"]
)
def test_all_behind_two_dashes_are_texts_wherever_options_stand(words: str) -> None:
    options = read_command(["predict", *words.split()], "0")
    assert (options.adapter, options.texts) == ("RUN", ["hello", "-b"])


def test_an_option_before_two_dashes_is_no_text() -> None:
    with pytest.raises(SystemExit):
        read_command(["predict", "RUN", "--bogus", "--", "hello"], "0")


def test_a_line_nested_too_deep_for_json_is_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = '{"text":' * 100_000
    assert texts_of(f"{deep}\nhello\n", monkeypatch) == ([deep, "hello"], [])


@pytest.mark.parametrize("line", ["", " ", "\u200b", "\ufeff", " \u200b\u2060 "])
def test_a_line_of_which_nothing_is_seen_is_blank(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts_of(f"hello\n{line}\n", monkeypatch) == (["hello"], ["1 blank text is left out."])
