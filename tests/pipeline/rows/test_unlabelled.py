"""A file of texts without labels: which column of it is read, and that every row is a text or counted."""

import json
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.text_table import MADE_FROM, open_texts
from fourshot.pipeline.rows.unlabelled import load_unlabelled
from fourshot.pipeline.rows.usable_rows import TableChoices
from fourshot.pipeline.task import DataSource, Label, Task
from fourshot.pipeline.tasks.generation import PairSource
from fourshot.pipeline.tasks.new_task import new_task
from fourshot.pipeline.tasks.pairs import load_inputs
from fourshot.pipeline.tasks.task_file import load_task

TASK = Task(
    name="mail",
    instruction="Sort it.",
    noun="mail",
    labels=(Label(name="a"), Label(name="b")),
    data=DataSource(text_column="body"),
)
ROWS = [{"body": f"Mail {number}.", "subject": f"About {number}", "label": "a"} for number in range(6)]


def table(folder: Path, rows: Sequence[Mapping[str, object]], name: str = "own.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_task_s_column_or_the_one_that_is_named_is_read(tmp_path: Path) -> None:
    unlabelled = load_unlabelled(table(tmp_path, ROWS), TASK, 0)
    assert unlabelled.texts == tuple((number + 1, f"Mail {number}.") for number in range(6))
    assert unlabelled.note == f"6 unlabelled texts in {tmp_path / 'own.jsonl'}, column 'body'"
    assert load_unlabelled(table(tmp_path, ROWS), TASK, 0, "subject").texts[0] == (1, "About 0")


def test_a_column_in_doubt_is_asked_for_and_the_only_one_is_not(tmp_path: Path) -> None:
    rows = [{"subject": "About it", "text": "A mail."}]
    with pytest.raises(InputError, match=r"no column 'body'; the columns are 'subject', 'text'.*--text-column NAME"):
        load_unlabelled(table(tmp_path, rows), TASK, 0)
    with pytest.raises(InputError, match="no column 'nobody'"):
        load_unlabelled(table(tmp_path, [{"only": "A mail."}]), TASK, 0, "nobody")
    assert load_unlabelled(table(tmp_path, [{"only": "A mail."}]), TASK, 0).texts == ((1, "A mail."),)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("id", "Message"), "Message"),
        (("Comment", "label"), "Comment"),
        (("id", "Nachricht"), ""),
        (("subject", "message"), ""),
        (("comment", "review"), ""),
    ],
)
def test_the_only_column_with_a_usual_name_is_read_and_named(
    tmp_path: Path, columns: Sequence[str], found: str
) -> None:
    file = table(tmp_path, [{column: f"in {column}" for column in columns}])
    task = msgspec.structs.replace(TASK, data=DataSource())
    if not found:
        for read in (lambda: load_unlabelled(file, task, 0), lambda: open_texts(file, task=task)):
            with pytest.raises(InputError, match=r"no column 'text'.*--text-column NAME"):
                read()
        return
    unlabelled = load_unlabelled(file, task, 0)
    assert unlabelled.texts == ((1, f"in {found}"),) and f"column '{found}'" in unlabelled.note
    texts = open_texts(file, task=task)
    assert [*texts.texts()] == [f"in {found}"]
    assert texts.note == f"{file}: the texts are those of the column '{found}' (to name another: --text-column NAME)"
    assert not open_texts(file, found, task).note and not texts.warnings, "it is no warning that all is as usual"


def test_a_column_is_read_that_the_task_s_own_texts_are_from(tmp_path: Path) -> None:
    """The quick start: a task of one export, and the texts of the next."""
    rows = [{"id": number, "Nachricht": f"Text {number}", "Thema": "ab"[number % 2]} for number in range(12)]
    made = new_task(table(tmp_path, rows), tmp_path / "made", TableChoices(text_columns=("Nachricht",)))
    task, rest = load_task(made.task_file), [{"id": row["id"], "Nachricht": row["Nachricht"]} for row in rows]
    assert load_unlabelled(table(tmp_path, rest, "rest.jsonl"), task, 0).texts[0] == (1, "Text 0")
    assert open_texts(tmp_path / "rest.jsonl", task=task).text_columns == ("Nachricht",)
    (tmp_path / "made" / MADE_FROM).write_text("{")
    with pytest.raises(InputError, match="no column 'text'"):
        open_texts(tmp_path / "rest.jsonl", task=task)


