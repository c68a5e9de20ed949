"""A service and a classifier leave texts without a label where they are asked to, by what the adapter's card says."""

import asyncio
import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pyarrow
import pytest
from prometheus_client import CollectorRegistry

from fourshot.cli import main as cli
from fourshot.engine.calibration import Calibration
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import InputError
from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.selective import Refusing, Scope, coverage_curve
from fourshot.pipeline.task import Example, Label, Task
from fourshot.serving.answers import RefusalError
from fourshot.serving.api import ClassifyRequest, ClassifyResponse
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.service import Service
from fourshot.serving.clients.calls import classify_call
from fourshot.serving.clients.local import LocalClassifier
from fourshot.serving.models.base_model import ModelVersion
from fourshot.serving.models.registry import StoredAdapter
from fourshot.serving.models.scorer import ScoredText
from fourshot.serving.settings import Limits
from fourshot.serving.testing.adapters import task_of
from fourshot.training.lora.settings import LoraSettings

SAID = {"sure": (0.8, 0.1), "unsure": (0.5, 0.3), "strange": (0.5, 0.4)}  # probability of each label
TEXTS = list(SAID)
CARD = AdapterCard(
    name="tone-0123",
    task=task_of("tone"),
    model_name="base",
    model_revision="abc",
    calibration=Calibration(temperature=2.0),
    coverage=coverage_curve([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0], "test split"),
    scope=Scope(least_probability=0.55, false_rejects=0.05, num_texts=100, false_accepts=0.2, num_others=40),
    training=LoraSettings(),
    shots=(Example(text="so good", label="good-label"),),
    real_examples=8,
    synthetic_examples=20,
    steps=1,
    train_tokens=1,
    train_s=1.0,
)
EXPECTED: list[tuple[Refusing, list[str]]] = [
    ({}, ["", "", ""]),
    # Odds of 8, 1.67 and 1.25 are those of their roots at a temperature of 2: 0.74, 0.56 and 0.53.
    ({"abstain_below": 0.55}, ["", "", "unsure"]),
    ({"abstain_below": 0.73}, ["", "unsure", "unsure"]),
    ({"abstain_below": 0.75}, ["unsure", "unsure", "unsure"]),
    ({"coverage": 0.75}, ["", "unsure", "unsure"]),  # from 0.7 on
    ({"coverage": 1.0}, ["", "", ""]),
    ({"none_of_these": True}, ["", "", "none_of_these"]),
    ({"none_of_these": True, "abstain_below": 0.6}, ["", "unsure", "none_of_these"]),
]


def logprobs(text: str) -> tuple[float, ...]:
    return tuple(np.log(SAID[text]))


NONE_CARD = msgspec.structs.replace(  # each name of a class is one that something else might be called
    CARD,
    task=Task(
        name="tone",
        instruction="Is it about none?",
        noun="text",
        labels=(Label(name="none", word="none"), Label(name="unsure", word="unsure")),
    ),
    shots=(Example(text="so good", label="none"),),
)


class FakeScorer:
    def work_tokens(self, *_: Any) -> int:
        return 9

    async def score_all(self, prompts: list[str], *_: Any) -> list[ScoredText]:
        return [
            ScoredText(
                logprobs=logprobs(text), prompt_tokens=9, cached_tokens=0, completion_tokens=1, queue_s=0.0, model_s=0.1
            )
            for text in prompts
        ]


def classify(
    monkeypatch: pytest.MonkeyPatch, card: AdapterCard, registry: CollectorRegistry | None = None, **fields: Any
) -> ClassifyResponse:
    """What a service with this card answers."""
    monkeypatch.setattr("fourshot.serving.models.base_model.encode_prompts", lambda tokenizer, prompts: prompts)
    monkeypatch.setattr("fourshot.serving.models.base_model.check_lengths", lambda *_: None)
    model: Any = SimpleNamespace(
        tokenizer=None,
        scorer=FakeScorer(),
        dispatcher=SimpleNamespace(check=lambda *_: None),
        settings=EngineSettings(model="fake"),
    )
    stored = StoredAdapter(card=card, folder=Path(), written_at=0.0, signature=())
    labels: Any = dict.fromkeys(("adapter", "icl"), SimpleNamespace(longest=1))
    version: Any = ModelVersion(model, stored, labels, SimpleNamespace(lora_name=card.name), None)
    version.prompts = lambda text, method: [text]
    adapters: Any = SimpleNamespace(current={"tone": [version]})
    service = Service(
        base_name="base", adapters=adapters, limits=Limits(), metrics=Metrics(registry or CollectorRegistry())
    )
    return asyncio.run(service.classify("tone", msgspec.json.encode({"input": TEXTS, **fields})))


