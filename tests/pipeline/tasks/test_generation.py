"""Text generation tasks: their files, their data, and what needs labels and refuses them."""

import os
from pathlib import Path

import pytest

from fourshot.cli.main import main
from fourshot.engine.errors import InputError, TaskFileError
from fourshot.pipeline.tables.hub import read_hub
from fourshot.pipeline.tasks.generation import GenerationTask, Pair, writing_prompt
from fourshot.pipeline.tasks.pairs import input_of, load_inputs, load_pairs, take_real, without_tested
from fourshot.pipeline.tasks.task_file import check_task, load_any_task, load_task
from tests.pipeline.task_folders import FACTS, write_facts, write_jsonl

MESSAGES = "tasks that come with fourshot have no test data here: set FOURSHOT_DATA"


def load(path: Path) -> GenerationTask:
    task = load_any_task(path)
    assert isinstance(task, GenerationTask)
    return task


def test_pairs_come_with_all_their_references_and_the_prompt_ends_where_the_target_begins(tmp_path: Path) -> None:
    task = load(write_facts(tmp_path))
    train, test = load_pairs(task, "train"), load_pairs(task, "test")
    assert train.pairs[0] == Pair(input="Rome | in | Italy", target="Rome is in Italy.")
    assert test.pairs[1].right == ("Kiel is in Germany.", "Kiel lies in Germany.", "In Germany lies Kiel.")
    assert test.pairs[0].input == "Lyon | in | France\nLyon | on | Rhone"  # a list of facts: one on each line
    assert writing_prompt(task, "Rome | in | Italy") == "Write the facts.\n\nFacts:\nRome | in | Italy\n\nText:"
    assert "1 row without an input or a target left out (line 6)" in train.notes[0]
    assert "1 row repeating an earlier input and target left out (line 5)" in train.notes[1]
    kept, notes = without_tested([*train.pairs, test.pairs[0]], test.pairs)
    assert kept == train.pairs and notes == ["train: 1 input also in the test split left out"]
    assert check_task(tmp_path) and all(fault.severity != "error" for fault in check_task(tmp_path))


def test_real_pairs_are_drawn_by_the_seed_and_never_fewer_than_asked_for(tmp_path: Path) -> None:
    pairs = load_pairs(load(write_facts(tmp_path)), "train").pairs
    assert take_real(pairs, 2, seed=0) == take_real(pairs, 2, seed=0) != take_real(pairs, 2, seed=2)
    assert take_real(pairs, 0, seed=0) == pairs
    with pytest.raises(InputError, match="--real 9: the train split has 4 pairs"):
        take_real(pairs, 9, seed=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("instruction =", "instructions ="), "unknown key.*Did you mean 'instruction'"),
        (
            ('"generation"', '"generate"'),
            "'generate' is not a kind of task; allowed are 'classification' and 'generation'",
        ),
        (("[data]", '[[labels]]\nname = "a"\n[data]'), "a text generation task has no labels"),
        (('folder = "."', ""), "neither hub nor folder is set"),
        (('folder = "."', 'folder = "."\ntarget_column = "input"'), "'input' is the column of the targets and of"),
    ],
)
def test_a_faulty_file_is_explained(tmp_path: Path, changed: tuple[str, str], message: str) -> None:
    path = write_facts(tmp_path, FACTS.replace(*changed))
    with pytest.raises(TaskFileError, match=message):
        load_any_task(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (('target_name = "Text"', 'target_name = " facts "'), "is \\$.input_name too"),
        (('target_name = "Text"', 'target_name = "Te:xt"'), "cannot begin a line of a prompt: colons"),
    ],
)
def test_input_and_target_must_be_told_apart_in_a_prompt(
    tmp_path: Path, changed: tuple[str, str], message: str
) -> None:
    assert changed[0] in FACTS
    with pytest.raises(TaskFileError, match=message):
        load_any_task(write_facts(tmp_path, FACTS.replace(*changed)))


