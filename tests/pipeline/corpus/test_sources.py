"""What a corpus starts from: shots that are no test texts, and adapters that fit the task and the base model."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import AdapterError, InputError, RunFolderError
from fourshot.pipeline.card import CARD_FILE, AdapterCard, load_card
from fourshot.pipeline.corpus.datacard import _counts
from fourshot.pipeline.corpus.run import CorpusRequest, plan_corpus
from fourshot.pipeline.corpus.sources import annotators_of, data_of
from fourshot.pipeline.corpus.summary import ClassOutcome
from fourshot.pipeline.events import Event, ignore
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.task import Label, Task
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.task_paths import load_tasks
from fourshot.training.lora.adapter_files import ADAPTER_WEIGHTS
from fourshot.training.lora.settings import LoraSettings
from tests.pipeline.corpus.small_corpora import TASK, make, named
from tests.pipeline.task_folders import COLD, WARM, rows_of, write_jsonl, write_task
from tests.pipeline.task_folders import TASK as TASK_FILE

MODEL = ResolvedModel(path="/models/a", name="a/model", revision="abc")


def put_card(folder: Path, name: str = "tickets-0123", task: Task = TASK, revision: str = "abc") -> None:
    """An adapter's card in a folder of its own."""
    card = AdapterCard(
        name=name,
        task=task,
        model_name="a/model",
        model_revision=revision,
        training=LoraSettings(),
        real_examples=20,
        synthetic_examples=250,
        steps=40,
        train_tokens=5000,
        train_s=12.5,
    )
    folder.mkdir(parents=True)
    (folder / CARD_FILE).write_bytes(msgspec.json.encode(card))


def test_adapters_of_the_task_and_the_base_are_found_where_trainings_leave_them(tmp_path: Path) -> None:
    put_card(tmp_path / "adapters" / "one")
    put_card(tmp_path / "adapters" / "other_base", name="tickets-9", revision="def")
    put_card(tmp_path / "adapters" / "other_task", name="x-1", task=msgspec.structs.replace(TASK, name="x"))
    for place in (tmp_path, tmp_path / "adapters", tmp_path / "adapters" / "one"):
        (annotator,) = annotators_of(TASK, place, MODEL)
        assert annotator.adapter
        assert (annotator.adapter.name, annotator.adapter.path) == ("tickets-0123", str(tmp_path / "adapters" / "one"))


def test_an_adapter_is_asked_as_its_card_says_and_says_what_it_learnt(tmp_path: Path) -> None:
    put_card(tmp_path / "one")
    card = load_card(tmp_path / "one")
    for learnt in ("word", "token"):
        changed = msgspec.structs.replace(card, wording="answer", verbalizer=learnt)
        (tmp_path / "one" / CARD_FILE).write_bytes(msgspec.json.encode(changed))
        (annotator,) = annotators_of(TASK, tmp_path, MODEL)
        assert (annotator.wording, annotator.verbalizer) == ("answer", learnt)


def test_an_adapter_of_other_label_words_is_refused_and_none_at_all_too(tmp_path: Path) -> None:
    put_card(tmp_path / "one")
    renamed = msgspec.structs.replace(TASK, labels=(Label(name="bug", word="fault"), *TASK.labels[1:]))
    with pytest.raises(AdapterError, match="label words"):
        annotators_of(renamed, tmp_path, MODEL)
    with pytest.raises(InputError, match="no adapter for support_tickets"):
        annotators_of(TASK, tmp_path, ResolvedModel(path="", name="b/model", revision="abc"))


def test_an_adapter_that_was_changed_or_learnt_other_prompts_annotates_nothing(tmp_path: Path) -> None:
    put_card(tmp_path / "one")
    save_file({"one.lora_A.weight": np.zeros((8, 4), np.float32)}, tmp_path / "one" / ADAPTER_WEIGHTS)
    with pytest.raises(AdapterError, match="weights are not those that its card names"):
        annotators_of(TASK, tmp_path, MODEL)
    (tmp_path / "one" / ADAPTER_WEIGHTS).unlink()
    card = msgspec.structs.replace(load_card(tmp_path / "one"), prompt_version="0")
    (tmp_path / "one" / CARD_FILE).write_bytes(msgspec.json.encode(card))
    with pytest.raises(AdapterError, match="was trained on prompts of version 0"):
        annotators_of(TASK, tmp_path, MODEL)


