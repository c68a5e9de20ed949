"""The table that a person edits in a spreadsheet: what comes back is what was written, or is refused with its line."""

import csv
import io
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.review_table import (
    FORMULA_STARTS,
    LONGEST_CELL,
    ReviewAnswer,
    ReviewRow,
    guard,
    own_columns,
    read_review,
    unguard,
    write_review,
)
from fourshot.pipeline.task import Label, Task
from tests.pipeline.tables.test_file_bytes import spreadsheet

TASK = Task(
    name="grades", instruction="Grade it.", noun="essay", labels=tuple(Label(name=name) for name in ("A", "A-", "true"))
)
TEXTS = (
    '=HYPERLINK("http://example.org","a bill")',
    '\'tis a quoted one, "with" marks; and more',
    "-5 degrees\nand a second line",
    "@you, 'x' \U0001f600 \u05e9\u05dc\u05d5\u05dd",
    "\uff1dSUM(A1)",
    "plain",
)
ROWS = [ReviewRow(id=f"r00-{n:06d}", text=text, label="A-", keep=n != 1, why="kept") for n, text in enumerate(TEXTS)]


def as_is() -> dict[str, ReviewAnswer]:
    return {row.id: ReviewAnswer(label=row.label, keep=row.keep) for row in ROWS}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_review(tmp_path / "review.csv", ROWS, task=TASK)
    return tmp_path / "review.csv"


def edit(table: Path, *changes: tuple[str, str]) -> None:
    text = table.read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) >= 1
        text = text.replace(old, new, 1)
    table.write_text(text, encoding="utf-8")


def test_what_nobody_changed_comes_back_as_it_was(table: Path) -> None:
    assert read_review(table, ROWS, TASK) == as_is()
    assert table.read_bytes().startswith(b"\xef\xbb\xbfid,text,label,keep,why,probabilities")


def test_no_cell_is_a_formula_and_every_guard_is_undone(table: Path) -> None:
    cells = [cell for row in csv.reader(io.StringIO(table.read_text("utf-8-sig"), newline="")) for cell in row]
    risky = tuple(start for start in FORMULA_STARTS if start != "'")
    assert not [cell for cell in cells if cell.startswith(risky)]
    for start in FORMULA_STARTS:
        for cell in (start, f"{start}x", f"'{start}x", f"''{start}", "x"):
            assert unguard(guard(cell)) == cell


def test_the_fields_of_an_input_have_columns(tmp_path: Path) -> None:
    task = msgspec.structs.replace(TASK, fields=("premise", "hypothesis"))
    rows = [ReviewRow(id="r-1", text="Premise: =1+1\nHypothesis: Two.", label="A-", keep=True, why="kept")]
    path = tmp_path / "review.csv"
    write_review(path, rows, task=task)
    assert path.read_text("utf-8-sig").startswith(
        "id,premise,hypothesis,label,keep,why,probabilities\nr-1,'=1+1,Two.,A-"
    )
    assert (
        read_review(path, rows, task) == {"r-1": ReviewAnswer(label="A-", keep=True)} and own_columns(path, task) == []
    )
    edit(path, ("Two.", "Three."))
    with pytest.raises(InputError, match="the hypothesis of r-1 was changed"):
        read_review(path, rows, task)
    write_review(path, rows, task=msgspec.structs.replace(task, fields=("premise", "why")))
    assert path.read_text("utf-8-sig").startswith("id,text,label")


def test_another_separator_and_no_mark_are_what_spreadsheets_save(table: Path) -> None:
    rows = list(csv.reader(io.StringIO(table.read_text("utf-8-sig"), newline="")))
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=";").writerows([rows[0], *reversed(rows[1:]), [""] * len(rows[0])])
    assert read_review(table, ROWS, TASK) == as_is()


def test_labels_rows_and_words_for_yes_may_change(table: Path) -> None:
    edit(table, ("plain,A-,yes", "plain,TRUE,Y"), ("'-5 degrees", "'-5  degrees"))
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    table.write_text("".join(line for line in lines if "@you" not in line), encoding="utf-8")
    answers = read_review(table, ROWS, TASK)
    assert answers["r00-000005"] == ReviewAnswer(label="true", keep=True)
    assert answers["r00-000003"] == ReviewAnswer(label="A-", keep=False, is_deleted=True)
    unchanged = {name: answer for name, answer in answers.items() if name not in ("r00-000005", "r00-000003")}
    assert unchanged.items() <= as_is().items()


