"""What `fourshot tasks check` finds in the data of a task, and in its label words."""

from pathlib import Path

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.tasks.task_file import check_task, load_task
from tests.pipeline.task_folders import COLD, TASK, WARM, rows_of, write_jsonl, write_task


def errors(path: Path, **settings: object) -> list[str]:
    return [str(fault) for fault in check_task(path, **settings) if fault.severity == "error"]  # type: ignore[arg-type]


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
        "test.jsonl:5: the key 'text' occurs twice",
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


def test_examples_that_are_test_texts_do_not_count_for_their_class(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    write_jsonl(tmp_path / "test.jsonl", rows_of(WARM, "warm") + rows_of(COLD[:1], "cold"))
    assert [(fault.severity, fault.what) for fault in check_task(path)][:2] == [
        ("error", "each of the 4 examples of label 'warm' is a test text too, and is left out."),
        (
            "warning",
            "label 'cold' has 3 examples, fewer than 4 shots. 1 more example of it is in the test split too.",
        ),
    ]


def test_texts_that_were_read_in_another_encoding_are_warned_of(tmp_path: Path) -> None:
    path = write_task(tmp_path, TASK.replace('folder = "."', 'folder = "."\nencoding = "latin-1"'))
    write_jsonl(tmp_path / "train.jsonl", rows_of([*WARM, "Caf\u00e9 au lait."], "warm") + rows_of(COLD, "cold"))
    text = (tmp_path / "train.jsonl").read_text(encoding="utf-8").replace("\\u00e9", "\u00e9")
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")
    named, fault = check_task(path)
    assert "read as latin-1, but it is also valid UTF-8" in named.what
    assert (fault.severity, fault.what) == ("warning", "1 text with signs of another encoding (line 5).")
    assert "Is $.data.encoding that of another file" in fault.remedy


def test_what_is_left_of_html_is_pointed_out(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    texts = [
        "AT&amp;T calls.",
        "Too hot!<br />Really.",
        "It is 3 < 4 and 5 > 2.",
        "Tom & Jerry; a <- b.",
        "Caf&#233; au lait.",
    ]
    write_jsonl(tmp_path / "train.jsonl", rows_of([*WARM, *texts], "warm") + rows_of(COLD, "cold"))
    assert [(fault.severity, fault.what) for fault in check_task(path)] == [
        ("note", "3 texts with HTML, such as &amp; or <br> (line 5, 6, 9).")
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


@pytest.mark.parametrize("name", ["shot.csv", "Shots (1).csv", "shots.numbers", "shots_v2.jsonl", "shots"])
def test_shots_that_are_called_otherwise_are_pointed_out(tmp_path: Path, name: str) -> None:
    path = write_task(tmp_path)
    assert not [fault for fault in check_task(path) if "a file of shots is named" in fault.what]
    (tmp_path / name).mkdir()
    [fault] = [fault for fault in check_task(path) if "a file of shots is named" in fault.what]
    assert fault.severity == "warning" and f"{name} in {tmp_path}: not read" in fault.what


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
    ("name", "problem"),
    [
        ("['warm']", "\"['warm']\" stands for no label, a list or quotes in tables, not for a class."),
        ("nan", "'nan' stands for no label, a list or quotes in tables, not for a class."),
        ("co\u200bld", "'co\\u200bld' looks like 'cold'."),
        ("\u0421OLD", "'\\u0421OLD' looks like 'cold'."),
    ],
)
def test_names_that_the_data_cannot_have_or_nobody_tells_apart_are_warned_about(
    tmp_path: Path, name: str, problem: str
) -> None:
    path = write_task(tmp_path, TASK + f'\n[[labels]]\nname = "{name}"\nword = "third"\n')
    assert [(fault.where, fault.what) for fault in check_task(path, deep=False)] == [("$.labels[2].name", problem)]


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
    assert any(f.where == "$.labels[2].word" and "tokens for this model" in f.what for f in faults)
    assert any(f.where == "$.labels[3].word" and "same token as 'warm'" in f.what for f in faults)

    lower_case = PreTrainedTokenizerFast(tokenizer_object=trained)
    from tokenizers import normalizers

    lower_case.backend_tokenizer.normalizer = normalizers.StripAccents()
    path = write_task(tmp_path, TASK.replace('name = "cold"', 'name = "w\u0061\u0301rm"'))
    same = check_task(path, lower_case, deep=False)
    assert [(f.severity, f.where) for f in same] == [("error", "$.labels[1].word")]
    assert "the same tokens" in same[0].what


def test_texts_that_a_run_would_not_read_whole_are_counted(tmp_path: Path) -> None:
    path = write_task(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", rows_of([*WARM, "sun " * 310], "warm") + rows_of(COLD, "cold"))
    (fault,) = check_task(path)
    assert (fault.severity, fault.what) == (
        "note",
        "1 of 9 texts has more than 300 words (the longest 310): the end is not used, 10 of 351 words.",
    )
    assert "--long-texts middle" in fault.remedy and "--long-texts windows" in fault.remedy
