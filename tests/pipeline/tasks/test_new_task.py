"""A table with texts and labels becomes a task folder that can be used at once."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.rows.text_table import MADE_FROM
from fourshot.pipeline.rows.usable_rows import TableChoices
from fourshot.pipeline.tasks.new_task import UNDECIDED, NewTask, new_task
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import check_task, load_task
from tests.pipeline.task_folders import PAIRS

NAMES = ("billing_issue", "bugReport", "Sci/Tech")


def write_csv(path: Path, header: tuple[str, ...], rows: Sequence[tuple[object, ...]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def rows(per_class: int = 20, names: tuple[object, ...] = NAMES) -> list[tuple[object, ...]]:
    return [(f"the {i}th note about {name}", name) for i in range(per_class) for name in names]


def task_of(table: Path, out: Path, choices: TableChoices = UNDECIDED, **more: Any) -> Path:
    """The task file of a new task."""
    return Path(new_task(table, out, choices, **more).task_file)


def test_a_table_becomes_a_task_without_faults(tmp_path: Path) -> None:
    path = task_of(write_csv(tmp_path / "My data.csv", ("text", "label"), rows()), tmp_path / "out")
    assert path == tmp_path / "out" / "my_data.toml"
    assert check_task(path) == []
    task = load_task(path)
    assert dict(zip(task.label_names, task.label_words, strict=True)) == {
        "Sci/Tech": "sci tech",
        "billing_issue": "billing issue",
        "bugReport": "bug report",
    }
    assert task.instruction == "Classify the text as sci tech, billing issue or bug report."
    assert len(take_shots(task, 4, seed=0)) == 12


def test_the_split_is_by_class_whole_and_decided_by_the_seed(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "data.csv", ("text", "label"), rows(20) + rows(5, ("rare",)) + rows(3, ("scarce",)))
    task = load_task(task_of(table, tmp_path / "a", seed=1))
    train, test = load_split(task, "train").examples, load_split(task, "test").examples
    counts = Counter(example.label for example in test)
    assert counts == {"billing_issue": 4, "bugReport": 4, "Sci/Tech": 4, "rare": 1}
    assert len(train) + len(test) == 68
    assert not set(train) & set(test)
    same = load_task(task_of(table, tmp_path / "b", seed=1))
    other = load_task(task_of(table, tmp_path / "c", seed=2))
    assert load_split(same, "test").examples == test
    assert load_split(other, "test").examples != test


def test_repeated_contradicting_and_empty_rows_do_not_reach_the_splits(tmp_path: Path) -> None:
    bad: list[tuple[object, ...]] = [("", "bugReport"), ("both", "bugReport"), ("both", "Sci/Tech"), rows()[0]]
    report = new_task(write_csv(tmp_path / "d.csv", ("text", "label"), rows() + bad), tmp_path / "out")
    gone = [("empty_text", 1, (62,)), ("duplicate", 1, (65,)), ("contradiction", 2, (63, 64))]
    assert [(some.reason, some.count, some.lines) for some in report.left_out] == gone
    assert (report.rows, report.train + report.test) == (64, 60)
    kept = msgspec.json.decode((tmp_path / "out" / MADE_FROM).read_bytes(), type=NewTask)
    assert msgspec.structs.replace(kept, task_file=report.task_file) == report
    task = load_task(report.task_file)
    both = load_split(task, "train").examples + load_split(task, "test").examples
    assert Counter(example.label for example in both) == dict.fromkeys(NAMES, 20)


@pytest.mark.parametrize(
    "header", [("Sentence", "Intent"), ("what they wrote", "team"), ("message", "team"), ("what they wrote", "label")]
)
def test_columns_are_guessed_by_name_or_by_what_is_in_them(tmp_path: Path, header: tuple[str, str]) -> None:
    table = write_csv(tmp_path / "d.csv", ("id", *header), [(i, *row) for i, row in enumerate(rows())])
    assert load_task(task_of(table, tmp_path / "out")).label_names == ("Sci/Tech", "billing_issue", "bugReport")


def test_texts_that_are_their_labels_are_warned_of_and_labels_with_commas_stand_in_quotes(tmp_path: Path) -> None:
    cells = [*rows(8, ("bills, refunds", "login")), ("Login", "login"), ("bills,refunds", "login")]
    report = new_task(write_csv(tmp_path / "d.csv", ("text", "label"), cells), tmp_path / "out")
    assert [notice.what for notice in report.notices] == ["1 text is only the label, such as 'Login'."]
    assert load_task(report.task_file).instruction == 'Classify the text as "bills, refunds" or "login".'


def test_columns_in_doubt_are_listed_and_can_be_named(tmp_path: Path) -> None:
    doubled = [(text, f"{text} again", label, "yes" if i % 2 else "no") for i, (text, label) in enumerate(rows())]
    table = write_csv(tmp_path / "d.csv", ("first", "second", "team", "open"), doubled)
    with pytest.raises(InputError, match=r"is the text and label; the columns are 'first', 'second', 'team', 'open'"):
        task_of(table, tmp_path / "out")
    with pytest.raises(InputError, match="no column 'third'; the columns are 'first'"):
        task_of(table, tmp_path / "out", TableChoices(text_columns=("third",), label_columns=("team",)))
    task = load_task(task_of(table, tmp_path / "out", TableChoices(text_columns=("second",), label_columns=("open",))))
    assert task.label_names == ("no", "yes")


def test_spreadsheet_files_with_semicolons_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "d.csv", ("text", "label"), rows(), delimiter=";")
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert check_task(task_of(table, tmp_path / "out")) == []


def test_columns_of_a_text_can_be_joined_and_the_task_file_says_so(tmp_path: Path) -> None:
    parts = [
        (f"{label} {i}", "" if i == 3 else f"what I wrote about it, {i}", label) for i in range(8) for label in "ab"
    ]
    table = write_csv(tmp_path / "d.csv", ("subject", "body", "label"), parts)
    report = new_task(table, tmp_path / "out", TableChoices(text_columns=("subject", "body")))
    blank = [fault for fault in report.notices if "blank part" in fault.what]
    assert [(fault.severity, fault.what) for fault in blank] == [
        ("note", "2 texts with a blank part (line 8, 9): only the other parts are used.")
    ]
    path = Path(report.task_file)
    texts = {example.text for split in ("train", "test") for example in load_split(load_task(path), split).examples}
    assert {"a 0\nwhat I wrote about it, 0", "b 3"} <= texts
    assert "# Each text is the columns 'subject' and 'body', one after the other." in path.read_text()


def test_columns_can_be_the_fields_of_an_input(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    write_csv(table, tuple(PAIRS[0]), [*(tuple(row.values()) for row in PAIRS), ("Only a premise.", "", "yes")])
    with pytest.raises(InputError, match=r"keep them separate, .*: --field premise --field hypothesis"):
        new_task(table, tmp_path / "out")
    with pytest.raises(InputError, match="an input has two or more"):
        new_task(table, tmp_path / "out", TableChoices(fields=("premise",)))
    with pytest.raises(InputError, match="Leave one out"):
        new_task(table, tmp_path / "out", TableChoices(fields=("premise", "hypothesis"), text_columns=("premise",)))
    path = task_of(table, tmp_path / "out", TableChoices(fields=("premise", "hypothesis")))
    task = load_task(path)
    assert task.input_fields == ("premise", "hypothesis")
    assert {example.text for example in load_split(task, "train").examples} == {
        f"Premise: {row['premise']}\nHypothesis: {row['hypothesis']}" for row in PAIRS
    }
    report = json.loads((path.parent / "made_from.json").read_text())
    assert report["left_out"][0]["what"] == "without a text in one of premise, hypothesis"


@pytest.mark.parametrize("label", [b"lock", "caf\u00e9"])
def test_labels_of_data_frames_are_read(tmp_path: Path, label: object) -> None:
    import pyarrow
    import pyarrow.parquet

    texts = [text for text, _ in rows(8)]
    labels = pyarrow.array([label, label[:2]] * 12).dictionary_encode()  # type: ignore[index]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": labels}), tmp_path / "d.parquet")
    report = new_task(tmp_path / "d.parquet", tmp_path / "out")
    name = label.decode() if isinstance(label, bytes) else label
    assert report.labels == {name[:2]: 12, name: 12}  # type: ignore[index]


def test_words_are_proposed_in_the_task_file_and_never_used_unasked(tmp_path: Path) -> None:
    report = new_task(write_csv(tmp_path / "d.csv", ("text", "label"), rows(8, (-1, 0, 1))), tmp_path / "out")
    assert report.asked_words == {"-1": "negative", "0": "neutral", "1": "positive"}
    toml = Path(report.task_file).read_text()
    assert 'Write what the class means. Proposed: word = "negative"\n# the 0th note about -1\n' in toml
    assert load_task(report.task_file).label_words == ("-1", "0", "1")
    assert ["refund" in fault.remedy for fault in check_task(report.task_file)] == [False] * 3


def test_true_and_false_ask_for_a_question(tmp_path: Path) -> None:
    report = new_task(write_csv(tmp_path / "d.csv", ("text", "label"), rows(8, (True, False))), tmp_path / "out")
    assert ["False and True in the column 'label' answer a question" in str(fault) for fault in report.notices] == [
        True
    ]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("part", ["train", "test", "unlabeled"]),
        ("part", ["train", "train", "holdout"]),
        ("ml_use", ["", "training", "test"]),
        ("is_test", ["FALSE", "FALSE", "TRUE"]),
    ],
)
def test_a_column_of_splits_may_have_other_values_too(tmp_path: Path, column: str, values: list[str]) -> None:
    split = [(*row, values[(i + i // 3) % 3]) for i, row in enumerate(rows(8))]
    table = write_csv(tmp_path / "d.csv", ("text", "label", column), split)
    assert any(f"the column '{column}' (" in fault.what for fault in new_task(table, tmp_path / "out").notices)


def test_the_test_file_beside_a_training_file_is_pointed_out(tmp_path: Path) -> None:
    for name in ("reviews_train.csv", "reviews_test.csv", "other_test.csv", "reviews_test.md"):
        write_csv(tmp_path / name, ("text", "label"), rows(8))
    [notice] = new_task(tmp_path / "reviews_train.csv", tmp_path / "out").notices
    assert notice.what == "beside it, reviews_test.csv is not read: the test rows are drawn from reviews_train.csv."
    assert new_task(tmp_path / "other_test.csv", tmp_path / "other").notices == ()


def test_a_column_of_splits_is_pointed_out(tmp_path: Path) -> None:
    split = [(*row, "Test" if i % 5 == 0 else "train") for i, row in enumerate(rows(8))]
    report = new_task(write_csv(tmp_path / "d.csv", ("text", "label", "part"), split), tmp_path / "out")
    assert ["the column 'part' (test, train) is not used" in str(fault) for fault in report.notices] == [True]


@pytest.mark.parametrize("column", ["label_text", "label_name", "className"])
def test_a_column_with_a_word_for_each_number_is_pointed_out(tmp_path: Path, column: str) -> None:
    named = [(text, number, "bad" if number == 0 else "good") for text, number in rows(8, (0, 1))]
    report = new_task(write_csv(tmp_path / "d.csv", ("text", "label", column), named), tmp_path / "out")
    assert [f"--label-column {column}" in str(fault) for fault in report.notices] == [True]


def test_a_table_of_one_row_for_each_of_a_few_classes_is_a_task(tmp_path: Path) -> None:
    report = new_task(write_csv(tmp_path / "d.csv", ("text", "label"), rows(1)), tmp_path / "out")
    assert (report.train, report.test) == (3, 0)
    assert ["no row is left for testing" in str(fault) for fault in report.notices] == [True]


def test_a_table_may_have_hundreds_of_classes(tmp_path: Path) -> None:
    names = tuple(f"intent_{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(150))
    report = new_task(write_csv(tmp_path / "d.csv", ("text", "label"), rows(5, names)), tmp_path / "out")
    assert (len(report.labels), report.train, report.test) == (150, 600, 150)


def test_numeric_labels_make_a_task_whose_check_asks_for_words(tmp_path: Path) -> None:
    path = task_of(write_csv(tmp_path / "d.csv", ("text", "label"), rows(20, (0, 1))), tmp_path / "out")
    assert [(f.severity, f.where) for f in check_task(path)] == [
        ("warning", "$.labels[0].word"),
        ("warning", "$.labels[1].word"),
    ]


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        (("text", "text", "label"), [("a", "b", "c")], "column 'text' occurs 2 times"),
        (("text", "label"), [], "has no rows"),
        (("text", "label"), rows(20, ("only",)), "at least 2 classes; the column 'label' has only 'only'"),
        (("text", "label"), [(f"text {i}", i) for i in range(300)], "300 different values in 300 rows"),
        (
            ("text", "label"),
            [(f"{name} in note {i}", label) for i in range(9) for name, label in [("a", "Bug"), ("b", "bug")]],
            "labels that read the same: 'Bug' and 'bug'",
        ),
        (("text", "label"), [*rows(), ("no label here", "")], "no label in line 62"),
    ],
)
def test_tables_that_make_no_task_are_refused_and_nothing_is_written(
    tmp_path: Path, header: tuple[str, ...], lines: list[tuple[object, ...]], message: str
) -> None:
    table = write_csv(tmp_path / "d.csv", header, lines)
    with pytest.raises(InputError, match=message):
        task_of(table, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["d.csv"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "d.csv", ("text", "label"), rows())
    task_of(table, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match="exists and is not empty; nothing was written"):
        task_of(table, tmp_path / "out", seed=9)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_awkward_names_survive_the_way_through_toml(tmp_path: Path) -> None:
    awkward = ('say "yes"', "back\\slash", "línea ñ", "50 %s")
    path = task_of(write_csv(tmp_path / "d.csv", ("text", "label"), rows(20, awkward)), tmp_path / "out", name="t")
    assert set(load_task(path).label_names) == set(awkward)
    with pytest.raises(InputError, match=r"'\.\./x' cannot be a task's name"):
        task_of(tmp_path / "d.csv", tmp_path / "other", name="../x")


def test_more_than_1000_classes_are_taken_from_a_column_that_is_named(tmp_path: Path) -> None:
    names = tuple(f"case {number}" for number in range(1001))
    table = write_csv(tmp_path / "cases.csv", ("text", "label"), rows(2, names))
    with pytest.raises(InputError, match=r"1,001 different values.*--label-column label"):
        new_task(table, tmp_path / "out")
    task = load_task(task_of(table, tmp_path / "out", TableChoices(label_columns=("label",))))
    assert len(task.labels) == 1001
    assert task.instruction == "Classify the text. There are 1001 labels, such as case 0, case 1, case 10."


@pytest.mark.parametrize("into", ["here", "link"])
def test_an_empty_folder_that_one_is_in_or_that_a_link_leads_to_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into: str
) -> None:
    table, empty = write_csv(tmp_path / "notes.csv", ("text", "label"), rows()), tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "link").symlink_to(empty)
    monkeypatch.chdir(empty)
    file = task_of(table, Path("." if into == "here" else tmp_path / "link"))
    assert load_task(file).name == "notes" and not check_task(file)
    assert sorted(file.name for file in empty.iterdir()) == [MADE_FROM, "notes.toml", "test.jsonl", "train.jsonl"]
    assert (tmp_path / "link").is_symlink() and empty.samefile(".")
