"""JSON in every form that tables come in; a broken part is named by its line, and nothing before it is lost."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.tables.files import ReadSettings, Table, read_table

ROWS = [{"text": "One.", "label": "a"}, {"text": "Two\u2028and\ttabs.", "label": "b"}, {"text": "Three.", "label": "a"}]
LINES = [json.dumps(row) for row in ROWS]


def read(folder: Path, content: str, name: str = "t.json", settings: ReadSettings | None = None) -> Table:
    path = folder / name
    path.write_bytes(content.encode())
    return read_table(path, settings or ReadSettings())


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.NDJSON"])
@pytest.mark.parametrize(
    "content",
    [
        "\n".join(LINES),
        "\r".join(LINES),
        "\r\n".join([*LINES, ""]),
        "\ufeff" + "\n\n\ufeff".join(LINES),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps(ROWS, ensure_ascii=False),
        "[\n" + ",\n".join(LINES) + "\n]\n",
        "".join(LINES),
        ",\n".join([*LINES, ""]),
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
        json.dumps({"rows": ROWS, "version": 1}),
        json.dumps({"rows": ROWS, "version": 1}, indent=1),
        json.dumps({name: [row[name] for row in ROWS] for name in ("text", "label")}),
        json.dumps({name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ("text", "label")}),
        json.dumps({str(i): row for i, row in enumerate(ROWS)}),
    ],
)
def test_every_form_of_a_table_gives_the_same_rows(tmp_path: Path, content: str, name: str) -> None:
    table = read(tmp_path, content, name)
    assert list(table.rows.values()) == ROWS
    assert table.columns == ("text", "label")


def test_what_stands_beside_the_rows_is_named(tmp_path: Path) -> None:
    [notice] = read(tmp_path, json.dumps({"rows": ROWS, "version": 1})).notices
    assert "the rows are those of 'rows'; 'version' is not read" in str(notice)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(ROWS)[:-1], "the JSON array is not closed"),
        (json.dumps(ROWS, indent=1)[:-20], r":11: not valid JSON: Expecting property"),
        ("[" + ", ".join([LINES[0], "{'text': 'x'}"]) + "]", ":1: not valid JSON: Expecting property name"),
        (json.dumps([["text", "label"], ["One.", "a"]]), ":1: got a JSON list, each row must be an object"),
        (json.dumps({"a": ["x", "y"], "b": ["z"]}), "If each key is a class with its texts, write each text as"),
        (json.dumps({"a": ROWS, "b": ROWS[:1]}), "one JSON object with 'a', 'b': which of them are the rows"),
        ("[" * 100_000, "JSON that cannot be read"),
        ('{"text": "a", "label": ' + "9" * 5000 + "}", "JSON that cannot be read"),
        ("", "no rows"),
        ("[]", "no rows"),
        ("[{}, {}]", "no rows with content"),
        ("text,label\nOne.,a\n", "not valid JSON"),
        (json.dumps({"text": "a", "label": "b"}) + "\nnull\n", ":2: got a JSON null"),
    ],
)
def test_what_is_no_table_is_refused_in_few_lines(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, content)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_broken_line_is_named_or_left_out_as_asked(tmp_path: Path, place: int) -> None:
    lines = [*LINES]
    lines[place] = lines[place][:-4]
    with pytest.raises(InputError, match=rf":{place + 1}: not valid JSON.*--skip-broken"):
        read(tmp_path, "\n".join(lines), "t.jsonl")
    table = read(tmp_path, "\n".join(lines), "t.jsonl", ReadSettings(skip_broken=True))
    assert list(table.rows.values()) == [row for number, row in enumerate(ROWS) if number != place]
    [gone] = table.left_out
    assert (gone.reason, gone.count, gone.lines) == ("broken_json", 1, (place + 1,))


@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_chats_for_another_trainer_are_refused_with_what_a_row_must_be(tmp_path: Path, key: str) -> None:
    names = ("role", "content") if key == "messages" else ("from", "value")
    turns: list[dict[str, Any]] = [dict(zip(names, turn, strict=True)) for turn in [("user", "One."), ("bot", "a")]]
    with pytest.raises(InputError, match=rf'its rows are chats \(\'{key}\'\).*"text": .*turns \'One.\', \'a\''):
        read(tmp_path, json.dumps({key: turns}) + "\n" + json.dumps({key: turns}), "t.jsonl")


@pytest.mark.parametrize("digits", ["1e400", "-1E+400", "1" + "0" * 400 + ".0", "0.5e-400", "-0.0001e-999"])
@pytest.mark.parametrize(
    "form", ['{"text": "One.", "label": "a", "size": %s}', '[{"text": "One.", "sizes": [1.5, %s]}]']
)
def test_a_number_that_would_become_another_is_named_or_left_out_as_asked(
    tmp_path: Path, form: str, digits: str
) -> None:
    content = f"{form % digits}\n{LINES[1]}" if form.startswith("{") else form % digits
    with pytest.raises(
        InputError, match=rf"the number {re.escape(digits[:20])}.* cannot be stored exactly.*as a string"
    ):
        read(tmp_path, content, "t.jsonl")
    if form.startswith("{"):
        table = read(tmp_path, content, "t.jsonl", ReadSettings(skip_broken=True))
        assert list(table.rows.values()) == [ROWS[1]]
        assert [(gone.reason, gone.count) for gone in table.left_out] == [("beyond", 1)]


def test_numbers_that_are_what_they_say_are_kept(tmp_path: Path) -> None:
    rows = [{"text": "One.", "sizes": [0.0, -0.0, 1e308, 5e-324, 12345678901234567890]}, {"text": "Two.", "sizes": []}]
    content = "\n".join([json.dumps(rows[0]).replace("-0.0", "-0.0e5"), json.dumps(rows[1])])
    assert list(read(tmp_path, content, "t.jsonl").rows.values()) == rows


def test_rows_are_not_to_be_left_out_where_none_would_remain(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for content, is_way_out in (([["a text", "a"]] * 3, False), ([*ROWS, ["a text", "a"]], True)):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match="each row must be an object") as caught:
            read_table(path)
        assert ("--skip-broken" in str(caught.value)) is is_way_out


def test_one_line_with_a_text_and_its_spans_is_a_row(tmp_path: Path) -> None:
    row = {"id": 1, "text": "I was charged twice", "spans": [{"text": "charged"}, {"text": "twice"}]}
    table = read(tmp_path, json.dumps(row), "today.jsonl")
    assert list(table.rows.values()) == [row]
