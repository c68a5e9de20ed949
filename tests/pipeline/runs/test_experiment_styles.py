"""The prompt style that was found is that of a whole experiment: its prompts, cards, scores and folder."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import InputError, RunFolderError
from fourshot.pipeline.card import CARD_FILE, load_card
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.forecasts.speed import ANY_SPEED
from fourshot.pipeline.runs.cards import write_cards
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.plan import remaining_work
from fourshot.pipeline.runs.stages.generate import pools, rounds
from fourshot.pipeline.runs.stages.style import prompt_styles
from fourshot.pipeline.runs.stages.train import on_real_texts
from fourshot.pipeline.runs.summary import report_data
from fourshot.pipeline.synthesis.prompt_style import ChosenStyle
from fourshot.pipeline.synthesis.prompts import CHAT_VERSION, PROMPT_VERSION
from fourshot.pipeline.task_data import TaskData
from tests.pipeline.chat import CHAT
from tests.pipeline.runs.prepared_experiments import MODEL, experiment_with_texts, finish, prompts_of


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base whose template need not be looked at."""
    monkeypatch.setattr("fourshot.pipeline.runs.experiment.untried_style", lambda *_: None)


def test_the_style_that_was_found_is_that_of_every_prompt_and_lies_on_every_card(untried: None, tmp_path: Path) -> None:
    plain, experiment = (
        experiment_with_texts(tmp_path / "plain"),
        experiment_with_texts(tmp_path / "run", prompt_style="auto"),
    )
    (item,) = prompt_styles(experiment).items
    assert prompt_styles(plain).items == ()
    assert {cell.form.chat for cell in experiment.cells} == {None}  # not found yet
    RunFolder(Path(item.out).parent).write(Path(item.out).name, ChosenStyle(chat=CHAT, reason="it is better"))
    assert {cell.form.chat for cell in (*experiment.cells, *experiment.writers)} == {CHAT}
    assert {text.chat for text in (*pools(experiment).items, *rounds(experiment).items)} == {CHAT}

    trained = finish(experiment)
    write_cards(experiment)
    assert all(example.prompt.startswith(CHAT.begin) for job in trained.values() for example in job.examples)
    (writer,) = experiment.writers
    annotators = experiment.annotators(writer)
    assert annotators and {annotator.chat for annotator in annotators} == {CHAT}
    for cell in experiment.cells:
        if result := experiment.result(cell):
            card = load_card(result.path)
            assert (card.chat, card.prompt_version) == (CHAT, CHAT_VERSION)
            assert prompts_of(card) <= {example.prompt for example in trained[result.name].examples}
    lineage = report_data(experiment, "A run").lineage
    assert all(prompt.startswith(CHAT.begin) for prompt in lineage.prompts.values())
    assert lineage.hashes["chat template"] == CHAT.template_hash


def test_what_was_forecast_before_the_style_was_found_is_trained_in_it(untried: None, tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "run", "lora", "fourshot", prompt_style="auto", calibrate=True)
    assert remaining_work([experiment], "train", ANY_SPEED)
    (item,) = prompt_styles(experiment).items
    RunFolder(Path(item.out).parent).write(Path(item.out).name, ChosenStyle(chat=CHAT, reason="it is better"))
    examples = [example for job in on_real_texts(experiment).items for example in job.examples]
    assert examples and all(example.prompt.startswith(CHAT.begin) for example in examples)


def test_plain_answers_are_not_taken_for_answers_in_chat(untried: None, tmp_path: Path) -> None:
    scores = {}
    for name, chat in (("plain", None), ("chat", CHAT)):
        experiment = experiment_with_texts(tmp_path / name, "zero_shot", "icl", prompt_style="auto")
        style = experiment.style_file(experiment.seeds[0])
        RunFolder(style.parent).write(style.name, ChosenStyle(chat=chat, reason="given"))
        scores[name] = {Path(experiment.evaluation_cell(cell).out).name for cell in experiment.cells}
    usual = experiment_with_texts(tmp_path / "usual", "zero_shot", "icl")
    assert scores["plain"] == {Path(usual.evaluation_cell(cell).out).name for cell in usual.cells}
    assert not scores["plain"] & scores["chat"]


def test_a_style_that_was_found_for_another_base_is_found_anew(untried: None, tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "run", "icl", prompt_style="auto")
    other = ResolvedModel(path="/models/other", name="other", revision="def")
    again = Experiment(experiment.data, other, experiment.settings, ["icl"], experiment.seeds, experiment.root)
    (first,), (second,) = prompt_styles(experiment).items, prompt_styles(again).items
    assert Path(first.out).parent == Path(second.out).parent and first.out != second.out


def test_a_folder_of_another_style_is_refused(untried: None, tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "run", "fourshot")
    other = msgspec.structs.replace(experiment.settings, prompt_style="chat")
    again = Experiment(TaskData(experiment.task), MODEL, other, ["fourshot"], experiment.seeds, experiment.root)
    with pytest.raises(RunFolderError, match=r"prompt_style: the folder has 'plain', this call has 'chat'"):
        again.claim()


def test_chat_without_a_template_is_refused_before_the_folder_is_claimed(tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "run", "fourshot")
    fake = ResolvedModel(path="fake", name="fake", revision="0")
    chat = msgspec.structs.replace(experiment.settings, prompt_style="chat")
    refused = Experiment(TaskData(experiment.task), fake, chat, ["fourshot"], experiment.seeds, tmp_path / "other")
    with pytest.raises(InputError):
        refused.claim()
    assert not (tmp_path / "other").exists()


def test_a_card_without_a_style_is_of_plain_text(tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "run", "lora")
    finish(experiment)
    write_cards(experiment)
    result = experiment.result(experiment.cell("lora"))
    assert result is not None
    file = Path(result.path) / CARD_FILE
    stored = msgspec.json.decode(file.read_bytes())
    del stored["chat"]
    file.write_bytes(msgspec.json.encode(stored))
    card = load_card(result.path)
    assert (card.chat, card.prompt_version, card.prompt_format.version) == (None, PROMPT_VERSION, PROMPT_VERSION)
