"""Students of encoders of other classes than BERT's: trained, loaded, exported and served as BERT's are."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry

from fourshot.engine.errors import InputError, ModelNotFoundError
from fourshot.engine.machine.files import write_json
from fourshot.pipeline.student_card import STUDENT_FILE, StudentCard, file_hashes
from fourshot.pipeline.task import Label, Task
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.service import Service
from fourshot.serving.models.adapter_sync import AdapterSync
from fourshot.serving.models.registry import Registry, no_base
from fourshot.serving.models.students import Students, queue_of
from fourshot.serving.settings import Limits
from fourshot.training.students.bert import bert_supports
from fourshot.training.students.classifier import StudentClassifier
from fourshot.training.students.encoders import check_max_tokens, resolve_encoder
from fourshot.training.students.examples import StudentJob, StudentResult, TaughtExample
from fourshot.training.students.serving_model import ServingModel
from fourshot.training.students.settings import StudentSettings
from fourshot.training.students.train import train_student
from tests.hub.server import Repository, running_hub
from tests.training.students.tiny_encoders import (
    KINDS,
    MAX_TOKENS,
    SHAPE,
    SPECIAL,
    TEXTS,
    make_encoder,
    save_encoder,
    word_pieces,
)

LABELS = ("animals", "money")
ASKED = [*TEXTS, "x", "N/A", "word " * 500, "Schnee 🐶 " * 60, "</s> <pad> [PAD] [SEP]"]


def train(encoder: Path, store: Path, labels: tuple[str, ...] = LABELS, **changes: Any) -> StudentResult:
    resolved = resolve_encoder(str(encoder))
    taught = [[0.9 if number == index // 4 else 0.1 for number in range(2)] for index in range(len(TEXTS))]
    rest = (0.0,) * (len(labels) - 2)
    examples = [
        TaughtExample(text=text, probabilities=(*said, *rest)) for text, said in zip(TEXTS, taught, strict=True)
    ]
    examples.append(TaughtExample(text="long text " * 200, probabilities=(0.5, 0.5, *rest)))
    settings = StudentSettings(**{"max_tokens": MAX_TOKENS, "num_epochs": 1.0, "min_steps": 2, **changes})
    job = StudentJob(
        name="topics",
        title="",
        encoder=resolved.path,
        encoder_revision=resolved.revision,
        labels=labels,
        examples=tuple(examples),
        settings=settings,
    )
    return train_student(job, store)


@pytest.fixture(scope="module", params=[*KINDS])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StudentResult:
    root = tmp_path_factory.mktemp(request.param)
    return train(make_encoder(request.param, root / "encoder"), root / "students")


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(1).numpy()


def answers(model: ServingModel, texts: list[str]) -> np.ndarray:
    """Probabilities [num_texts, num_labels]."""
    return softmax(model.logits(model.encode(texts)))


def test_a_batch_is_answered_as_each_text_alone_and_long_texts_are_cut(student: StudentResult) -> None:
    folder = Path(student.path)
    assert not bert_supports(folder), "transformers computes it"
    classifier = StudentClassifier(folder, MAX_TOKENS)
    together = classifier.probabilities(ASKED, batch=5)
    alone = np.concatenate([classifier.probabilities([text]) for text in ASKED])
    assert np.abs(together - alone).max() < 1e-5 and together.std(0).min() > 0.01
    served = ServingModel(folder, "", MAX_TOKENS, 2)
    assert np.abs(answers(served, ASKED) - together).max() < 1e-5
    assert max(map(len, served.encode(ASKED))) == MAX_TOKENS
    for text in ("word " * 500, "Schnee 🐶 " * 60):
        read = text[: classifier.read_chars(text)]
        assert len(read) < len(text) / 2 and served.encode([read]) == served.encode([text])


def test_it_is_exported_and_served_in_each_format(student: StudentResult, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from fourshot.training.students.onnx_export import export_onnx

    folder = Path(student.path)
    in_float, int8 = export_onnx(folder, MAX_TOKENS, ASKED)
    assert (in_float.texts, in_float.other_labels) == (len(ASKED), 0) and in_float.largest_difference < 1e-4
    sizes = [(folder / "onnx" / parity.file).stat().st_size for parity in (in_float, int8)]
    assert sizes[1] < sizes[0] and int8.largest_difference < 0.5
    expected = StudentClassifier(folder, MAX_TOKENS).probabilities(ASKED)
    card = StudentCard(
        name=student.name,
        task=Task(name="topics", instruction="", noun="text", labels=tuple(Label(name=n, word=n) for n in LABELS)),
        labels=LABELS,
        encoder="random",
        encoder_revision="0",
        teacher="a committee",
        strategy=student.strategy,
        training=StudentSettings(max_tokens=MAX_TOKENS),
        real_examples=8,
        parameters=student.parameters,
        steps=student.steps,
        train_s=1.0,
        files=file_hashes(folder),
    )
    close_to_float, usable = (in_float,), msgspec.structs.replace(int8, other_labels=0)
    for onnx, most in (((), 1e-5), (close_to_float, 1e-4), ((in_float, usable), 0.5)):
        (folder / STUDENT_FILE).unlink(missing_ok=True)
        write_json(folder / STUDENT_FILE, msgspec.structs.replace(card, onnx=onnx))
        students = Students(tmp_path / str(len(onnx)), queue_of(Limits()))
        sync = AdapterSync(Registry(folder, no_base), students)
        service = Service(base_name="", adapters=sync, limits=Limits(), metrics=Metrics(CollectorRegistry()))
        asyncio.run(sync.refresh())
        assert not sync.refused(), sync.refused()
        answer = asyncio.run(service.classify("topics", json.dumps({"input": ASKED}).encode()))
        served = np.array([[result.probabilities[name] for name in LABELS] for result in answer.results])
        assert np.abs(served - expected).max() < most, len(onnx)
        cut = [text for text, result in zip(ASKED, answer.results, strict=True) if result.cut_words]
        assert cut == ["word " * 500, "Schnee 🐶 " * 60]


@pytest.mark.parametrize("kind", [*KINDS])
def test_no_more_tokens_are_allowed_than_an_encoder_has_positions(kind: str, tmp_path: Path) -> None:
    encoder = resolve_encoder(str(make_encoder(kind, tmp_path)))
    check_max_tokens(encoder, MAX_TOKENS)
    with pytest.raises(InputError, match=f"accepts at most {MAX_TOKENS} tokens"):
        check_max_tokens(encoder, MAX_TOKENS + 1)


def change_json(file: Path, **changes: Any) -> None:
    """None leaves a key out."""
    content = {**json.loads(file.read_bytes()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_positions_that_a_configuration_leaves_out_are_those_of_its_kind(tmp_path: Path) -> None:
    make_encoder("roberta", tmp_path, max_position_embeddings=512)
    change_json(tmp_path / "config.json", max_position_embeddings=None, pad_token_id=None)
    with pytest.raises(InputError, match="accepts at most 510 tokens"):
        check_max_tokens(resolve_encoder(str(tmp_path)), 511)


def test_a_classifier_of_other_labels_becomes_one_of_these(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    make_encoder("roberta", tmp_path / "encoder")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "encoder", num_labels=3).save_pretrained(
        tmp_path / "encoder"
    )
    result = train(tmp_path / "encoder", tmp_path / "students")
    assert StudentClassifier(result.path, MAX_TOKENS).probabilities(ASKED).shape == (len(ASKED), 2)
    change_json(tmp_path / "encoder" / "config.json", max_position_embeddings=MAX_TOKENS)
    with pytest.raises(InputError, match=r"do not fit its config\.json: roberta\.embeddings\.position_embeddings"):
        train(tmp_path / "encoder", tmp_path / "students", max_tokens=MAX_TOKENS - 2)


def test_texts_are_cut_and_padded_at_their_end_whatever_the_tokenizer_says(tmp_path: Path) -> None:
    make_encoder("roberta", tmp_path / "encoder")
    change_json(tmp_path / "encoder" / "tokenizer_config.json", padding_side="left", truncation_side="left")
    result = train(tmp_path / "encoder", tmp_path / "students")
    classifier, served = StudentClassifier(result.path, MAX_TOKENS), ServingModel(Path(result.path), "", MAX_TOKENS, 2)
    together = classifier.probabilities(ASKED)
    alone = np.concatenate([classifier.probabilities([text]) for text in ASKED])
    assert max(np.abs(together - alone).max(), np.abs(together - answers(served, ASKED)).max()) < 1e-5


def test_an_encoder_that_labels_each_token_learns_vectors_of_texts(tmp_path: Path) -> None:
    config: dict[str, Any] = {**SHAPE, "vocab_size": 200, "num_hidden_layers": 1, "max_position_embeddings": MAX_TOKENS}
    config |= {"num_key_value_heads": 2, "pad_token_id": 0, "classifier_pooling": "late"}
    save_encoder(tmp_path / "encoder", "EuroBertForMaskedLM", config, word_pieces(), SPECIAL)
    result = train(tmp_path / "encoder", tmp_path / "students")
    served = ServingModel(Path(result.path), "", MAX_TOKENS, 2)
    assert np.abs(StudentClassifier(result.path, 32).probabilities(ASKED) - answers(served, ASKED)).max() < 1e-5


RESOLVE = """
from pathlib import Path
from fourshot.training.students.encoders import is_read_by_mean, resolve_encoder

