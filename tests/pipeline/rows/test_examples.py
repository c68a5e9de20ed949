"""Tables are read as they are, in every format, and what is left out is counted and said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.examples import drop_overlap, find_labels, load_split
from fourshot.pipeline.tables.files import read_table
from fourshot.pipeline.task import DataSource
from fourshot.pipeline.tasks.task_file import check_task, load_task
from tests.pipeline.task_folders import COLD, TASK, WARM, rows_of, write_jsonl, write_task

ROWS = rows_of(WARM, "warm") + rows_of(COLD, "cold")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_examples(tmp_path: Path, suffix: str) -> None:
    import pyarrow
    import pyarrow.parquet

    task = load_task(write_task(tmp_path))
    expected = load_split(task, "train").examples
    (tmp_path / "train.jsonl").unlink()
    path = tmp_path / f"train.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, ROWS)
    elif suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        mark = "," if suffix == "csv" else "\t"
        path.write_text(
            "".join(mark.join(line) + "\n" for line in [("text", "label"), *(map(str, r.values()) for r in ROWS)])
        )
    assert load_split(task, "train").examples == expected


def test_csv_with_semicolons_a_byte_order_mark_and_a_text_of_two_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbftext;label\r\n"one; two\r\nthree";warm\r\n\r\nfour, five;cold\r\n')
    table = read_table(path)
    assert table.rows == {
        2: {"text": "one; two\r\nthree", "label": "warm"},
        5: {"text": "four, five", "label": "cold"},
    }


def test_csv_with_a_column_twice_or_fields_too_many_says_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label,text\na,warm,b\nwell, then,cold,c\nd,warm\n")
    with pytest.raises(InputError) as caught:
        read_table(path)
    assert [line.removeprefix(str(path)).split(".")[0] for line in str(caught.value).splitlines()] == [
        ":1: the column 'text' occurs 2 times",
        ":3: 4 fields where the header has 3 (separator ',')",
        ":4: 2 fields where the header has 3 (separator ',')",
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    path.write_bytes(b"text,label\nfine,warm\ncaf\xe9,warm\n")
    with pytest.raises(InputError, match=r":3: byte 0xe9 is not valid UTF-8"):
        read_table(path)


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "header.csv"])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text,label\n" if name == "header.csv" else "")
    with pytest.raises(InputError, match="no rows"):
        read_table(tmp_path / name)


def test_an_unknown_kind_of_file_names_those_allowed(tmp_path: Path) -> None:
    (tmp_path / "t.docx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"cannot read a \.docx file; allowed are \.jsonl, .*\.csv, .*\.parquet"):
        read_table(tmp_path / "t.docx")


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_table(tmp_path / "t.parquet")


def test_line_separators_inside_a_json_string_do_not_split_it(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "one\u2028two\u0085three", "label": "warm"}\n', encoding="utf-8")
    assert read_table(path).rows[1]["text"] == "one\u2028two\u0085three"


def test_half_of_a_surrogate_pair_is_refused_before_it_reaches_a_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "fine \\ud83d\\ude00", "label": "a"}\n{"text": "broken \\ud83d", "label": "a"}\n')
    with pytest.raises(InputError, match=r"t\.jsonl:2: half of a surrogate pair"):
        read_table(path)


def test_integers_stand_for_labels_through_label_values(tmp_path: Path) -> None:
    path = write_task(tmp_path, TASK.replace('folder = "."', 'folder = "."\nlabel_values = {0 = "warm", 1 = "cold"}'))
    write_jsonl(tmp_path / "train.jsonl", rows_of(WARM, 0) + rows_of(COLD[:2], 1) + rows_of(COLD[2:], 1.0))
    examples = load_split(load_task(path), "train").examples
    assert [example.label for example in examples] == ["warm"] * 4 + ["cold"] * 4
    (tmp_path / "train.jsonl").unlink()  # a column with gaps, as tables libraries write it
    lines = [f"{text},{number}.0" for number, group in enumerate((WARM, COLD)) for text in group]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines]))
    assert load_split(load_task(path), "train").examples == examples


def test_true_and_false_stand_for_labels_however_they_are_written(tmp_path: Path) -> None:
    values = 'folder = "."\nlabel_values = {true = "warm", FALSE = "cold"}'
    task = load_task(write_task(tmp_path, TASK.replace('folder = "."', values)))
    labels = (True, "TRUE", "true", False, "False")
    write_jsonl(tmp_path / "train.jsonl", [{"text": f"n{i}", "label": label} for i, label in enumerate(labels)])
    names = [example.label for example in load_split(task, "train").examples]
    assert names == ["warm", "warm", "warm", "cold", "cold"]


def test_class_names_that_a_hub_parquet_file_carries_are_used(tmp_path: Path) -> None:
    import datasets

    path = write_task(tmp_path, TASK.replace('folder = "."', 'folder = "."\nlabel_values = {HOT = "warm"}'))
    (tmp_path / "train.jsonl").unlink()
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["cold", "HOT"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["Snow.", "Lava."], "label": [0, 1]}, features=features)
    rows.to_parquet(tmp_path / "train.parquet")
    assert [example.label for example in load_split(load_task(path), "train").examples] == ["cold", "warm"]
    table = read_table(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="the class number 2, but the file has names for 0 to 1"):
        find_labels(DataSource(), table, 2, {})


def test_empty_repeated_and_contradicting_rows_are_left_out_of_train_and_counted(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    rows: list[dict[str, object]] = [
        *ROWS,
        {"text": None, "label": "warm"},
        {"label": "cold"},
        *rows_of([f" {WARM[0].upper()} "], "warm"),
    ]
    write_jsonl(tmp_path / "train.jsonl", [*rows, *rows_of([COLD[0]], "warm")])
    split = load_split(task, "train")
    assert split.dropped == {"empty_text": 2, "duplicate": 1, "contradiction": 2}
    assert [example.text for example in split.examples] == [*WARM, *COLD[1:]]
    assert len(split.warnings) == 3
    assert "(line 5, 12)" in split.warnings[2]


def test_a_test_split_keeps_its_repeats_and_says_so(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    write_jsonl(tmp_path / "test.jsonl", [*ROWS, ROWS[0], *rows_of([""], "cold")])
    split = load_split(task, "test")
    assert len(split.examples) == 9
    assert split.dropped == {"empty_text": 1}
    assert "kept, as in every test split" in split.warnings[1]


def test_a_limit_draws_the_same_examples_every_time_in_file_order(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    everything = load_split(task, "train").examples
    drawn = load_split(task, "train", limit=5).examples
    assert drawn == load_split(task, "train", limit=5).examples
    assert len(drawn) == 5
    assert drawn == [example for example in everything if example in drawn]
    assert len({example.label for example in drawn}) == 2
    with pytest.raises(InputError, match="at least 1, got 0"):
        load_split(task, "train", limit=0)


def test_training_texts_that_are_test_texts_can_be_left_out(tmp_path: Path) -> None:
    train = load_split(load_task(write_task(tmp_path)), "train")
    split = drop_overlap(train, [f"  {COLD[0].upper()}"])
    assert split.dropped == {"in_test_set": 1}
    assert len(split.examples) == 7
    assert drop_overlap(train, ["nothing like it"]) is train


def test_dev_is_found_under_its_usual_names(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    write_jsonl(tmp_path / "validation.jsonl", ROWS[:3])
    assert len(load_split(task, "dev").examples) == 3
    with pytest.raises(InputError, match=r"no file for the split 'extra'.*there is task\.toml, test\.jsonl"):
        load_split(task, "extra")


def test_a_text_that_is_no_string_and_a_label_the_task_does_not_know_are_refused(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    write_jsonl(
        tmp_path / "train.jsonl", [{"text": 5, "label": "warm"}, *rows_of(["Hm."], "wram"), {"text": "No label."}]
    )
    with pytest.raises(InputError) as caught:
        load_split(task, "train")
    message = str(caught.value)
    assert ":1: the text is a int" in message
    assert ":2: label 'wram'" in message
    assert "Did you mean 'warm'?" in message
    assert ":3: a row without a label" in message


@pytest.mark.parametrize("value", ["caf\u00e9", "cafe\u0301", ["caf\u00e9"], "['caf\u00e9']", "\u200bcaf\u00e9"])
def test_a_label_is_known_in_every_way_to_write_it(tmp_path: Path, value: object) -> None:
    path = write_task(tmp_path, TASK.replace('name = "warm"', 'name = "cafe\u0301"'))
    write_jsonl(tmp_path / "train.jsonl", rows_of(WARM, value))
    assert {example.label for example in load_split(load_task(path), "train").examples} == {"cafe\u0301"}


def test_names_that_earlier_builds_gave_are_still_known(tmp_path: Path) -> None:
    path = write_task(tmp_path, TASK.replace('"warm"', "\"['warm']\"").replace('"cold"', '"1.0"'))
    write_jsonl(tmp_path / "train.jsonl", rows_of(WARM, "['warm']") + rows_of(COLD, "1.0"))
    assert {example.label for example in load_split(load_task(path), "train").examples} == {"['warm']", "1.0"}


def test_a_label_that_the_task_lacks_may_be_left_out_and_that_is_said(tmp_path: Path) -> None:
    task_file = write_task(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", [*ROWS, {"text": "Buy now.", "label": "spam"}])
    with pytest.raises(InputError, match=r"label 'spam' .*leave_out = \['spam'\] under \[data\]"):
        load_split(load_task(task_file), "train")
    write_task(tmp_path, TASK.replace('folder = "."', "folder = \".\"\nleave_out = ['spam']"))
    assert len(load_split(load_task(task_file), "train").examples) == len(ROWS)


def test_a_label_that_is_to_be_left_out_is_known_in_another_spelling(tmp_path: Path) -> None:
    toml = TASK.replace('folder = "."', 'folder = "."\nleave_out = ["Spam"]')
    task = load_task(write_task(tmp_path, toml))
    write_jsonl(tmp_path / "train.jsonl", [*ROWS, {"text": "Buy now.", "label": "spam"}])
    with pytest.raises(InputError, match=r"label 'spam' .*\$\.data\.leave_out has 'Spam', in another spelling"):
        load_split(task, "train")


def test_a_split_without_labels_is_called_that(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    for value in (-1, None):
        write_jsonl(tmp_path / "test.jsonl", rows_of(COLD, value))
        with pytest.raises(InputError, match=r"4 rows\) and no other: the split has no labels.*test_split = "):
            load_split(task, "test")


def test_a_label_in_capitals_names_the_one_that_may_be_meant_and_nothing_follows_from_it(tmp_path: Path) -> None:
    path = write_task(tmp_path, TASK.replace('"warm"', '"True"').replace('"cold"', '"False"'))
    write_jsonl(tmp_path / "train.jsonl", rows_of(WARM, True) + rows_of(COLD, False))
    write_jsonl(tmp_path / "test.jsonl", rows_of(["Ice cubes."], "FALSE"))
    assert [(fault.severity, "Did you mean 'False'? Add it" in str(fault)) for fault in check_task(path)] == [
        ("error", True)
    ]


def test_rows_that_a_person_rejected_are_pointed_out_in_data_that_is_used_as_it_is(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    verdicts = ["accept"] * 7 + ["reject"]
    write_jsonl(
        tmp_path / "train.jsonl", [{**row, "answer": answer} for row, answer in zip(ROWS, verdicts, strict=True)]
    )
    assert ["the column 'answer' says which rows" in str(fault) for fault in check_task(path)] == [True]
    assert [
        "the column 'answer' says which rows" in text for text in load_split(load_task(path), "train").warnings
    ] == [True]


def test_several_labels_in_a_cell_and_objects_are_refused_with_their_lines(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    write_jsonl(tmp_path / "train.jsonl", [*rows_of(WARM[:1], ["warm", "cold"]), *rows_of(COLD[:1], {"a": "b"})])
    with pytest.raises(InputError, match=r":1: the labels 'warm', 'cold' in one cell.*\n.*:2: the label is an object"):
        load_split(task, "train")


def test_a_hub_data_set_without_a_network_names_the_way_round_it(tmp_path: Path) -> None:
    code = (
        "from fourshot.pipeline.tasks.task_file import check_task, load_task\n"
        "from fourshot.pipeline.rows.examples import load_split\n"
        "from fourshot.engine.errors import InputError\n"
        "try:\n    load_split(load_task('trec'), 'train')\nexcept InputError as error:\n    print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "CogComp/trec" in done.stdout
    assert "--data FOLDER" in done.stdout


def test_rows_are_read_as_unicode_whatever_they_hold(tmp_path: Path) -> None:
    text = "Größe? 价格是多少 😀 " + json.dumps("quoted")
    task = load_task(write_task(tmp_path))
    (tmp_path / "train.jsonl").write_text(
        json.dumps({"text": text, "label": "warm"}, ensure_ascii=False) + "\n", "utf-8"
    )
    assert load_split(task, "train").examples[0].text == text