def test_the_column_of_texts_need_not_be_in_the_first_row(tmp_path: Path) -> None:
    task, rest = msgspec.structs.replace(TASK, data=DataSource()), [{"text": f"Text {number}"} for number in range(3)]
    for first in ({"content": "closed"}, {"id": "t-0"}, {"id": 0, "title": "x"}):
        file = table(tmp_path, [first, *rest])
        for texts in (open_texts(file, task=task).texts(), (text for _, text in load_unlabelled(file, task, 0).texts)):
            assert [*texts] == ["Text 0", "Text 1", "Text 2"]
    assert open_texts(table(tmp_path, [{"id": 0}, {"body": "A mail."}]), "body").text_columns == ("body",)


def test_columns_that_the_task_s_own_texts_were_joined_of_are_joined_again(tmp_path: Path) -> None:
    """Half of each text would be read otherwise, with other answers."""
    (tmp_path / MADE_FROM).write_bytes(msgspec.json.encode({"text_columns": ["Subject", "Description"]}))
    task = msgspec.structs.replace(TASK, data=DataSource(folder=str(tmp_path)))
    rows: list[dict[str, object]] = [
        {"Id": "1", "Subject": "Slow", "Description": "It takes minutes."},
        {"Id": "2", "Subject": "Slow", "Description": None},
    ]
    path = table(tmp_path, rows, "in.jsonl")
    wanted = ["Slow\nIt takes minutes.", "Slow"]
    texts = open_texts(path, None, task)
    assert list(texts.texts()) == wanted
    assert "'Subject' and 'Description', joined" in texts.note
    assert [text for _, text in load_unlabelled(path, task, 0).texts] == wanted
    assert list(open_texts(path, "Subject", task).texts()) == ["Slow", "Slow"]
    for half in (table(tmp_path, [{"Id": "1", "Subject": "Slow"}]), table(tmp_path, [{"Subject": "Slow"}], "b.jsonl")):
        for read in (open_texts, lambda path, _, task: load_unlabelled(path, task, 0)):
            with pytest.raises(InputError, match=r"no column 'Description'.*'Subject' and 'Description', joined"):
                read(half, None, task)
    whole = table(tmp_path, [{"text": "Slow", "Subject": "No"}], "c.jsonl")
    assert list(open_texts(whole, None, task).texts()) == ["Slow"]


