"""Parquet to Parquet: columns keep their types, and no cell is rounded or cut to fit one."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fourshot.pipeline.rows.held_cells import arrow_array, check_cells
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.rows.written_table import write_table

COLUMNS = {
    "text": pyarrow.array(["snow", "fire"]),
    "at": pyarrow.array([1_700_000_000_123_456_789, None], pyarrow.timestamp("ns")),
    "small": pyarrow.array([1, 2], pyarrow.int8()),
    "large": pyarrow.array([2**64 - 1, 0], pyarrow.uint64()),
    "half": pyarrow.array([0.5, None], pyarrow.float32()),
    "kind": pyarrow.array(["a", "b"]).dictionary_encode(),
    "pairs": pyarrow.array([[("a", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    "none": pyarrow.array([None, None], pyarrow.string()),
    "took": pyarrow.array([3, 4], pyarrow.duration("s")),
}


def rewritten(path: Path) -> pyarrow.Table:
    """What `write_table` makes of the rows of ``path``."""
    table, out = open_texts(path), path.with_name("out.parquet")
    check_cells(out, table.columns, (row for row, _ in table.rows()), table.column_types)
    write_table(out, table.columns, (row for row, _ in table.rows()), table)
    return pyarrow.parquet.read_table(out)


def test_columns_keep_their_types(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table(COLUMNS), tmp_path / "notes.parquet")
    assert rewritten(tmp_path / "notes.parquet").equals(pyarrow.parquet.read_table(tmp_path / "notes.parquet"))


def test_files_of_one_table_that_have_other_types_lose_nothing(tmp_path: Path) -> None:
    scores = (pyarrow.array([0.25, 1.75]), pyarrow.array([1, 3], pyarrow.int64()))
    (folder := tmp_path / "notes").mkdir()
    for number, of_file in enumerate(scores):
        table = pyarrow.table({"text": [f"snow {number}", "fire"], "score": of_file})
        pyarrow.parquet.write_table(table, folder / f"train-{number:05d}-of-00002.parquet")
    assert rewritten(folder / "train")["score"].to_pylist() == [0.25, 1.75, 1, 3]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [([0.25, 1.0], pyarrow.int64()), ([1e300], pyarrow.float32()), (["a"], pyarrow.int64())],
    ids=["fraction", "size", "text"],
)
def test_a_type_that_cannot_hold_a_cell_is_not_used(cells: list[object], kind: pyarrow.DataType) -> None:
    assert arrow_array(cells, kind).to_pylist() == cells