folder = Path(resolve_encoder("org/tiny").path)
print(is_read_by_mean(folder), *sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*")))
"""


def test_an_encoder_of_the_hub_is_read_by_the_mean_as_its_folder_is(tmp_path: Path) -> None:
    encoder = make_encoder("roberta", tmp_path / "encoder")
    for name, content in {"1_Pooling/config.json": {"pooling_mode_mean_tokens": True}, "onnx/config.json": {}}.items():
        (encoder / name).parent.mkdir()
        write_json(encoder / name, content)
    files = {str(file.relative_to(encoder)): file.read_bytes() for file in encoder.rglob("*.*")}
    with running_hub() as hub:
        hub.repositories["org/tiny"] = Repository({"main": files})
        done = subprocess.run(
            [sys.executable, "-c", RESOLVE],
            env={**os.environ, **hub.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0"},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", *sorted(files.keys() - {"onnx/config.json"})]


SMALL = {"vocab_size": 200, **SHAPE, "num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("model_class", "config", "message"),
    [
        ("GPT2Model", {"vocab_size": 200, "n_embd": 32, "n_layer": 1, "n_head": 2}, "'gpt2' is not a text encoder"),
        ("LlamaForSequenceClassification", SMALL, "'llama' is not a text encoder"),
        ("T5EncoderModel", {"vocab_size": 200, "d_model": 32, "d_ff": 64, "num_layers": 1}, "not a text encoder"),
        (
            "BartModel",
            {"vocab_size": 200, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1},
            "not an encoder",
        ),
        ("FNetModel", SMALL, "'fnet' treats the padding of a batch"),
        ("ConvBertModel", {**SMALL, "embedding_size": 32, "head_ratio": 1}, "'convbert' treats the padding of a batch"),
    ],
)
def test_models_that_cannot_be_students_are_refused(
    model_class: str, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_encoder(tmp_path, model_class, config, word_pieces(), SPECIAL)
    with pytest.raises(ModelNotFoundError, match=f"{message}.*Leave --student out"):
        resolve_encoder(str(tmp_path))


def test_an_encoder_whose_tokenizer_cannot_batch_texts_is_refused(tmp_path: Path) -> None:
    make_encoder("distilbert", tmp_path)
    resolve_encoder(str(tmp_path))
    change_json(tmp_path / "tokenizer_config.json", pad_token=None)
    with pytest.raises(ModelNotFoundError, match="its tokenizer has no padding token"):
        resolve_encoder(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match="its tokenizer cannot be loaded"):
        resolve_encoder(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()  # transformers would make one that knows no word
    with pytest.raises(ModelNotFoundError, match=r"it has no tokenizer \(tokenizer\.json or"):
        resolve_encoder(str(tmp_path))