def test_a_first_line_that_may_be_a_text_is_asked_about(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("I was charged twice\ncannot log in\n")
    for read in (lambda: load_unlabelled(file, TASK, 0), lambda: open_texts(file)):
        with pytest.raises(
            InputError, match=r"'I was charged twice', would name its only column.*--text-column 'I was"
        ):
            read()
    named = load_unlabelled(file, TASK, 0, "I was charged twice")
    assert named.texts == ((2, "cannot log in"),)
    assert "the first line, 'I was charged twice', was used as the name" in named.note
    two = tmp_path / "two.csv"
    two.write_text("I was charged twice,2024-01-01\ncannot log in,2024-01-02\n")
    for read in (lambda: load_unlabelled(two, TASK, 0), lambda: open_texts(two)):
        with pytest.raises(InputError, match="with 'I was charged twice', is a row, write a line above it that names"):
            read()
    assert "was used as the name" in str(open_texts(two, "I was charged twice").warnings)
    with pytest.raises(InputError, match="would name its only column"):
        load_inputs(file, PairSource())
    file.write_text("late parcel\ncannot log in\n")
    note = "the first line, 'late parcel', was used as the name of the column"
    assert note in load_unlabelled(file, TASK, 0).note and note in str(open_texts(file).warnings)
    file.write_text("message\ncannot log in\n")
    assert "first line" not in load_unlabelled(file, TASK, 0).note and not open_texts(file).warnings
    assert load_unlabelled(table(tmp_path, [{"what they wrote": "A mail."}]), TASK, 0).texts == ((1, "A mail."),)


def test_one_text_per_line_whatever_ends_it(tmp_path: Path) -> None:
    file = tmp_path / "own.TXT"
    file.write_bytes("\ufeffone\r\ntwo\u2028halves\rthree\n\n four \n".encode())
    unlabelled = load_unlabelled(file, TASK, 0)
    assert unlabelled.texts == ((1, "one"), (2, "two\u2028halves"), (3, "three"), (5, "four"))
    assert unlabelled.note.endswith("; 1 row without a text left out (line 4)")


def test_more_than_are_wanted_are_drawn_from_by_the_seed(tmp_path: Path) -> None:
    file = table(tmp_path, ROWS)
    first, second, third = (load_unlabelled(file, TASK, 3, seed=seed) for seed in (0, 0, 1))
    assert first == second != third
    assert len(first.texts) == 3 and list(first.texts) == sorted(first.texts)
    assert ", 3 of them drawn (unlabelled.most)" in first.note
    assert "drawn" not in load_unlabelled(file, TASK, 6).note


def test_texts_that_are_not_drawn_and_other_columns_are_not_held_in_memory(tmp_path: Path) -> None:
    rows = [{"body": f"Mail {number}.", "attachment": "x" * 5_000} for number in range(4_000)]
    file = table(tmp_path, rows)
    del rows
    tracemalloc.start()
    unlabelled = load_unlabelled(file, TASK, 10)
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(unlabelled.texts) == 10 and most_bytes < file.stat().st_size / 2


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([{"body": ["a", "list"]}, {"body": "fine"}], r"own\.jsonl:1: the text is a list"),
        ([{"body": ""}, {"body": None}], "all texts in the column 'body' are blank"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, rows: list[dict[str, object]], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        load_unlabelled(table(tmp_path, rows), TASK, 0)


def test_the_encoding_that_is_named_is_read(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_bytes("Grün\n".encode("cp1252"))
    with pytest.raises(InputError, match="--encoding NAME"):
        load_unlabelled(tmp_path / "own.txt", TASK, 0)
    assert load_unlabelled(tmp_path / "own.txt", TASK, 0, encoding="cp1252").texts == ((1, "Grün"),)


def test_files_of_other_kinds_and_missing_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "own.docx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"cannot read a \.docx file; allowed are .*\.csv.*\.txt"):
        load_unlabelled(tmp_path / "own.docx", TASK, 0)
    with pytest.raises(InputError, match=r"own\.csv: no such file"):
        load_unlabelled(tmp_path / "own.csv", TASK, 0)
    with pytest.raises(InputError, match=r"own\.txt"):
        load_unlabelled(tmp_path / "own.txt", TASK, 0)


def test_a_folder_of_shards_is_a_table_and_its_hash_is_that_of_the_shards(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    hashes = []
    for last in ("Mail 3.", "Mail 4."):
        table(tmp_path / "mail", ROWS[:3], "0000.jsonl")
        table(tmp_path / "mail", [{"body": last}], "0001.jsonl")
        (tmp_path / "mailing.txt").write_text(last)
        opened = open_texts(tmp_path / "mail", task=TASK)
        assert list(opened.texts()) == ["Mail 0.", "Mail 1.", "Mail 2.", last]
        hashes.append(opened.content_hash)
    table(tmp_path / "mail", [{"body": "Mail 3."}], "0001.jsonl")
    assert open_texts(tmp_path / "mail", task=TASK).content_hash == hashes[0] != hashes[1]


def test_errors_name_only_what_can_be_given_for_such_texts(tmp_path: Path) -> None:
    file, name = tmp_path / "survey.csv", "How did you like our new service."
    file.write_text(f"{name}\nvery much\nnot at all\n")
    for read in (lambda: load_unlabelled(file, TASK, 0), lambda: open_texts(file)):
        with pytest.raises(InputError, match=r"is a sentence\. .* if this one does, name a column") as refused:
            read()
        assert "--" not in str(refused.value)
    assert load_unlabelled(file, TASK, 0, name).texts == ((2, "very much"), (3, "not at all"))
    assert list(open_texts(file, name).texts()) == ["very much", "not at all"]
    file.write_text("text,n\nmany, commas, here\n")
    with pytest.raises(InputError, match="3 fields where the header has 2") as refused:
        load_unlabelled(file, TASK, 0)
    assert "--" not in str(refused.value)
