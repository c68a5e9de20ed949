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
from fourshot.pipeline.tasks.task_file import check_task, load_task, shipped_tasks
from tests.pipeline.task_folders import COLD, TASK, WARM, rows_of, write_jsonl, write_task

EXAMPLES = int(os.environ.get("FOURSHOT_EXAMPLES", "0"))  # 0: a few, always the same
KEYS = ["name", "instruction", "noun", "labels", "data", "word", "description", "folder", "hub", "text_column"]
KEYS += ["label_column", "train_split", "label_values", "encoding", "header"]
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
        assert load_task(name).name == name


def test_an_unknown_name_lists_the_shipped_tasks_and_the_nearest() -> None:
    with pytest.raises(InputError, match=r"ag_news, sst2, support_tickets, trec.*Did you mean sst2"):
        load_task("sst-2")


def test_broken_toml_is_reported_with_line_and_column(tmp_path: Path) -> None:
    path = write_task(tmp_path, TASK.replace('noun = "note"', "noun = note"))
    with pytest.raises(TaskFileError, match=r"task\.toml:3:8: not valid TOML"):
        load_task(path)


def test_a_task_file_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    path.write_bytes(TASK.replace("note", "n\u00f6te").encode("latin-1"))
    assert errors(path) == [f"{path}:2: byte 0xf6 is not valid UTF-8. Save the file as UTF-8."]


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


def test_a_label_word_without_letters_is_a_warning(tmp_path: Path) -> None:
    path = write_task(tmp_path, TASK.replace('name = "cold"', 'name = "cold"\nword = "1"'))
    assert [(f.severity, f.where) for f in check_task(path)] == [("warning", "$.labels[1].word")]


