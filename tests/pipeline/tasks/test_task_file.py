"""A task file loads, or says everything that is wrong with it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from fourshot.engine.errors import InputError, TaskFileError
from fourshot.pipeline.tasks.task_file import check_task, load_any_task, load_task, shipped_tasks
from tests.pipeline.task_folders import TASK, write_task

EXAMPLES = int(os.environ.get("FOURSHOT_EXAMPLES", "0"))  # 0: a few, always the same
KEYS = ["name", "instruction", "noun", "labels", "data", "word", "description", "folder", "hub", "text_column"]
KEYS += ["label_column", "fields", "train_split", "label_values", "encoding", "header"]
NAMES = st.sampled_from(["warm", "cold", "Warm", "text", "label", "train", "t", ".", "..", "/", "nan", ""])
NAMES |= st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5)
VALUES: Any = st.recursive(
    NAMES | st.booleans() | st.integers(-9, 9) | st.floats() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | NAMES, inner, max_size=4),
    max_leaves=8,
)
LABELS = st.fixed_dictionaries({"name": NAMES}, optional={"word": NAMES, "description": NAMES, "other": VALUES})
DATA = st.fixed_dictionaries(
    {"folder": st.just(".")},
    optional={"text_column": NAMES, "train_split": NAMES, "label_values": st.dictionaries(NAMES, NAMES, max_size=2)},
)
SOUND: dict[str, Any] = {"name": NAMES | st.just("t"), "instruction": NAMES, "noun": NAMES}
SOUND |= {"labels": st.lists(LABELS, max_size=4), "data": DATA}
DOCUMENTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6) | st.fixed_dictionaries(SOUND)


@pytest.mark.parametrize(
    ("instruction", "is_told"),
    [("Rate it as 1 or 2.", True), ("Is it bad or good?", False), ("Bad is 1, good 2.", False)],
)
def test_an_instruction_that_has_names_in_place_of_words_is_pointed_out(
    tmp_path: Path, instruction: str, is_told: bool
) -> None:
    labels = [{"name": "1", "word": "bad"}, {"name": "2", "word": "good"}]
    document = {"name": "t", "instruction": instruction, "noun": "text", "labels": labels, "data": {"folder": "."}}
    faults = [fault for fault in check_task(write_task(tmp_path, tomli_w.dumps(document))) if "$.instr" in fault.where]
    assert [fault.what for fault in faults] == is_told * ["it names '1', '2', but the model answers 'bad', 'good'."]


@pytest.mark.parametrize(("listed", "notes"), [(30, 0), (31, 1)])
def test_an_instruction_that_lists_many_labels_is_pointed_out(tmp_path: Path, listed: int, notes: int) -> None:
    words = [f"intent {number:02}" for number in range(40)]
    instruction = f"Classify it as {', '.join(words[:listed])}."
    labels = [{"name": word} for word in words]
    document = {"name": "t", "instruction": instruction, "noun": "text", "labels": labels, "data": {"folder": "."}}
    faults = [fault for fault in check_task(write_task(tmp_path, tomli_w.dumps(document))) if "$.instr" in fault.where]
    assert [(fault.severity, fault.what) for fault in faults] == notes * [("note", "it names 31 labels.")]


@settings(max_examples=EXAMPLES or 40, derandomize=not EXAMPLES, deadline=None)
@given(DOCUMENTS | st.fixed_dictionaries(SOUND, optional={key: VALUES for key in KEYS if key not in SOUND}))
def test_any_task_file_has_its_faults_explained(document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_task(Path(folder), tomli_w.dumps(document))
        faults = check_task(path)
        assert all(fault.where and fault.what for fault in faults)
        if not any(fault.severity == "error" for fault in faults):
            assert len(load_task(path).labels) > 1


@settings(max_examples=EXAMPLES or 40, derandomize=not EXAMPLES, deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_in_place_of_a_task_file_are_explained(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.toml"
        path.write_bytes(content)
        assert any(fault.severity == "error" for fault in check_task(path))


def errors(path: Path, **settings: object) -> list[str]:
    return [str(fault) for fault in check_task(path, **settings) if fault.severity == "error"]  # type: ignore[arg-type]


def test_a_faultless_task_loads_and_has_no_faults(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    assert task.label_names == ("warm", "cold")
    assert task.data.folder == str(tmp_path)
    assert check_task(tmp_path / "task.toml") == []


def test_a_folder_stands_for_its_one_task_file(tmp_path: Path) -> None:
    write_task(tmp_path)
    assert load_task(tmp_path).name == "colours"
    (tmp_path / "other.toml").write_text(TASK)
    with pytest.raises(InputError, match=r"exactly one.*other\.toml, task\.toml"):
        load_task(tmp_path)


def test_the_shipped_tasks_have_no_fault() -> None:
    assert {"sst2", "trec", "ag_news", "support_tickets"} <= set(shipped_tasks())
    for name in shipped_tasks():
        assert check_task(name, deep=name == "support_tickets") == []
        assert load_any_task(name).name == name


def test_an_unknown_name_lists_the_shipped_tasks_and_the_nearest() -> None:
    with pytest.raises(InputError, match=r"ag_news, .*sst2, support_tickets, trec.*Did you mean sst2"):
        load_task("sst-2")


def test_broken_toml_is_reported_with_line_and_column(tmp_path: Path) -> None:
    path = write_task(tmp_path, TASK.replace('noun = "note"', "noun = note"))
    with pytest.raises(TaskFileError, match=r"task\.toml:3:8: not valid TOML"):
        load_task(path)


def test_a_task_file_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    path.write_bytes(TASK.replace("note", "n\u00f6te").encode("latin-1"))
    assert errors(path) == [f"{path}:2: byte 0xf6 is not valid UTF-8. Save the file as UTF-8."]


def test_a_task_file_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    os.mkfifo(path)
    assert "t.toml: a broken link, a pipe or a device" in str(check_task(tmp_path)[0])
    path.unlink()
    path.symlink_to(tmp_path / "nowhere.toml")
    with pytest.raises(TaskFileError, match="a broken link, a pipe or a device"):
        load_task(tmp_path)


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + TASK.encode())
    assert load_task(path).name == "colours"


def test_all_faults_come_at_once_each_with_its_key(tmp_path: Path) -> None:
    toml = """\
