"""The classes of a new task: where its column of labels has none, the others are named that may have them."""

import json
from pathlib import Path

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.tasks.new_task import new_task
from tests.pipeline.tasks.test_new_task import rows, write_csv


def test_a_column_of_one_value_is_refused_with_the_other_that_may_be_meant(tmp_path: Path) -> None:
    table = [(text, "project1", name) for text, name in rows(4)]
    path = write_csv(tmp_path / "t.csv", ("text", "label", "choice"), table)
    with pytest.raises(InputError, match=r"has only 'project1'.*may also be in 'choice': --label-column choice"):
        new_task(path, tmp_path / "out")


def test_where_no_row_is_left_it_is_told_how_the_table_was_read(tmp_path: Path) -> None:
    lines = [f"{1 - place % 2},I was charged twice {place}, and so on" for place in range(9)]
    (tmp_path / "t.csv").write_text("\n".join(["label,text", *lines]), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"(?s)at least 2 classes.*the first was read as the row number, as R writes it"
    ):
        new_task(tmp_path / "t.csv", tmp_path / "out")


def test_words_within_an_object_beside_the_labels_are_pointed_out(tmp_path: Path) -> None:
    names = {"billing": 0, "login": 1}
    table = [
        {"source": text, "job": names[str(name)], "job-metadata": {"class-name": name, "type": "groundtruth"}}
        for text, name in rows(8, tuple(names))
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, table)), encoding="utf-8")
    told = [notice.what for notice in new_task(tmp_path / "t.jsonl", tmp_path / "out").notices]
    assert any(
        "'class-name' in the column 'job-metadata' has a word for each value of 'job': billing" in t for t in told
    )
