"""Cells, names and texts made to take for ever: every expression goes through them once.

Each took from minutes to longer than one could wait, or all of Python's stack.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourshot.pipeline.rows import column_looks, columns
from fourshot.pipeline.rows.columns import Columns
from fourshot.pipeline.rows.labels.cells import read_label
from fourshot.pipeline.rows.row_doubts import _around_texts
from fourshot.pipeline.synthesis.filters import clean_text
from fourshot.pipeline.tables.grid import is_sentence
from fourshot.pipeline.tables.json_tables import _Decoder
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.wording import instruction_form
from fourshot.serving.clients.remote.writer import _joined

MANY = 100_000
BOUND_S = 20  # for what takes less than one, on a machine where other work runs


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    def ended(*_: object) -> None:
        raise TimeoutError(f"not done after {BOUND_S} s")

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(BOUND_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "cell",
    [
        "__label__a" * MANY + " x",
        "np.x(" + ",dtype=" * MANY + "(",
        "np.x(" * MANY + "x" + ")" * MANY,
        "['a' 'b' '" + "\\'" * MANY + "]",
        "['a' 'b'" + " '" * MANY + "\\]",
        "array([" + ", dtype=" * MANY + "])",
    ],
    ids=lambda cell: cell[:12],
)
def test_a_label_is_read_in_time(cell: str) -> None:
    with contextlib.suppress(ValueError):  # that it is no label is as good
        read_label(cell)


def doubts(text: str) -> object:
    table: Any = SimpleNamespace(path=Path("t.csv"))
    return _around_texts(table, Columns(("text",), ("label",)), [Example(text=text + end, label="a") for end in "bc"])


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda text: column_looks.is_worded([text]), "a" * MANY),
        (columns._unnumbered, "_" * MANY + "a"),
        (doubts, "." * MANY),
        (lambda text: doubts(text[::-1]), "a" + "." * MANY),
        (instruction_form, "{" + " " * MANY + "x y"),
        (instruction_form, "{" * MANY),
        (is_sentence, "a" * MANY),
        (lambda text: _Decoder()._build([(f"{text}{i}", 0) for i in range(MANY)] * 2), "k"),
        (is_sentence, "a " * MANY),
        (clean_text, "- " * MANY),
        (clean_text, "1. " * MANY),
        (lambda text: _joined(text, "Target:", " ->"), "a" + "\n" * MANY + "b"),
        (lambda text: _joined(text, "Target:", " ->"), "a" + " \n" * MANY + "Target: b"),
    ],
)
def test_a_text_is_gone_through_once(function: Callable[[str], object], text: str) -> None:
    function(text)


def test_what_they_find_is_what_they_found() -> None:
    assert [read_label(cell).labels for cell in ("__label__a", "__label__a, __label__b", "x __label__a")] == [
        ("a",),
        ("a", "b"),
        ("x __label__a",),
    ]
    assert read_label("array(['a', 'b'], dtype=object)").labels == ("a", "b")
    assert read_label("np.str_('a')").labels == ("a",) == read_label("['a']").labels
    assert read_label("['a' 'b\\'s']").labels == ("a", "b\\'s")
    names = ("label_1", "label", "label 12", "2024")
    assert [columns._unnumbered(name) for name in names] == ["label", "label", "label", ""]
    texts = ("two words", "2 words", "1 2", "word", "a b c", "12ab c", "短い文")
    assert [column_looks.is_worded([text]) for text in texts] == [True, False, False, False, False, True, True]
    assert clean_text("- 1. • text") == "text" and clean_text('- "1. text"') == "text"
    assert _joined("a \n\n Target:\n b\nTarget: c", "Target:", " ->") == "a -> b\nTarget: c"
    assert _joined("Target: a", "Target:", " ->") == "Target: a"
    assert is_sentence("This is a text.") and not is_sentence("of the text.") and not is_sentence("one two three four")