def test_a_task_without_a_test_split_has_shots_and_keeps_nothing_out(tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    task = load_task(tmp_path)
    assert data_of(task).test_texts == [] and data_of(TASK).test_texts
    shots = data_of(task).shots(msgspec.structs.replace(PRESETS["corpus"], k=2))
    assert {shot.label for shot in shots} == set(task.label_names) and len(shots) == 4


def test_rows_that_a_corpus_leaves_out_are_told_under_the_name_of_their_task(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    write_jsonl(tmp_path / "train.jsonl", rows_of([*WARM, WARM[0], "Ice cubes."], "warm") + rows_of(COLD, "cold"))
    write_jsonl(tmp_path / "test.jsonl", rows_of(["Ice cubes.", ""], "cold"))
    events: list[Event] = []
    plan_corpus(CorpusRequest({"colours": task}, "fake", tmp_path / "out"), events.append)
    assert [(event.stage, event.message.replace(str(tmp_path), "")) for event in events[:3]] == [
        ("corpus", "colours: /test.jsonl: 1 row without a text left out (line 2)."),
        ("corpus", "colours: /train.jsonl: 1 row repeating an earlier text left out (line 5)."),
        ("corpus", "colours: train: 1 text also in the test split left out."),
    ]


def test_data_may_lie_in_a_folder_for_each_task(tmp_path: Path) -> None:
    for name in ("sst2", "trec"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')
    tasks = load_tasks(["sst2", "trec"], tmp_path)
    folders = [task.data.folder for task in tasks.values() if isinstance(task, Task)]
    assert folders == [str(tmp_path / "sst2"), str(tmp_path / "trec")]
    missing = load_tasks(["sst2", "ag_news"], tmp_path)["ag_news"]
    assert isinstance(missing, InputError) and "no folder 'ag_news'" in str(missing)
    (alone,) = load_tasks(["sst2"], tmp_path / "trec").values()
    assert isinstance(alone, Task) and alone.data.folder == str(tmp_path / "trec")


def test_shots_that_are_gone_from_a_corpus_are_drawn_anew_with_a_line(tmp_path: Path) -> None:
    make(tmp_path, named("one"))
    file, events = tmp_path / "tasks" / "one" / "shots.json", list[Event]()
    shots = file.read_bytes()
    make(tmp_path, named("one"), on_event=events.append)
    assert not any("drawn again" in event.message for event in events)
    file.unlink()
    make(tmp_path, named("one"), on_event=events.append)
    assert next(event.message for event in events if "drawn again" in event.message).startswith(
        f"one: {file} is missing"
    )
    assert file.read_bytes() == shots
    shutil.rmtree(tmp_path / "tasks")
    with pytest.raises(
        RunFolderError, match=r"manifest\.json is missing; the texts in data/one were generated from it"
    ):
        make(tmp_path, named("one"))


def test_a_label_with_a_bar_is_one_cell_of_the_data_card(tmp_path: Path) -> None:
    outcome = ClassOutcome(task="one", label="billing|fees", state="finished", kept=1, drawn=2)
    row = _counts([outcome]).splitlines()[-1]
    assert row.startswith(r"| one | billing\|fees | finished | 1 | 2 |")


def test_a_plan_goes_on_without_the_tasks_that_drop_out(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    good = load_task(write_task(tmp_path / "good"))
    bad = load_task(write_task(tmp_path / "bad", TASK_FILE.replace('"colours"', '"few"')))
    write_jsonl(tmp_path / "bad" / "train.jsonl", rows_of(WARM, "warm"))
    events: list[Event] = []
    tasks = {"few": bad, "colours": good}
    plan_corpus(CorpusRequest(tasks, "fake", tmp_path / "out"), events.append)
    (dropped,) = [event.message for event in events if "drops out" in event.message]
    assert dropped.startswith("few drops out: ")
    with pytest.raises(InputError):
        plan_corpus(CorpusRequest({"few": bad}, "fake", tmp_path / "out"), events.append)


def test_a_corpus_of_probabilities_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    """Its rows have the label that they were drawn for, and these settings keep texts whose annotator says another."""
    soft = msgspec.structs.replace(PRESETS["soft"], generate=PRESETS["corpus"].generate)
    with pytest.raises(InputError, match=r"targets = soft.*--preset corpus"):
        make(tmp_path / "out", run_settings=soft)
    with pytest.raises(InputError, match=r"targets = soft.*--preset corpus"):
        plan_corpus(CorpusRequest(named("one"), "fake", tmp_path / "out", soft), ignore)
    assert not (tmp_path / "out").exists()