def test_what_spreadsheets_do_to_labels_and_texts_by_themselves_is_no_change(tmp_path: Path) -> None:
    task = msgspec.structs.replace(TASK, labels=tuple(Label(name=name) for name in ("01", "2", "caf\u00e9")))
    rows = [
        ReviewRow(id="r-0", text="a nul\0 and a\u200b caf\u00e9", label="01", keep=True, why="kept"),
        ReviewRow(id="r-1", text="plain", label="caf\u00e9", keep=True, why="kept"),
    ]
    write_review(tmp_path / "review.csv", rows, task=task)
    edit(
        tmp_path / "review.csv",
        (",'01,", ",1,"),
        ("\u200b caf\u00e9", " cafe\u0301"),
        ("plain,caf\u00e9", "plain,\u200bCAFE\u0301"),
    )
    answers = read_review(tmp_path / "review.csv", rows, task)
    assert [answer.label for answer in answers.values()] == ["01", "caf\u00e9"]


def test_numbers_and_truth_in_the_spreadsheet_s_own_language_are_no_change(tmp_path: Path) -> None:
    task = msgspec.structs.replace(TASK, labels=tuple(Label(name=name) for name in ("true", "false", "+1.50", "-1")))
    texts = ("007", "true", "12,5", "plain")
    rows = [
        ReviewRow(id=f"r-{n}", text=text, label=label.name, keep=n != 1, why="kept")
        for n, (text, label) in enumerate(zip(texts, task.labels, strict=True))
    ]
    path = tmp_path / "review.csv"
    write_review(path, rows, task=task)
    edit(path, ("r-0,'007,true,yes", "r-0,7,WAHR,VRAI"), ("r-1,true,false,no", "r-1,VERO,FALSO,FALSCH"))
    edit(path, ("\"'12,5\",'+1.50,yes", '12.5,"1,5",1.0'))
    assert read_review(path, rows, task) == {row.id: ReviewAnswer(label=row.label, keep=row.keep) for row in rows}
    edit(path, ("7,WAHR,VRAI", "8,WAHR,Ja"))
    with pytest.raises(InputError, match=r"(?s)the text of r-0 was changed.*keep is 'Ja'; allowed are yes and no"):
        read_review(path, rows, task)


def test_what_a_spreadsheet_would_take_for_a_date_or_a_number_is_written_as_text(tmp_path: Path) -> None:
    names = ("10-12", "3/4", "1.10", "1.1", "007", "1e5", "Mar 5", "SEPT2", "12345678901234567", "10:30 am", "(5)")
    plain = ("12", "0", "may", "5 stars", "march of 5 men", "5%")
    task = msgspec.structs.replace(TASK, labels=tuple(Label(name=name) for name in (*names, *plain)))
    rows = [
        ReviewRow(id=f"r-{n}", text=name, label=name, keep=True, why="kept", probabilities={"12": 0.9, "0": 0.1})
        for n, name in enumerate(task.label_names)
    ]
    write_review(tmp_path / "review.csv", rows, task=task)
    table = list(csv.reader(io.StringIO((tmp_path / "review.csv").read_text("utf-8-sig"), newline="")))[1:]
    assert [cells[1:3] for cells in table[: len(names)]] == [[f"'{name}"] * 2 for name in names]
    assert [cells[1:3] for cells in table[len(names) :]] == [[name] * 2 for name in plain]
    assert {cells[5] for cells in table} == {"12 0.90, 0 0.10"}
    as_written = {row.id: ReviewAnswer(label=row.label, keep=True) for row in rows}
    assert read_review(tmp_path / "review.csv", rows, task) == as_written
    edit(tmp_path / "review.csv", (",'10-12,yes", ",12. Okt,yes"))
    with pytest.raises(InputError, match=r"unknown label '12\. Okt'.* type an apostrophe before a label"):
        read_review(tmp_path / "review.csv", rows, task)


def test_a_number_that_a_spreadsheet_may_have_made_of_two_labels_is_asked_about(tmp_path: Path) -> None:
    task = msgspec.structs.replace(TASK, labels=tuple(Label(name=name) for name in ("1.1", "1.10", "2")))
    rows = [
        ReviewRow(id=f"r-{n}", text="plain", label=label, keep=True, why="kept")
        for n, label in enumerate(("1.10", "1.1", "2"))
    ]
    path = tmp_path / "review.csv"
    write_review(path, rows, task=task)
    edit(path, ("r-1,plain,'1.1,", "r-1,plain,1.1,"), ("r-2,plain,2,", "r-2,plain,'1.10,"))
    answers = read_review(path, rows, task)
    assert [answer.label for answer in answers.values()] == ["1.10", "1.1", "1.10"]
    edit(path, ("r-0,plain,'1.10,", "r-0,plain,1.1,"))
    with pytest.raises(InputError, match=r"review\.csv:2: '1\.1' may be 1\.1 or 1\.10: .*Put an apostrophe in front"):
        read_review(path, rows, task)