def test_faulty_data_is_explained_with_its_line(tmp_path: Path) -> None:
    path = write_facts(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", [{"input": "a", "target": True}, {"input": "b", "target": "B"}])
    with pytest.raises(InputError, match=r"train.jsonl:1: a cell holds bool, it must hold a text"):
        load_pairs(load(path), "train")
    write_jsonl(tmp_path / "train.jsonl", [{"text": "a", "label": "b"}])
    assert "no column 'input' and 'target'; the columns are 'text', 'label'" in str(check_task(path)[0])


def test_inputs_without_targets_may_stand_in_any_column(tmp_path: Path) -> None:
    source = load(write_facts(tmp_path)).data
    write_jsonl(tmp_path / "more.jsonl", [{"id": 1, "fact": ["a", "b"]}, {"id": 2, "fact": " "}])
    assert load_inputs(tmp_path / "more.jsonl", source, "fact").inputs == ["a\nb", ""]
    (tmp_path / "latin.csv").write_bytes("input\nN\u00eemes\n".encode("latin-1"))
    assert load_inputs(tmp_path / "latin.csv", source, encoding="latin-1").inputs == ["N\u00eemes"]
    with pytest.raises(InputError, match=r"no column 'input'; the columns are 'id', 'fact'.*--text-column"):
        load_inputs(tmp_path / "more.jsonl", source)


def test_an_input_may_be_made_of_several_columns(tmp_path: Path) -> None:
    path = write_facts(tmp_path, FACTS.replace('folder = "."', 'folder = "."\ninput_columns = ["user", "acts"]'))
    acts = [{"act": "OFFER", "values": ["tea", "milk"]}, {"act": "GOODBYE", "values": []}]
    row = {"user": "Hello", "acts": acts, "target": "Tea with milk?", "targets": []}
    write_jsonl(tmp_path / "train.jsonl", [row, row])
    [pair] = load_pairs(load(path), "train").pairs
    assert pair.input == "User: Hello\nActs: act = OFFER; values = tea, milk\nact = GOODBYE"


def test_classes_in_lists_of_a_hub_data_set_are_read_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    act = {"act": datasets.ClassLabel(names=["OFFER", "GOODBYE"]), "values": [datasets.Value("string")]}
    features = datasets.Features({"acts": [act], "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"acts": [[{"act": 1, "values": ["tea"]}, {"act": 0, "values": []}]], "label": [1]}
    loaded = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: loaded)
    row = read_hub("owner/name", "", "train").rows[1]
    assert row["label"] == 1
    assert input_of(row, ("acts",)) == "act = GOODBYE; values = tea\nact = OFFER"


@pytest.mark.parametrize("command", ["run", "compare", "train", "corpus", "evaluate", "adapters add"])
def test_what_needs_labels_refuses_and_says_what_works(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = str(write_facts(tmp_path))
    more = {
        "corpus": ["--out", str(tmp_path / "out")],
        "adapters add": ["--in-context", "--adapters", str(tmp_path / "adapters")],
    }.get(command, [])
    arguments = ["--tasks", task] if command == "corpus" else [task]
    assert main([*command.split(), *arguments, *more]) == 2
    assert "What works with it: fourshot distill, annotate, predict" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["task.toml", "test.jsonl", "train.jsonl"]


@pytest.mark.skipif("FOURSHOT_DATA" not in os.environ, reason=MESSAGES)
@pytest.mark.parametrize(("name", "folder", "most"), [("webnlg", "webnlg", 8), ("sgd", "sgd_nlg", 1)])
def test_shipped_tasks_load_with_the_data_of_a_folder(name: str, folder: str, most: int) -> None:
    with pytest.raises(InputError, match="is a text generation task"):
        load_task(name)
    task = load_any_task(name, Path(os.environ["FOURSHOT_DATA"]) / folder)
    assert isinstance(task, GenerationTask)
    assert max(len(pair.right) for pair in load_pairs(task, "test").pairs) == most
