"""Parquet files: what pyarrow holds and Python does not."""

from pathlib import Path

from fourshot.pipeline.tables.files import read_table


def test_times_that_python_cannot_hold_are_text_and_cost_no_other_column(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    never = pyarrow.array([2**62, 0], pyarrow.int64()).cast(pyarrow.timestamp("us"))
    table = pyarrow.table({"text": ["a cat", "a dog"], "valid_to": never})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    rows = list(read_table(tmp_path / "t.parquet").rows.values())
    assert [row["text"] for row in rows] == ["a cat", "a dog"] and rows[1]["valid_to"].startswith("1970-01-01")
