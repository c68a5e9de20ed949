"""Text files: a text per line, fastText's labels, or a table that is called .txt."""

from pathlib import Path

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.tables.files import ReadSettings, Table, read_table


def read(folder: Path, content: str, settings: ReadSettings | None = None) -> Table:
    path = folder / "t.txt"
    path.write_bytes(content.encode())
    return read_table(path, settings or ReadSettings())


def test_each_line_is_a_text(tmp_path: Path) -> None:
    table = read(tmp_path, 'One, two.\r\n"Three" and four.\r\nA\ttab.\r\n')
    assert [row["text"] for row in table.rows.values()] == ["One, two.", '"Three" and four.', "A\ttab."]


def test_labels_as_fasttext_writes_them_are_labels(tmp_path: Path) -> None:
    table = read(tmp_path, "__label__lock The lock  jams.\n\n__label__a __label__b Two at once.\n__label__lock\n")
    assert list(table.rows.values()) == [
        {"label": "lock", "text": "The lock  jams."},
        {"label": ["a", "b"], "text": "Two at once."},
        {"label": "lock", "text": ""},
    ]


def test_a_table_with_tabs_is_one_and_other_separators_are_asked_about(tmp_path: Path) -> None:
    settings = ReadSettings(header=False)
    assert read(tmp_path, "ham\tHello.\nspam\tWin!\n", settings).rows[2] == {"1": "spam", "2": "Win!"}
    assert read(tmp_path, 'text\tlabel\n"Two\nlines."\ta\nOne.\tb\n').rows[2]["text"] == "Two\nlines."
    with pytest.raises(InputError, match=r"Each line has one ';'. If it is a table, rename it to \.csv"):
        read(tmp_path, "".join(f"i feel {number};joy\n" for number in range(9)))
    with pytest.raises(InputError, match=r"first line, 'text,label', looks like column names"):
        read(tmp_path, "text,label\nI was charged twice,billing\n")
    assert len(read(tmp_path, "Hello, message received\nlabel\ntext: label\n").rows) == 3


def test_a_line_without_a_label_among_those_of_fasttext_is_named(tmp_path: Path) -> None:
    path, lines = tmp_path / "t.txt", ["__label__a one", " __label__b two", "__label__a three", "four"]
    path.write_text("\n".join(lines[:3]))
    assert [row["label"] for row in read_table(path).rows.values()] == ["a", "b", "a"]
    for content, line in ((lines, 4), ([f"{text} __label__a" for text in ("one", "two")], 1)):
        path.write_text("\n".join(content))
        with pytest.raises(
            InputError, match=rf":{line}: . of . lines have __label__.*Write each line as __label__NAME"
        ):
            read_table(path)
    path.write_text("What is __label__?\nOne.\nTwo.\n")
    assert len(read_table(path).rows) == 3
