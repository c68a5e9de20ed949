"""Annotated tables keep what the user had, say what was answered, and go on where they were stopped."""

import csv
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fourshot.engine.errors import InputError, RunFolderError
from fourshot.engine.machine.files import append_lines
from fourshot.pipeline.distillation.annotating import AnnotationSummary, annotate_table
from fourshot.pipeline.distillation.annotators import Annotate, Annotation, Parts
from fourshot.pipeline.events import Event
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.rows.unfinished import ANSWERS_FILE, unfinished_folder
from fourshot.pipeline.rows.unlabelled import load_unlabelled
from fourshot.pipeline.tables.files import read_table
from fourshot.pipeline.tables.types import ReadSettings
from fourshot.pipeline.tasks.task_file import load_task
from tests.pipeline.task_folders import write_jsonl, write_pairs

LABELS = ("warm", "cold")


class StoppedError(Exception):
    """As a kill would come, between two parts."""


def annotator(stop_after: int | None = None, read_texts: list[str] | None = None) -> Annotate:
    """Says "cold" of texts with ice; is less sure of longer texts."""

    def annotate(parts: Parts) -> Iterator[list[Annotation]]:
        for number, texts in enumerate(parts):
            if number == stop_after:
                raise StoppedError
            if read_texts is not None:
                read_texts.extend(texts)
            yield [answer(text) for text in texts]

    return annotate


def answer(text: str) -> Annotation:
    if "?!" in text:
        return Annotation(fault="too long")
    sure = 0.9 if len(text) < 20 else 0.6
    return Annotation(
        probabilities=(1 - sure, sure) if "ice" in text else (sure, 1 - sure),
        agreement=0.5,
        cut_words=3 * ("lakes" in text),
    )


def table(folder: Path, name: str = "notes.csv") -> Path:
    """Five rows with columns of the user's own."""
    rows: list[dict[str, object]] = [
        {"id": "7", "text": "ice cubes", "who": "Ann, B."},
        {"id": "3", "text": "hot soup", "who": ""},
        {"id": "5", "text": "   ", "who": "C"},
        {"id": "1", "text": "thick ice on all the lakes", "who": "D"},
        {"id": "2", "text": "what?!", "who": "E"},
    ]
    path = folder / name
    if path.suffix == ".jsonl":
        write_jsonl(path, rows)
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def annotate(path: Path, out: Path, by: Annotate | None = None, abstain_below: float = 0.0) -> AnnotationSummary:
    return annotate_table(open_texts(path), out, LABELS, "somebody", by or annotator(), abstain_below=abstain_below)


def test_progress_is_told_long_before_the_most_that_a_part_holds(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "many.jsonl", [{"text": f"soup {number}"} for number in range(2_000)])
    events: list[Event] = []
    texts = open_texts(tmp_path / "many.jsonl")
    annotate_table(texts, tmp_path / "out.jsonl", LABELS, "somebody", annotator(), on_event=events.append)
    done = [event.done for event in events if event.message == "reading" and event.done is not None]
    assert done[0] == 16 and done[-1] == 2_000
    steps = [later - earlier for earlier, later in pairwise(done)]
    assert all(step <= max(16, earlier / 4) for step, earlier in zip(steps, done[:-1], strict=True))
    assert max(steps) == 256


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("source_ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_rows_keep_their_order_and_columns_in_every_format(tmp_path: Path, source_ending: str, ending: str) -> None:
    out = tmp_path / f"out{ending}"
    summary = annotate(table(tmp_path, f"notes{source_ending}"), out)
    written = read_table(out)
    rows = list(written.rows.values())
    assert [row["id"] for row in rows] == ["7", "3", "5", "1", "2"]
    assert [row["who"] for row in rows] == ["Ann, B.", "", "C", "D", "E"]
    assert [row["annotated_label"] or None for row in rows] == ["cold", "warm", None, "cold", None]
    assert [float(row["p_cold"] or -1) for row in rows] == pytest.approx([0.9, 0.1, -1, 0.6, -1])
    assert {row["annotated_by"] or None for row in rows} == {"somebody", None}
    assert (summary.rows, summary.blank, summary.unreadable) == (5, 1, 1)
    assert summary.labelled == {"warm": 1, "cold": 2} and summary.agreement == 0.5
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name or path.name[0] == "."] == []