class FakeEngine:
    def __init__(self, settings: EngineSettings) -> None:
        pass

    def score(self, prompts: list[str], *_: Any) -> np.ndarray:
        texts = [next(text for text in SAID if f"Text: {text}\n" in prompt) for prompt in prompts]
        return np.array([logprobs(text) for text in texts], dtype=np.float32)

    def close(self) -> None:
        pass


@pytest.fixture
def classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalClassifier:
    (tmp_path / "card.json").write_bytes(msgspec.json.encode(CARD))
    base = SimpleNamespace(path="", name="base", revision="abc")
    monkeypatch.setattr("fourshot.serving.clients.local.base_of", lambda *_: base)
    monkeypatch.setattr("fourshot.serving.clients.local.open_engine", FakeEngine)
    return LocalClassifier(tmp_path)


@pytest.mark.parametrize(("refusing", "expected"), EXPECTED)
def test_both_ways_of_asking_leave_the_same_texts_without_a_label(
    monkeypatch: pytest.MonkeyPatch, classifier: LocalClassifier, refusing: Refusing, expected: list[str]
) -> None:
    answered, predicted = classify(monkeypatch, CARD, **refusing).results, classifier.predict(TEXTS, **refusing)
    for answer, prediction, reason in zip(answered, predicted, expected, strict=True):
        assert answer.label == prediction.label == (None if reason else "good-label")
        assert answer.abstained == prediction.abstained == reason
        assert answer.probability == pytest.approx(prediction.probability, abs=1e-6)
        assert list(answer.probabilities.values()) == pytest.approx(list(prediction.probabilities.values()), abs=1e-6)
    assert answered[0].probability == pytest.approx(8**0.5 / (1 + 8**0.5)), "the card's temperature is applied"


def test_what_a_card_does_not_have_is_refused_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, classifier: LocalClassifier
) -> None:
    bare = msgspec.structs.replace(CARD, coverage=None, scope=None)
    for fields in ({"coverage": 0.5}, {"none_of_these": True}, {"coverage": 0.5, "abstain_below": 0.5}):
        with pytest.raises(RefusalError) as refused:
            classify(monkeypatch, bare, **fields)
        assert (refused.value.code, refused.value.kind) == (400, "cannot_abstain")
    classifier.card = bare
    with pytest.raises(InputError, match=r"The classifier tone-0123: its card has no curve .*abstain_below"):
        classifier.predict(TEXTS, coverage=0.5)
    assert classify(monkeypatch, bare, abstain_below=0.6).results[1].label is None


@pytest.mark.parametrize("fields", [{"abstain_below": 2}, {"coverage": 0}, {"coverage": "all"}, {"none_of_these": 1}])
def test_values_out_of_range_are_bad_requests(monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]) -> None:
    with pytest.raises(RefusalError) as refused:
        classify(monkeypatch, CARD, **fields)
    assert (refused.value.code, refused.value.kind) == (400, "bad_request")


def test_who_asks_for_nothing_new_sends_and_gets_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    assert classify_call("tone", "so good", None).body == b'{"input":"so good"}', "servers of before know no more"
    answer = msgspec.to_builtins(classify(monkeypatch, CARD))["results"][0]
    assert list(answer) == [
        *("label", "probability", "probabilities", "prompt_tokens", "cached_tokens", "queue_ms", "model_ms")
    ]
    assert msgspec.json.decode(classify_call("tone", "x", "icl").body, type=ClassifyRequest).method == "icl"