name = "my task"
instructions = "Choose."
noun = 3

[data]
hub = "a/b"
folder = "."
text_colum = "t"

[data.label_values]
"0" = "wram"

[[labels]]
name = "warm"
word = 7

[[labels]]
name = "Warm"
description = ""

[[labels]]
"""
    with pytest.raises(TaskFileError) as caught:
        load_task(write_task(tmp_path, toml))
    assert sorted(fault.split(": ", 1)[0] for fault in caught.value.faults) == [
        "$.data",  # hub and folder
        "$.data.label_values.0",  # no such label
        "$.data.text_colum",  # unknown
        "$.instruction",  # missing
        "$.instructions",  # unknown
        "$.labels[0].word",  # a number
        "$.labels[1].description",  # empty
        "$.labels[1].name",  # the same as labels[0], but for case
        "$.labels[2].name",  # missing
        "$.name",  # not a folder's name
        "$.noun",  # a number
    ]
    message = str(caught.value)
    assert "has 11 faults" in message
    assert "Did you mean 'instruction'?" in message
    assert "Did you mean 'warm'?" in message
    assert "$.labels[0].word: expected string, got integer (7)." in message


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('[[labels]]\nname = "cold"\n', "", "$.labels: 1 label; a task needs at least 2."),
        ('folder = "."', "", "$.data: neither hub nor folder is set"),
        ('name = "cold"', 'name = "cold"\nword = "warm"', "$.labels[1].word: 'warm' is the word of $.labels[0] too."),
        ('folder = "."', 'folder = "nowhere"', "no such data folder"),
        ('folder = "."', 'folder = "."\ntext_column = "label"', "text_column and label_column are both 'label'"),
        ('folder = "."', 'folder = "."\ntext_column = "body"', "no column 'body'; the columns are 'text', 'label'"),
        ('folder = "."', 'folder = "."\ntrain_split = "big"', "no file for the split 'big'"),
        ('noun = "note"', 'noun = " "', "$.noun: empty."),
        ('folder = "."', "hub_config = 'x'\nfolder = '.'", "$.data.hub_config: set without $.data.hub."),
    ],
)
def test_each_fault_of_a_task_file_is_named(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert old in TASK
    assert any(fault in error for error in errors(write_task(tmp_path, TASK.replace(old, new))))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('noun = "note"', 'noun = "note"\nnoun = "n"', "Cannot overwrite a value. The key occurs twice."),
        ('name = "cold"', "name = cold", "Invalid value. Write a text in double quotes"),
        ('name = "cold"', "name = \u201ccold\u201d", "Invalid value. The line has typographic quotes."),
        ('folder = "."', 'folder = "C:\\data"', "Unescaped '\\' in a string. Write each backslash twice"),
        ("[[labels]]", "[labels]", "Each label begins with [[labels]], in two brackets."),
        ("[data]", "[data]\n[data]", "This table occurs twice."),
        ('noun = "note"', "noun = 3", 'expected string, got integer (3). Write it in quotes: "3".'),
        ('folder = "."', 'folder = "."\nlabel_values = {0.0 = "warm"}', "A key with a dot must be in quotes"),
        ('folder = "."', 'folder = "."\nleave_out = "spam"', 'Write it in brackets: ["spam"].'),
        ('folder = "."', 'folder = "s3://b/x"', "$.data.folder: 's3://b/x' is an address; allowed is a folder"),
        ('folder = "."', 'hub = "https://x.y/a/b"', "$.data.hub: 'https://x.y/a/b' is an address; allowed is a data"),
        ('folder = "."', 'folder = "."\ntrain_split = "train.jsonl"', "without the ending: 'train'."),
        ('name = "cold"', 'name = "cold"\nword = "very\\ncold"', "$.labels[1].word: 'very\\ncold' has a line break"),
        ("[data]", '[data]\nnoun_plural = "notes"', "$.data.noun_plural: unknown key"),
        ('name = "cold"', 'name = "cold"\nfields = ["a", "b"]', "It belongs above the first line in brackets"),
        ("[data]", 'folder = "."\n[data]', "It belongs below [data]."),
        ('folder = "."', 'folder = "."\nheader = "no"', "Write true or false, without quotes."),
        ("[data]", 'labels = ["warm", "cold"]\n[data]', "Write [[labels]] on a line of its own for each label"),
    ],
)
def test_a_usual_mistake_in_toml_is_told_with_what_to_write(tmp_path: Path, old: str, new: str, fault: str) -> None:
    toml = TASK[: TASK.index("[[labels]]")] if "labels = [" in new else TASK
    messages = errors(write_task(tmp_path, toml.replace(old, new)))
    assert any(fault in error for error in messages), messages


@pytest.mark.parametrize(
    ("old", "new", "place", "problem"),
    [
        ("the note as", "{text} as", "$.instruction", "'{text}' is not replaced"),
        ("the note as", "the note {{ note }} as", "$.instruction", "'{{ note }}' is not replaced"),
        ('name = "warm"', 'name = "warm"\nword = "Cold"', "$.labels[0].word", "'cold' is the name of $.labels[1]"),
    ],
)
def test_what_is_read_otherwise_than_it_looks_is_warned_of(
    tmp_path: Path, old: str, new: str, place: str, problem: str
) -> None:
    toml = TASK.replace(old, new).replace('name = "cold"', 'name = "cold"\nword = "frost"')
    faults = [
        (fault.severity, fault.where) for fault in check_task(write_task(tmp_path, toml)) if problem in fault.what
    ]
    assert faults == [("warning", place)]


def test_a_label_word_without_letters_is_a_warning(tmp_path: Path) -> None:
    path = write_task(tmp_path, TASK.replace('name = "cold"', 'name = "cold"\nword = "1"'))
    assert [(f.severity, f.where) for f in check_task(path)] == [("warning", "$.labels[1].word")]


def test_importing_the_task_modules_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fourshot.pipeline.tasks import new_task, shots, task_file\n"
        "from fourshot.pipeline.synthesis import filters\n"
        "print([name for name in ('torch', 'vllm', 'ray', 'numpy', 'pyarrow', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_may_mean_a_task_of_ours_or_of_the_users_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "trec"
    folder.mkdir()
    assert load_task("trec").data.hub, "a folder of data is no task"
    write_task(folder)
    with pytest.raises(InputError, match=f"'trec' is a task that comes with fourshot, but {folder} exists, too"):
        load_task("trec")
    assert load_task(folder).name == load_task("./trec").name == "colours"