@pytest.mark.parametrize(
    ("content", "named", "begins"),
    [
        ('\ufeffid;text\n1;"Käse; kalt"\n'.encode(), "", "\ufeffid;text;annotated_"),
        ('id;text\n1;"Käse; kalt"\n'.encode("cp1252"), "cp1252", "\ufeffid;text;annotated_"),
        (b"id,text\n1,cheese\n", "", "id,text,annotated_"),
    ],
)
def test_a_spreadsheet_opens_what_is_written_as_it_opened_what_was_given(
    tmp_path: Path, content: bytes, named: str, begins: str
) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    notes = open_texts(tmp_path / "t.csv", settings=ReadSettings(encoding=named), text_column="text")
    annotate_table(notes, tmp_path / "out.csv", LABELS, "somebody", annotator())
    assert (tmp_path / "out.csv").read_bytes().decode().startswith(begins)
    (row,) = read_table(tmp_path / "out.csv").rows.values()
    assert row["id"] == "1" and row["text"] in ("Käse; kalt", "cheese") and row["annotated_label"]


@pytest.mark.parametrize("content", [",text\n0,ice\n1,soup\n", '"text"\n"1","ice"\n"2","soup"\n'], ids=["pandas", "R"])
def test_a_column_that_numbers_the_rows_stays_without_a_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    annotate_table(open_texts(tmp_path / "t.csv", "text"), tmp_path / "out.csv", LABELS, "somebody", annotator())
    assert (tmp_path / "out.csv").read_text().startswith(",text,annotated_label,")
    assert list(open_texts(tmp_path / "out.csv", "text").texts()) == ["ice", "soup"]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_texts_of_several_lines_stay_one_row_each(tmp_path: Path, ending: str) -> None:
    texts = ["one\rtwo", "one\r\ntwo", "one\ntwo", "the last\r"]
    write_jsonl(tmp_path / "notes.jsonl", [{"text": text} for text in texts])
    annotate(tmp_path / "notes.jsonl", tmp_path / f"out{ending}")
    assert [row["text"] for row in read_table(tmp_path / f"out{ending}").rows.values()] == texts


def test_a_row_of_fields_is_read_as_one_input(tmp_path: Path) -> None:
    task = load_task(write_pairs(tmp_path))
    path, read_texts = tmp_path / "new.jsonl", list[str]()
    write_jsonl(
        path, [{"hypothesis": "It is wet.", "premise": "It rains.", "n": 1}, {"premise": "x", "hypothesis": ""}]
    )
    summary = annotate_table(
        open_texts(path, task=task), tmp_path / "out.jsonl", LABELS, "me", annotator(read_texts=read_texts)
    )
    assert read_texts == ["Premise: It rains.\nHypothesis: It is wet."] and (summary.rows, summary.blank) == (2, 1)
    assert list(read_table(tmp_path / "out.jsonl").columns)[:3] == ["hypothesis", "premise", "n"]
    with pytest.raises(InputError, match="--text-column NAME is for tasks of texts; pairs has fields"):
        open_texts(path, "premise", task)
    with pytest.raises(InputError, match="no column 'premise' and 'hypothesis'; the columns are 'id', 'text', 'who'"):
        open_texts(table(tmp_path), task=task)
    unlabelled = load_unlabelled(path, task, 0)
    assert (
        unlabelled.texts == ((1, read_texts[0]),)
        and "column 'premise' and 'hypothesis'; 1 row without" in unlabelled.note
    )


def test_nobody_sure_enough_means_no_label(tmp_path: Path) -> None:
    summary = annotate(table(tmp_path), tmp_path / "out.jsonl", abstain_below=0.7)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[3]["annotated_label"] is None and rows[3]["p_cold"] == 0.6
    assert summary.abstained == 1 and summary.labelled["cold"] == 1


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    path, out = tmp_path / "many.jsonl", tmp_path / "out.jsonl"
    write_jsonl(path, [{"text": f"note {number} of ice"} for number in range(600)])
    with pytest.raises(StoppedError):
        annotate(path, out, annotator(stop_after=1))
    assert not out.exists()
    answers = unfinished_folder(out) / ANSWERS_FILE
    answers.write_bytes(answers.read_bytes()[:-9])  # the last line was cut short
    read_texts: list[str] = []
    assert annotate(path, out, annotator(read_texts=read_texts)).rows == 600
    assert (read_texts[0], len(read_texts)) == ("note 15 of ice", 585)
    assert [row["text"] for row in read_table(out).rows.values()] == [f"note {number} of ice" for number in range(600)]