@pytest.mark.usefixtures("classifier")
def test_the_command_leaves_a_label_that_is_none_empty_and_counts_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(tmp_path), *TEXTS, "--none-of-these", "--abstain-below", "0.6"]
    assert cli.main(words) == 0
    out, err = capfd.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == ["good-label", "", ""], "any word may be a class"
    assert err == "fourshot: 2 of 3 texts have no label: 1 too unsure, 1 unlike the task's texts\n"
    assert cli.main([*words, "--json"]) == 0
    lines = [msgspec.json.decode(line) for line in capfd.readouterr().out.splitlines()]
    assert [line.get("abstained") for line in lines[:3]] == [None, "unsure", "none_of_these"]
    assert [line["label"] for line in lines[:3]] == ["good-label", None, None]
    assert lines[3]["abstained"] == {"unsure": 1, "none_of_these": 1}


@pytest.mark.usefixtures("classifier")
def test_a_class_called_none_or_unsure_is_told_from_a_text_without_a_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    registry = CollectorRegistry()
    results = classify(monkeypatch, NONE_CARD, registry, abstain_below=0.55).results
    assert [(result.label, result.abstained) for result in results] == [("none", ""), ("none", ""), (None, "unsure")]
    asked = {"task": "tone", "method": "adapter"}
    assert registry.get_sample_value("fourshot_labels_total", {**asked, "label": "none"}) == 2
    assert registry.get_sample_value("fourshot_labels_total", {**asked, "label": "unsure"}) is None
    assert registry.get_sample_value("fourshot_abstained_total", {**asked, "reason": "unsure"}) == 1

    (tmp_path / "card.json").write_bytes(msgspec.json.encode(NONE_CARD))
    words = ["predict", str(tmp_path), *TEXTS, "--abstain-below", "0.55"]
    assert cli.main(words) == 0
    assert [line.split("\t")[0] for line in capfd.readouterr().out.splitlines()] == ["none", "none", ""]
    assert cli.main([*words, "--json"]) == 0
    lines = [msgspec.json.decode(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["label"] for line in lines[:3]] == ["none", "none", None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"abstain_below": "0.5"},
            r"Classifier\.predict: abstain_below is '0\.5', of the type str\. Give a number or None",
        ),
        ({"coverage": True}, r"coverage is True, of the type bool"),
        ({"none_of_these": 1}, r"none_of_these is 1, of the type int\. Give True or False\."),
        ({"abstain_below": float("nan")}, r"abstain_below is nan"),
        ({"abstain": 0.5}, r"unexpected keyword argument 'abstain'\. Did you mean 'abstain_below'\?"),
        ({"texts": "sure"}, r"takes a list of texts, got one string"),
        ({"texts": b"sure"}, r"got bytes\. Decode it, and put it in a list"),
        ({"texts": {"sure"}}, r"got a set, which has no order"),
    ],
)
def test_a_classifier_says_what_it_cannot_be_asked_with(
    classifier: LocalClassifier, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        classifier.predict(**{"texts": TEXTS, **arguments})
    array: Any = np.array(TEXTS)
    number: Any = np.float32(0.0)
    assert classifier.predict(array, abstain_below=number)[0].label == "good-label"
    with pytest.raises(TypeError, match=r"Open one in each process: fourshot\.Classifier"):
        copy.copy(classifier)
    arrow: Any = pyarrow.chunked_array([TEXTS])
    assert classifier.predict(arrow) == classifier.predict(TEXTS)


@pytest.mark.usefixtures("classifier")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--abstain-below", "70"], "0 to 1; got 70"),
        (["--abstain-below", "0.5", "--coverage", "0.5"], "Give one of them"),
        (["--explain", "--engine", "vllm"], "Leave --engine out"),
        (["--explain", "--url", "http://127.0.0.1:1"], "--explain is for an adapter on this machine"),
    ],
)
def test_what_cannot_be_asked_is_bad_input(
    tmp_path: Path, options: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", str(tmp_path), "sure", *options]) == 2
    assert message in capfd.readouterr().err


def test_an_explanation_needs_hidden_states(classifier: LocalClassifier) -> None:
    with pytest.raises(InputError, match="kind='transformers'"):
        classifier.explain(["sure"])
