"""Inputs of several fields: one text with a line for each, everywhere, and an object at the doors."""

import hashlib
import os
import shlex
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.rows.fields import (
    as_text,
    bare_text,
    cut_fields,
    encoder_text,
    join_fields,
    sample_argument,
    split_fields,
    written_fields,
)
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.task_file import check_task, load_task
from tests.pipeline.task_folders import PAIRS, TASK, write_jsonl, write_pairs, write_task

DATA = os.environ.get("FOURSHOT_DATA", "")
FIELDS = ("premise", "hypothesis")
TEXT = "Premise: It rains.\nHypothesis: It is wet."


def pairs() -> Task:
    return load_task("rte")


def test_a_task_without_fields_is_stored_as_before_there_were_any() -> None:
    stored = msgspec.json.encode(load_task("sst2"))
    assert hashlib.sha256(stored).hexdigest() == "72e8c4ea833f10f533a1e950fb23e2041b0a9dab908e62d27ecb46ff60ca3a72"
    assert b"fields" not in stored
    assert msgspec.json.decode(msgspec.json.encode(pairs()), type=Task) == pairs()


@pytest.mark.parametrize(
    "raw",
    [
        {"premise": "It rains.", "hypothesis": "It is wet."},
        {"hypothesis": " It is\n wet.", "premise": "It\u2028rains. "},
        '{"premise": "It rains.", "hypothesis": "It is wet."}',
        "premise: It rains.\r\n\n HYPOTHESIS : It is wet.\n",
    ],
)
def test_what_may_stand_for_an_input(raw: str | dict[str, str]) -> None:
    assert as_text(pairs(), raw) == TEXT
    assert split_fields(FIELDS, TEXT) == {"premise": "It rains.", "hypothesis": "It is wet."}
    assert bare_text(pairs(), TEXT) == "It rains.\nIt is wet."


