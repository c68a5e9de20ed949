"""A classifier answers from its adapter folder alone."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fourshot.cli import main as cli
from fourshot.engine.calibration import Calibration
from fourshot.engine.chat import ChatTurns
from fourshot.engine.checkpoints.models import ResolvedModel, resolve_model
from fourshot.engine.core import Adapter, Engine, EngineSettings, Verbalizer
from fourshot.engine.errors import AdapterError, InputError
from fourshot.engine.fake_engine import FakeEngine
from fourshot.engine.opening import open_engine
from fourshot.pipeline.card import CARD_FILE, AdapterCard
from fourshot.pipeline.cells.trainings import classification_examples
from fourshot.pipeline.events import Event
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording, classification_prompt
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.serving.adapter_lookup import find_adapter
from fourshot.serving.clients.local import LocalClassifier, engine_for
from fourshot.training.lora.adapter_files import content_hash
from fourshot.training.lora.settings import LoraSettings
from tests.pipeline.chat import CHAT

TEXTS = ["I was charged twice.", "Where is my parcel?", "The app crashes when I add a picture."]


@pytest.fixture(scope="module")
def card(narrow_model: str) -> AdapterCard:
    base = resolve_model(narrow_model)
    return AdapterCard(
        name="tickets-0123",
        task=load_task("support_tickets"),
        model_name=base.name,
        model_revision=base.revision,
        training=LoraSettings(),
        real_examples=20,
        synthetic_examples=10,
        steps=1,
        train_tokens=1,
        train_s=1.0,
    )


@pytest.fixture(scope="module")
def narrow_reference(narrow_model: str) -> Iterator[Engine]:
    engine = open_engine(EngineSettings(model=narrow_model, kind="transformers", max_model_len=1024))
    yield engine
    engine.close()


def write_adapter(folder: Path, card: AdapterCard, adapter: Adapter | None = None) -> Path:
    """An adapter folder with this card, and with weights if ``adapter`` is given."""
    folder.mkdir(parents=True)
    if adapter is not None:
        shutil.copytree(adapter.path, folder, dirs_exist_ok=True)
        card = msgspec.structs.replace(card, name=f"tickets-{content_hash(folder)}")
    (folder / CARD_FILE).write_bytes(msgspec.json.encode(card))
    return folder


def test_it_opens_the_state_of_the_base_that_it_was_trained_on(
    tmp_path: Path, card: AdapterCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main branch of a hub model moves on; the commit in the card does not."""
    commit = "0123456789" * 4
    folder = write_adapter(
        tmp_path / "adapter", msgspec.structs.replace(card, model_name="org/tiny", model_revision=commit)
    )
    names: list[str] = []

    def resolve(name: str) -> ResolvedModel:
        names.append(name)
        return ResolvedModel(path="", name=name, revision="another")

    for place in ("fourshot.pipeline.card", "fourshot.engine.checkpoints.models"):
        monkeypatch.setattr(f"{place}.resolve_model", resolve)
    for model in (None, "org/tiny"):
        with pytest.raises(AdapterError, match="org/tiny revision 0123456789"):
            LocalClassifier(folder, model)
    assert names == [f"org/tiny@{commit}", "org/tiny"]


