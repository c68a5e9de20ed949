"""Folders as the hub and `datasets` lay them out: the shards of a split are the split."""

import os
from pathlib import Path
from typing import Any

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.tables.files import read_table
from fourshot.pipeline.tables.split_files import find_split_file
from fourshot.pipeline.tasks.task_file import check_task, load_task
from tests.pipeline.tables.test_file_bytes import spreadsheet
from tests.pipeline.task_folders import COLD, TASK, WARM, rows_of, write_task

ROWS = rows_of(WARM, "warm") + rows_of(COLD, "cold")


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"),
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"),
        ("data/train-00000-of-00002-0123456789abcdef.parquet", "data/train-00001-of-00002-fedcba9876543210.parquet"),
        ("train/0000.parquet", "train/0001.parquet"),
        ("train/part-00000.parquet", "train/part-00001.parquet"),
        ("train/part-00000-4d2a-c000.snappy.parquet", "train/part-00001-4d2a-c000.snappy.parquet"),
    ],
)
def test_the_shards_of_a_split_are_one_split(tmp_path: Path, names: tuple[str, str]) -> None:
    task = load_task(write_task(tmp_path))
    (tmp_path / "train.jsonl").unlink()
    for name, rows in zip(names, (ROWS[:5], ROWS[5:]), strict=True):
        write_parquet(tmp_path / name, rows)
    assert [example.text for example in load_split(task, "train").examples] == [*WARM, *COLD]
    split = find_split_file(tmp_path, "train")
    assert split is not None
    table = read_table(split)
    assert (list(table.rows), table.unit) == (list(range(1, 9)), "row")