def test_the_sample_that_is_shown_may_be_typed() -> None:
    (typed,) = shlex.split(sample_argument(pairs()))
    assert as_text(pairs(), typed) == "Premise: ...\nHypothesis: ..."
    assert sample_argument(load_task("sst2")) == "'A text of your own'"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("It rains.", "object with the fields premise, hypothesis, got the text 'It rains.'"),
        ('{"premise": ', "not valid JSON"),
        ('{"premise": "x", "hypothesis": "y", "premis\\u0065": "z"}', "the field `premise` twice"),
        ({"premise": "x"}, "'hypothesis' is missing; got 'premise'"),
        ({"premise": "x", "hypothesis": " \u200b"}, "'hypothesis' is blank"),
        ({"premise": "x", "hypothesis": 3}, "'hypothesis' is not a string"),
        ({"premise": "x", "hypotesis": "y"}, "unknown field 'hypotesis'; the fields are premise, hypothesis. Did you"),
    ],
)
def test_what_is_no_input_is_explained(raw: str | dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_text(pairs(), raw)


def test_a_task_of_texts_takes_no_object() -> None:
    assert as_text(load_task("sst2"), "fine") == "fine"
    with pytest.raises(InputError, match=r"takes a text, got an object with 'premise'\. Give a string"):
        as_text(load_task("sst2"), {"premise": "x"})


@pytest.mark.parametrize(
    ("completion", "values"),
    [
        (" It rains.\nHypothesis: It is wet.", ["It rains.", "It is wet."]),
        (" It\nrains.\n hypothesis: It is wet.\nWhy: water", ["It rains.", "It is wet."]),
        (" It rains.", ["It rains."]),
        (" Premise: It rains.\nHypothesis: It is wet.", ["It rains.", "It is wet."]),
        (" It rains.\nHypothesis:", ["It rains.", ""]),
        (" It rains.\nPremise: It snows.\nHypothesis: It is wet.", ["It rains."]),
    ],
)
def test_fields_that_a_model_wrote(completion: str, values: list[str]) -> None:
    assert list(written_fields(FIELDS, completion).values()) == values


def test_long_fields_are_cut_and_short_ones_stay_whole() -> None:
    values = {"passage": "a b c d e f", "question": "x y z", "answer": "n"}
    assert cut_fields(values, 7) == {"passage": "a b c", "question": "x y z", "answer": "n"}
    assert cut_fields(values, 2) == {"passage": "", "question": "x", "answer": "n"}
    assert cut_fields(values, 8, "middle")["passage"] == "a … d e f"
    long = join_fields(("passage", "question"), {"passage": "word " * 500, "question": "is it?"})
    assert encoder_text(load_task("boolq"), long, 32).endswith(" word word\nQuestion: is it?")
    assert encoder_text(load_task("sst2"), long, 32) == long


def test_rows_with_a_column_for_each_field(tmp_path: Path) -> None:
    path = write_pairs(tmp_path)
    task = load_task(path)
    train = load_split(task, "train")
    assert train.examples[0].text == join_fields(FIELDS, {"premise": "It rains hard.", "hypothesis": "It is wet."})
    write_jsonl(tmp_path / "train.jsonl", [*PAIRS, {"premise": "x", "hypothesis": " ", "label": "yes"}, PAIRS[0]])
    faults = [str(fault) for fault in check_task(path)]
    assert any("1 row without a text in one of premise, hypothesis left out (line 9)" in fault for fault in faults)
    assert any("1 row repeating an earlier text left out (line 10)" in fault for fault in faults)
    write_jsonl(tmp_path / "train.jsonl", [{"premise": 3, "hypothesis": "x", "label": "yes"}])
    assert any("the text is a int" in str(fault) and "'premise'" in str(fault) for fault in check_task(path))
    write_jsonl(tmp_path / "train.jsonl", [{"premise": "x", "label": "yes"}])
    assert any("no column 'hypothesis'" in str(fault) and "$.fields" in str(fault) for fault in check_task(path))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ('["a"]', "allowed are none, for a task of texts, or two or more"),
        ('["a_b", "A b"]', "'A b' reads like a field before it"),
        ('["a", "label"]', "cannot begin a line of a prompt"),
        ('["a", "b: c"]', "cannot begin a line of a prompt"),
        ('["a", 3]', "expected string, got integer"),
        ('"a"', "expected array, got string"),
    ],
)
def test_faulty_fields_are_explained(tmp_path: Path, fields: str, problem: str) -> None:
    path = write_task(tmp_path, TASK.replace("\n[data]", f"fields = {fields}\n\n[data]", 1))
    assert any(problem in str(fault) for fault in check_task(path))


def test_a_folder_in_place_of_the_hub_may_lack_splits_and_labels_may_be_left_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train_100.jsonl", PAIRS)
    write_jsonl(tmp_path / "dev.jsonl", [{**row, "label": "entailment"} for row in PAIRS])
    task = load_task("rte", tmp_path)  # whose test split on the hub is the validation split
    assert (task.data.train_split, task.data.test_split) == ("train_100", "dev")
    assert any("those of 'dev'" in warning for warning in load_split(task, "test").warnings)
    data = msgspec.structs.replace(task.data, leave_out=("yes", "no"))
    split = load_split(msgspec.structs.replace(task, data=data), "train")
    assert not split.examples and "8 rows left out, as $.data.leave_out says: no, yes." in split.warnings[-1]
    (tmp_path / "train_100.jsonl").rename(tmp_path / "test.jsonl")
    task = load_task("rte", tmp_path)
    assert (task.data.train_split, task.data.test_split) == ("dev", "test")


@pytest.mark.parametrize("name", ["rte", "boolq", "multirc", "slurp"])
def test_shipped_tasks_are_sound_and_read_their_data(name: str) -> None:
    assert not [fault for fault in check_task(name, deep=False) if fault.severity == "error"]
    if not DATA:
        pytest.skip("FOURSHOT_DATA is not set")
    task = load_task(name, Path(DATA) / name)
    assert len(load_split(task, "train", limit=20).examples) == len(load_split(task, "test", limit=20).examples) == 20