def test_a_table_that_cannot_be_read_names_no_option_that_there_is_not(table: Path) -> None:
    text = table.read_text("utf-8-sig")
    table.write_bytes(text.replace("plain", "caf\u00e9").encode("cp1252", "replace"))
    with pytest.raises(InputError, match="call it CSV UTF-8") as refused:
        read_review(table, ROWS, TASK)
    assert "--" not in str(refused.value)
    table.write_bytes(text.encode("utf-16-le"))
    with pytest.raises(InputError, match=r"UTF-16 without a byte-order mark: save it as UTF-8\."):
        read_review(table, ROWS, TASK)
    table.write_text(f"{text}r00,x\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"2 fields where the header has 6 .*double quotes.*\?$"):
        read_review(table, ROWS, TASK)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("plain,A-", "plain,B", r"review\.csv:8: unknown label 'B'; the task's labels are A, A-, true\."),
        ("plain,A-", "plain,", r"review\.csv:8: the label is missing"),
        ("plain", "plane", r"review\.csv:8: the text of r00-000005 was changed.*\"plain\""),
        ("plain,A-,yes", "plain,A-,perhaps", r"review\.csv:8: keep is 'perhaps'; allowed are yes and no"),
        ("r00-000005", "r00-000007", r"review\.csv:8: the id 'r00-000007' is not in the table that was written"),
        ("r00-000005", "r00-000004", r"review\.csv:8: the id 'r00-000004' occurs twice"),
        ("label,keep", "class,keep", r"no column 'label'; the columns are 'id', 'text', 'class'"),
    ],
)
def test_anything_else_is_refused_with_its_line(table: Path, old: str, new: str, fault: str) -> None:
    edit(table, (old, new))
    with pytest.raises(InputError, match=fault):
        read_review(table, ROWS, TASK)


def test_every_fault_is_named_at_once(table: Path) -> None:
    edit(table, ("plain,A-", "plain,B"), ("yes", "maybe"))
    with pytest.raises(InputError) as refused:
        read_review(table, ROWS, TASK)
    assert len(str(refused.value).splitlines()) == 2


def test_of_many_faults_of_a_kind_the_first_are_told(tmp_path: Path) -> None:
    rows = [ReviewRow(id=f"r-{n}", text=f"text {n}", label="A", keep=True, why="kept") for n in range(30)]
    write_review(tmp_path / "t.csv", rows, task=TASK)
    edited = (tmp_path / "t.csv").read_text("utf-8").replace(",yes,", ",ja,")
    (tmp_path / "t.csv").write_text(edited, encoding="utf-8")
    with pytest.raises(InputError, match=r"t\.csv:2: keep is 'ja'; allowed are yes and no\.") as refused:
        read_review(tmp_path / "t.csv", rows, TASK)
    assert str(refused.value).splitlines()[3:] == ["and 27 more like this."]


def test_a_text_that_no_cell_holds_is_shown_in_part(tmp_path: Path) -> None:
    row = ReviewRow(id="shot-0", text="word " * LONGEST_CELL, label="A", keep=True, why="shot")
    write_review(tmp_path / "t.csv", [row], task=TASK)
    assert read_review(tmp_path / "t.csv", [row], TASK) == {"shot-0": ReviewAnswer(label="A", keep=True)}


def test_answers_are_written_in_place_of_what_was_proposed_and_columns_of_one_s_own_are_known(table: Path) -> None:
    answers = {
        **as_is(),
        "r00-000005": ReviewAnswer(label="A", keep=False),
        "r00-000004": ReviewAnswer(label="A-", keep=False, is_deleted=True),
    }
    write_review(table, ROWS, answers, task=TASK)
    assert read_review(table, ROWS, TASK) == answers
    assert own_columns(table, TASK) == []
    edit(table, ("why", "my notes"))
    assert own_columns(table, TASK) == ["my notes"]


def test_a_table_of_which_every_row_was_deleted_says_so_of_each(table: Path) -> None:
    table.write_text(table.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    answers = read_review(table, ROWS, TASK)
    assert answers.keys() == {row.id for row in ROWS}
    assert all(answer.is_deleted and not answer.keep for answer in answers.values())
    assert own_columns(table, TASK) == []


def test_numbers_in_a_spreadsheet_saved_under_the_table_s_name_are_no_change(tmp_path: Path) -> None:
    row = ReviewRow(id="r00-000001", text="1234.5678", label="A", keep=True, why="kept")
    write_review(tmp_path / "review.csv", [row], task=TASK)
    cells: list[list[object]] = [["id", "text", "label", "keep"], [row.id, 1234.5678, "A-", "yes"]]
    (tmp_path / "review.csv").write_bytes(spreadsheet(cells))
    assert read_review(tmp_path / "review.csv", [row], TASK) == {row.id: ReviewAnswer(label="A-", keep=True)}