def test_a_data_set_saved_to_disk_is_a_folder_of_splits(tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["cold", "warm"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    rows = {"text": [*WARM, *COLD], "label": [1] * 4 + [0] * 4}
    saved = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(
        tmp_path / "saved", num_shards={"train": 2, "test": 1}
    )
    task = load_task(write_task(tmp_path), tmp_path / "saved")
    assert [example.label for example in load_split(task, "train").examples] == ["warm"] * 4 + ["cold"] * 4


@pytest.mark.parametrize("as_list", [False, True])
def test_shards_that_number_the_classes_otherwise_are_read_by_their_own_names(tmp_path: Path, as_list: bool) -> None:
    import datasets

    task = load_task(write_task(tmp_path))
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train").mkdir()
    texts, labels = [*WARM, *COLD], ["warm"] * 4 + ["cold"] * 4
    for number, names, rows in ((0, ["warm"], range(4)), (1, ["cold", "warm"], (0, 4, 5)), (2, ["cold"], (6, 7))):
        feature: Any = datasets.ClassLabel(names=names)
        cells: list[Any] = [names.index(labels[row]) for row in rows]
        if as_list:
            feature, cells = datasets.Sequence(feature), [[cell] for cell in cells]
        features = datasets.Features({"text": datasets.Value("string"), "label": feature})
        shard = datasets.Dataset.from_dict({"text": [texts[row] for row in rows], "label": cells}, features=features)
        shard.to_parquet(tmp_path / "train" / f"part-0000{number}.parquet")
    examples = load_split(task, "train").examples
    assert [(example.text, example.label) for example in examples] == [*zip(texts, labels, strict=True)]
    split = find_split_file(tmp_path, "train")
    assert split is not None
    assert [fault.what for fault in read_table(split).notices if "numbers the classes" in fault.what]


def test_an_error_in_a_shard_has_its_file_and_its_line(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "part-00000.csv").write_text("text,label\nIt is hot.,warm\nIt is icy.,cold\n")
    (folder / "part-00001.csv").write_text("text,label\nIt burns.,warm\nIt is icy, too,cold\n")
    with pytest.raises(InputError, match=r"part-00001\.csv:3: 3 fields where the header has 2"):
        read_table(folder)
    (folder / "part-00001.csv").write_text("text,label\nIt burns.,warm\nIt is icy.\0,cold\n")
    with pytest.raises(InputError, match=r"part-00001\.csv:3: .*NUL"):
        read_table(folder)
    (folder / "part-00001.csv").write_text("text,label\nIt burns.,warm\n")
    (folder / "part-00000.csv").write_text("It is hot.,warm\nIt is icy.,warm\nIt is cold.,cold\nIt burns.,warm\n")
    with pytest.raises(InputError, match=r"part-00000\.csv:1: the first line looks like an example"):
        read_table(folder)


def test_a_missing_shard_is_named_and_a_lone_one_is_warned_about(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    for number in (0, 2):
        write_parquet(tmp_path / f"train-0000{number}-of-00003.parquet", ROWS)
    with pytest.raises(InputError, match=r"of 3 shards, only train-00000-of.*train-00002-of.*Fetch the missing ones"):
        load_split(load_task(task), "train")
    assert "Fetch the missing ones" in str(check_task(task)[0])
    [notice] = read_table(tmp_path / "train-00000-of-00003.parquet").notices
    assert "one of 3 shards; the others are not read. To read all, name 'train'" in str(notice)


def test_what_else_may_hold_a_split_is_named_or_an_error(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    write_parquet(tmp_path / "train-00000-of-00001.parquet", ROWS)
    (tmp_path / "TRAIN.xlsx").write_bytes(b"never read")
    [notice] = check_task(path)
    assert (notice.severity, notice.what) == ("note", "beside it, train, TRAIN.xlsx is not read.")
    assert len(load_split(load_task(path), "train").examples) == 8
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(InputError, match=r"has train and TRAIN\.xlsx for the same split"):
        load_split(load_task(path), "train")


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "shots.csv", "Shots.CSV.gz"])
def test_what_has_the_name_of_a_split_and_is_no_file_is_an_error(tmp_path: Path, name: str) -> None:
    path = write_task(tmp_path)
    for split in ("train", "test"):
        if name.startswith(split):
            (tmp_path / f"{split}.jsonl").unlink(missing_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "nowhere" / name)
    faults = [fault for fault in check_task(path) if fault.severity == "error"]
    assert [f"{name} is a broken link, not a file" in fault.what for fault in faults] == [True]
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    [fault] = [fault for fault in check_task(path) if fault.severity == "error"]
    assert f"{name} is a folder without the parts of a table" in fault.what
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)
    [fault] = [fault for fault in check_task(path) if fault.severity == "error"]
    assert f"{name} is a pipe or a device" in fault.what


def test_a_folder_of_spark_may_be_called_as_a_file_is(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    (tmp_path / "train.jsonl").unlink()
    for number, rows in enumerate((ROWS[:5], ROWS[5:])):
        write_parquet(tmp_path / f"train.parquet/part-0000{number}-4d2a-c000.snappy.parquet", rows)
    (tmp_path / "train.parquet" / "_SUCCESS").touch()
    assert [example.text for example in load_split(task, "train").examples] == [*WARM, *COLD]


def test_the_folder_of_a_task_made_of_the_file_beside_it_is_no_split(tmp_path: Path) -> None:
    write_task(tmp_path)
    inside = tmp_path / "test"
    inside.mkdir()
    write_task(inside)
    (tmp_path / "test.jsonl").unlink()
    assert find_split_file(tmp_path, "test") is None
    assert find_split_file(tmp_path, "train") == tmp_path / "train.jsonl"


def test_validation_in_the_place_of_test_is_pointed_to(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", ROWS[:2])
    [fault] = check_task(task)
    assert "To test on 'validation': test_split = \"validation\" under [data]" in str(fault)
    task.write_text(TASK.replace('folder = "."', 'folder = "."\ntest_split = "validation"'))
    assert len(load_split(load_task(task), "test").examples) == 2


def test_the_data_of_a_task_may_have_another_encoding_and_no_header(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    (tmp_path / "test.csv").write_bytes("Un café brûlant.,warm\nGelée.,cold\n".encode("cp1252"))
    assert any("byte 0xe9" in str(fault) and "$.data.encoding" in str(fault) for fault in check_task(task))
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.csv").write_text("".join(f"{row['text']},{row['label']}\n" for row in ROWS))
    more = 'folder = "."\nencoding = "cp1252"\nheader = false\ntext_column = "1"\nlabel_column = "2"'
    task.write_text(TASK.replace('folder = "."', more))
    assert [example.text for example in load_split(load_task(task), "test").examples] == ["Un café brûlant.", "Gelée."]
    assert len(load_split(load_task(task), "train").examples) == 8


def test_errors_in_the_data_of_a_task_name_only_what_can_be_said_of_it(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    sheet: list[list[object]] = [["text", "label"], *([row["text"], row["label"]] for row in ROWS)]
    (tmp_path / "train.xlsx").write_bytes(spreadsheet(sheet, sheet))
    [fault] = [fault for fault in check_task(task) if fault.severity == "error"]
    assert "are not empty" in fault.what and fault.remedy == "Save the right sheet as CSV."
    (tmp_path / "train.xlsx").write_bytes(spreadsheet(sheet))
    task.write_text(TASK.replace('folder = "."', 'folder = "."\nheader = false'))
    faults = [fault for fault in check_task(task) if fault.where.endswith("train.xlsx")]
    assert "If a line names the columns, remove $.data.header = false." in faults[0].remedy