def test_faults_of_the_data_come_with_their_lines_all_splits_at_once(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    rows = rows_of(WARM, "warm") + rows_of(COLD, "cold") + rows_of(["Lukewarm soup."], "tepid")
    write_jsonl(tmp_path / "train.jsonl", rows)
    with (tmp_path / "test.jsonl").open("a") as test:
        test.write('{"text": "half\n[1, 2]\n{"text": "b", "text": "c", "label": "warm"}\n')
    assert [error.removeprefix(f"{tmp_path}/").split(". ")[0] for error in errors(path)] == [
        "train.jsonl:9: label 'tepid' (1 row); the task's labels are warm, cold",
        "test.jsonl:3: not valid JSON: Unterminated string starting at (column 10)",
        "test.jsonl:4: got a JSON list, each row must be an object",
        "test.jsonl:5: the key 'text' stands there twice",
    ]


def test_classes_with_few_or_no_examples(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", rows_of(WARM[:3], "warm"))
    faults = [(fault.severity, fault.what) for fault in check_task(path)]
    assert faults == [
        ("warning", "label 'warm' has 3 examples, fewer than 4 shots."),
        ("error", "no example of label 'cold'."),
    ]
    assert ("warning", "label 'warm' has 3 examples, fewer than 4 shots.") not in [
        (fault.severity, fault.what) for fault in check_task(path, k=3)
    ]


def test_rows_that_will_be_left_out_are_warnings(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    rows = rows_of(WARM, "warm") + rows_of(COLD, "cold")
    rows += rows_of(["  "], "warm") + rows_of([WARM[0].upper()], "warm") + rows_of(["Two minds."], "warm")
    write_jsonl(tmp_path / "train.jsonl", [*rows, *rows_of(["Two minds.", "Ice cubes."], "cold")])
    faults = check_task(path)
    assert {fault.severity for fault in faults} == {"warning"}
    assert [fault.what for fault in faults] == [
        "1 row without a text left out (line 9).",
        "1 row repeating an earlier text left out (line 10).",
        "2 rows with a text that has two different labels left out (line 11, 12).",
        "1 text is in the test split too: 'ice cubes.'.",
    ]


def test_without_a_test_file_there_is_a_warning_and_without_train_an_error_unless_shots_are_there(
    tmp_path: Path,
) -> None:
    path = write_task(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    assert [fault.severity for fault in check_task(path)] == ["warning"]
    (tmp_path / "train.jsonl").rename(tmp_path / "shots.jsonl")
    assert [fault.severity for fault in check_task(path)] == ["note", "warning"]
    (tmp_path / "shots.jsonl").unlink()
    assert [fault.severity for fault in check_task(path)] == ["error", "warning"]


def test_two_files_for_one_split_are_an_error(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    (tmp_path / "train.csv").write_text("text,label\na,warm\n")
    assert any("train.jsonl and train.csv for the same split" in error for error in errors(path))


def test_a_data_folder_takes_the_place_of_the_hub(tmp_path: Path) -> None:
    reviews = rows_of(["a fine film"], "positive") + rows_of(["a bad film"], "negative")
    write_jsonl(tmp_path / "train.jsonl", reviews)
    source = load_task("sst2", tmp_path).data
    assert (source.hub, source.text_column, source.test_split) == ("", "text", "test")
    write_jsonl(tmp_path / "train.jsonl", [{"sentence": row["text"], "label": row["label"]} for row in reviews])
    assert load_task("sst2", tmp_path).data.text_column == "sentence"
    with pytest.raises(InputError, match="no such data folder"):
        load_task("sst2", tmp_path / "nowhere")


def test_a_data_folder_makes_up_for_a_file_without_a_source(tmp_path: Path) -> None:
    path = write_task(tmp_path, TASK.replace('[data]\nfolder = "."\n', ""))
    assert load_task(path, tmp_path).data.folder == str(tmp_path)
    assert check_task(path, data_folder=tmp_path) == []


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("['warm']", "\"['warm']\" is how tables write no label, a list or quotes, not the name of a class."),
        ("nan", "'nan' is how tables write no label, a list or quotes, not the name of a class."),
        ("co\u200bld", "'co\\u200bld' looks like 'cold'."),
    ],
)
def test_names_that_the_data_cannot_have_or_nobody_tells_apart_are_warned_about(
    tmp_path: Path, name: str, what: str
) -> None:
    path = write_task(tmp_path, TASK + f'\n[[labels]]\nname = "{name}"\nword = "third"\n')
    assert [(fault.where, fault.what) for fault in check_task(path, deep=False)] == [("$.labels[2].name", what)]


def test_label_words_as_a_tokenizer_sees_them(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator([" warm cold hot"] * 50, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained)

    assert check_task(write_task(tmp_path), tokenizer) == []
    path = write_task(tmp_path, TASK + '\n[[labels]]\nname = "scorching"\n\n[[labels]]\nname = "warmer"\n')
    faults = check_task(path, tokenizer, deep=False)
    assert {fault.severity for fault in faults} == {"note"}
    assert any(f.where == "$.labels[2].word" and "tokens to this model" in f.what for f in faults)
    assert any(f.where == "$.labels[3].word" and "same token as 'warm'" in f.what for f in faults)

    lower_case = PreTrainedTokenizerFast(tokenizer_object=trained)
    from tokenizers import normalizers

    lower_case.backend_tokenizer.normalizer = normalizers.StripAccents()
    path = write_task(tmp_path, TASK.replace('name = "cold"', 'name = "w\u0061\u0301rm"'))
    same = check_task(path, lower_case, deep=False)
    assert [(f.severity, f.where) for f in same] == [("error", "$.labels[1].word")]
    assert "the same tokens" in same[0].what


def test_importing_the_task_modules_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fourshot.pipeline.tasks import new_task, shots, task_file\n"
        "from fourshot.pipeline.synthesis import filters\n"
        "print([name for name in ('torch', 'vllm', 'ray', 'numpy', 'pyarrow', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_texts_that_a_run_would_not_read_whole_are_counted(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", rows_of([*WARM, "sun " * 310], "warm") + rows_of(COLD, "cold"))
    (fault,) = check_task(path)
    assert (fault.severity, fault.what) == (
        "note",
        "1 of 9 texts has more than 300 words (the longest 310): the end is not read, 10 of 351 words.",
    )
    assert "--long-texts middle" in fault.remedy