def test_answers_are_never_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill, or a full disk, at that moment would cost all of them."""
    path, out = tmp_path / "many.jsonl", tmp_path / "out.jsonl"
    write_jsonl(path, [{"text": f"note {number} of ice"} for number in range(300)])
    with pytest.raises(StoppedError):
        annotate(path, out, annotator(stop_after=1))
    write_bytes = Path.write_bytes

    def write(file: Path, content: bytes) -> int:
        assert file.name != ANSWERS_FILE
        return write_bytes(file, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    assert annotate(path, out).rows == 300


def test_answers_of_another_reader_are_not_gone_on_with(tmp_path: Path) -> None:
    path, out = table(tmp_path), tmp_path / "out.jsonl"
    for somebody in ("who answered nothing", "me"):
        with pytest.raises(StoppedError):
            annotate_table(open_texts(path), out, LABELS, somebody, annotator(stop_after=0))
    append_lines(unfinished_folder(out) / ANSWERS_FILE, [answer("ice")])
    with pytest.raises(RunFolderError, match="by: "):
        annotate_table(open_texts(path), out, LABELS, "somebody else", annotator())


@pytest.mark.parametrize(
    ("out", "columns", "message"),
    [
        ("out.xls", "text", "cannot write a .xls file"),
        ("notes.csv", "text", "already exists"),
        ("out.csv", "text,p_cold", "'p_cold'"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_read(
    tmp_path: Path, out: str, columns: str, message: str
) -> None:
    path = tmp_path / "notes.csv"
    path.write_text(f"{columns}\n" + ",".join(["a cold note"] * (columns.count(",") + 1)) + "\n")
    with pytest.raises(InputError, match=message):
        annotate(path, tmp_path / out, annotator(stop_after=0))


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ("id,when\n1,2\n", None, "has no column 'text'"),
        ("id,text\n1,\n", None, "are blank"),
        ("id,text\n1,note\n", "body", "no column 'body'"),
    ],
)
def test_a_table_without_texts_is_refused(tmp_path: Path, content: str, column: str | None, message: str) -> None:
    path = tmp_path / "notes.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        open_texts(path, column)


@pytest.mark.parametrize(
    "cells", [(1, "one"), (10**30, 2), ({}, {}), ([["k", 1]], None)], ids=["types", "number", "objects", "map"]
)
def test_what_parquet_cannot_hold_is_refused_before_anything_is_read(tmp_path: Path, cells: tuple[Any, ...]) -> None:
    path, read_texts = tmp_path / "t.jsonl", list[str]()
    write_jsonl(path, [{"text": f"text {n}", "note": cell} for n, cell in enumerate(cells)])
    with pytest.raises(InputError, match=r"Parquet cannot store the column 'note'.*--out .*out\.jsonl"):
        annotate(path, tmp_path / "out.parquet", annotator(read_texts=read_texts))
    assert read_texts == [] and not (tmp_path / "out.parquet").exists()
    assert annotate(path, tmp_path / "out.jsonl").rows == len(cells)


def test_what_was_left_out_of_the_table_and_what_is_unclear_in_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("text,who,\nice cubes,Ann,\ntext,who,\nhot soup,Bo,more\n")
    notes = open_texts(path)
    summary = annotate_table(notes, tmp_path / "out.csv", LABELS, "a run", annotator())
    assert summary.rows == 2
    unclear, left_out = summary.warnings
    assert "value in a column without a name (line 4)" in unclear
    assert "1 row left out: repeating the column names" in left_out


def test_rows_that_are_not_read_whole_are_counted(tmp_path: Path) -> None:
    summary = annotate(table(tmp_path), tmp_path / "out.csv")
    assert (summary.rows, summary.cut, summary.cut_words) == (5, 1, 3)


@pytest.mark.parametrize(
    ("row", "place"),
    [({"text": "ice\0"}, "row 1 of the column 'text'"), ({"text": "ice", "a\0": 1}, r"the name 'a\\x00'")],
)
def test_what_csv_cannot_hold_is_refused_before_anything_is_asked(
    tmp_path: Path, row: dict[str, object], place: str
) -> None:
    write_jsonl(tmp_path / "notes.jsonl", [row])
    notes, read_texts = open_texts(tmp_path / "notes.jsonl", "text"), list[str]()
    for name in ("out.csv", "out.tsv"):
        with pytest.raises(InputError, match=f"CSV cannot store NUL characters, but {place} has one.*out.jsonl"):
            annotate_table(notes, tmp_path / name, LABELS, "me", annotator(read_texts=read_texts))
    assert not read_texts and annotate_table(notes, tmp_path / "out.jsonl", LABELS, "me", annotator()).rows == 1


@pytest.mark.parametrize("cell", ["Infinity", "[1.5, -Infinity]", '{"a": [Infinity]}'])
def test_an_infinite_number_is_not_written_as_nothing(tmp_path: Path, cell: str) -> None:
    (tmp_path / "notes.jsonl").write_text(f'{{"text": "snow", "size": NaN}}\n{{"text": "ice", "size": {cell}}}\n')
    notes, read_texts = open_texts(tmp_path / "notes.jsonl", "text"), list[str]()
    with pytest.raises(InputError, match=r"infinite numbers, but row 2 of the column 'size' has one.*out\.csv"):
        annotate_table(notes, tmp_path / "out.jsonl", LABELS, "me", annotator(read_texts=read_texts))
    assert not read_texts and annotate_table(notes, tmp_path / "out.csv", LABELS, "me", annotator()).rows == 2