def test_it_answers_as_its_adapter_scores(
    tmp_path: Path,
    card: AdapterCard,
    narrow_adapters: tuple[Adapter, Adapter],
    narrow_reference: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fourshot.serving.clients.explain.home", lambda: tmp_path / "home")
    prior = Calibration(method="batch", log_prior=(-0.5, -1.0, -2.0, -1.5, -3.0))
    labels = ("billing", "shipping", "bug")
    shots = tuple(Example(text=text, label=label) for text, label in zip(TEXTS, labels, strict=True))
    card = msgspec.structs.replace(card, calibration=prior, shots=shots)
    folder = write_adapter(tmp_path / "adapter", card, narrow_adapters[0])
    with LocalClassifier(folder, kind="transformers") as classifier:
        predictions = classifier.predict(TEXTS)
        events = list[Event]()
        explained = classifier.explain(TEXTS[:1], events.append)[0]
        assert [(event.message, event.done, event.total) for event in events] == [
            ("training texts", 3, 3),
            *(("wordings of the prompt", done, 3) for done in (1, 2, 3)),
        ]
        (states,) = (tmp_path / "home" / "states").iterdir()
        whole = states.read_bytes()
        for damaged in (b"", b"PK\x03\x04", whole[: len(whole) // 2]):
            states.write_bytes(damaged)
            classifier._examples = None
            assert classifier.explain(TEXTS[:1])[0] == explained and states.read_bytes() == whole
        np.save(states, np.load(states)[:1])  # of other examples
        classifier._examples = None
        assert classifier.explain(TEXTS[:1])[0] == explained
        assert not classifier.predict([]) and not classifier.explain([])
        with pytest.raises(InputError, match="Leave them out"):
            classifier.predict(["fine", " "])
        with pytest.raises(InputError, match="Put it in a list"):
            classifier.predict("one text")
    prompts = [classification_prompt(card.task, text, PromptFormat()) for text in TEXTS]
    scores = narrow_reference.score(prompts, card.task.label_words, narrow_adapters[0])
    expected = np.exp(scores.astype(np.float64) - np.asarray(prior.log_prior))
    expected /= expected.sum(axis=1, keepdims=True)
    for prediction, row in zip(predictions, expected, strict=True):
        assert list(prediction.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-3)
        assert prediction.label == card.task.label_names[int(row.argmax())]
        assert prediction.label and prediction.probability == prediction.probabilities[prediction.label]
    near = explained.nearest[0]
    assert (near.text, near.label, near.kind) == (TEXTS[0], "billing", "shot"), (
        "nothing is more like a text than itself"
    )
    assert near.similarity == pytest.approx(1.0, abs=0.02) and len(explained.nearest) == 3
    assert list(explained.wordings) == ["task", "bare", "answer"]
    assert explained.wordings["task"].label == predictions[0].label


@pytest.mark.parametrize(("wording", "chat"), [("task", None), ("bare", None), ("bare", CHAT)])
def test_it_asks_in_the_form_of_the_card(
    tmp_path: Path,
    card: AdapterCard,
    narrow_adapters: tuple[Adapter, Adapter],
    narrow_reference: Engine,
    monkeypatch: pytest.MonkeyPatch,
    wording: Wording,
    chat: ChatTurns | None,
) -> None:
    """With the session's engine in place of its own, whose prompts are written down."""
    form, scored_prompts = PromptFormat(wording=wording, chat=chat), list[str]()
    card = msgspec.structs.replace(card, wording=wording, chat=chat, prompt_version=form.version)

    class Overheard:
        def score(
            self, prompts: Sequence[str], labels: Sequence[str], adapter: Adapter, verbalizer: Verbalizer
        ) -> np.ndarray:
            scored_prompts.extend(prompts)
            return narrow_reference.score(prompts, labels, adapter, verbalizer)

    monkeypatch.setattr("fourshot.serving.clients.local.open_engine", lambda settings: Overheard())
    predictions = LocalClassifier(write_adapter(tmp_path / "adapter", card, narrow_adapters[0])).predict(TEXTS)
    examples = [Example(text=text, label=card.task.label_names[0]) for text in TEXTS]
    trained_on = classification_examples(card.task, examples, form)
    assert scored_prompts == [example.prompt for example in trained_on]
    assert len(predictions) == len(TEXTS)


def test_another_base_model_is_refused(tmp_path: Path, card: AdapterCard) -> None:
    folder = write_adapter(tmp_path / "adapter", msgspec.structs.replace(card, model_revision="f00"))
    with pytest.raises(AdapterError, match="revision f00"):
        LocalClassifier(folder)


def test_prompts_of_another_version_are_refused(tmp_path: Path, card: AdapterCard) -> None:
    folder = write_adapter(tmp_path / "adapter", msgspec.structs.replace(card, prompt_version="0"))
    with pytest.raises(AdapterError, match="prompts of version 0"):
        LocalClassifier(folder)
    mixed = write_adapter(
        tmp_path / "mixed", msgspec.structs.replace(card, chat=CHAT)
    )  # plain text's version, on chat prompts
    with pytest.raises(AdapterError, match="renders version 1-chat"):
        LocalClassifier(mixed)


def test_a_run_folder_stands_for_its_adapter_that_saw_synthetic_texts(tmp_path: Path, card: AdapterCard) -> None:
    write_adapter(tmp_path / "adapters" / "a" / "on-shots", msgspec.structs.replace(card, synthetic_examples=0))
    with_synthetic = write_adapter(tmp_path / "adapters" / "b" / "with-synthetic", card)
    assert find_adapter(tmp_path) == find_adapter(with_synthetic) == with_synthetic
    write_adapter(tmp_path / "adapters" / "c" / "another-seed", card)
    with pytest.raises(InputError, match="holds 3 adapters") as error:
        find_adapter(tmp_path)
    assert "with-synthetic (20 real and 10 synthetic texts" in str(error.value)


def test_an_annotator_of_a_run_is_no_classifier_and_the_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    annotator = tmp_path / "adapters" / "job" / "one"
    annotator.mkdir(parents=True)
    (annotator / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=f"is a part of the run in {tmp_path}, and cannot be used by itself"):
        find_adapter(annotator)


def test_a_folder_without_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no adapter"):
        find_adapter(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        find_adapter(tmp_path / "nowhere")


def test_objects_of_fields_are_answered_as_the_lines_of_a_prompt(
    tmp_path: Path, card: AdapterCard, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the fake engine in place of its own: what is asked and said counts here."""
    folder = write_adapter(tmp_path / "adapter", msgspec.structs.replace(card, task=load_task("rte")))
    monkeypatch.setattr("fourshot.serving.clients.local.open_engine", FakeEngine)
    pair = {"premise": "Ann sold her car.", "hypothesis": "Is Ann rich? no."}
    with LocalClassifier(folder) as classifier:
        of_fields, of_lines = classifier.predict([pair, "Premise: Ann sold her car.\nHypothesis: Is Ann rich? no."])
        assert of_fields == of_lines and of_fields.label == "not_entailment"
        with pytest.raises(InputError, match="The input at 1: the field 'premise' is missing"):
            classifier.predict([pair, {"hypothesis": "x"}])
    assert cli.main(["predict", "--json", str(folder), json.dumps(pair)]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert next(line for line in events if line["type"] == "prediction")["text"] == pair
    assert cli.main(["predict", str(folder), "Ann sold her car."]) == 2
    assert "is an object with the fields premise, hypothesis" in capfd.readouterr().err


def test_what_an_explanation_is_at_is_told_on_standard_error(
    tmp_path: Path,
    card: AdapterCard,
    narrow_adapters: tuple[Adapter, Adapter],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("fourshot.serving.clients.explain.home", lambda: tmp_path / "home")
    card = msgspec.structs.replace(card, shots=(Example(text=TEXTS[0], label="bug"),))
    folder = write_adapter(tmp_path / "adapter", card, narrow_adapters[0])
    assert cli.main(["predict", str(folder), TEXTS[0], "--explain"]) == 0
    told = capfd.readouterr()
    assert told.err.splitlines()[:2] == ["explain: opening the model", "explain: training texts  1/1 texts"]
    assert cli.main(["predict", str(folder), TEXTS[0], "--explain", "--quiet"]) == 0
    quiet = capfd.readouterr()
    assert "explain" not in quiet.err and quiet.out == told.out


def test_nothing_to_classify_is_bad_input(tmp_path: Path, card: AdapterCard, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_adapter(tmp_path / "adapter", card)
    assert cli.main(["predict", str(folder), "  "]) == 2
    assert "all texts are blank" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["Who wrote the Bible ?"] * 200, "transformers"),
        (["Who wrote the Bible ?"] * 300, "vllm"),
        (["a mail of some length " * 60] * 15, "transformers"),
        (["a mail of some length " * 60] * 40, "vllm"),
        (["\u8ab0\u304c\u8056\u66f8" * 60] * 60, "vllm"),  # no blank, and no less work for that
        (["one long text, cut as in training " * 50_000], "transformers"),
        (["half of a pair \ud83d"], "transformers"),
    ],
)
def test_the_engine_that_is_done_first_follows_from_the_amount_of_text(texts: list[str], kind: str) -> None:
    assert engine_for(texts) == kind
