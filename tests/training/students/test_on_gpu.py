"""Students are trained where torch computes. Torch's device without memory, "meta", stands in for a GPU."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BertConfig, BertForSequenceClassification, masking_utils

from fourshot.training.students import seq2seq, train
from fourshot.training.students.encoders import last_linear
from fourshot.training.students.examples import TaughtExample
from fourshot.training.students.heads import cross_entropy
from fourshot.training.students.seq2seq import Seq2SeqJob, Seq2SeqWriter, TaughtText, train_seq2seq
from fourshot.training.students.settings import StudentSettings, TextStudentSettings
from tests.training.students.small_seq2seq import write_bart, write_t5

TAUGHT = [TaughtExample(text=f"rome is in x {number}", probabilities=(0.9, 0.1)) for number in range(4)]


@pytest.fixture(autouse=True)
def _looks_at_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without memory cannot be asked whether there is nothing to be masked."""
    for name in ("_ignore_bidirectional_mask_sdpa", "_ignore_causal_mask_sdpa"):
        monkeypatch.setattr(masking_utils, name, lambda *_, **__: False)


@pytest.mark.parametrize("strategy", ["geometric", "plain"])
def test_all_that_a_classifier_learns_from_is_on_the_gpu(tmp_path: Path, strategy: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_bart(tmp_path))
    settings = StudentSettings(strategy=strategy, max_tokens=16)  # type: ignore[arg-type]
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=2, **shape)
    model = BertForSequenceClassification(config).to("meta")
    training = train._Training(model, tokenizer, TAUGHT, TAUGHT[:2], settings, 0)
    loss = training._loss([0, 1, 2])
    loss.backward()
    vectors = training._outputs(training._held_texts, lambda logits: training._vectors)
    vector_loss = cross_entropy(last_linear(model)(vectors), training._held)
    assert {loss.device.type, vectors.device.type, vector_loss.device.type} == {"meta"}


@pytest.mark.parametrize("write", [write_bart, write_t5])
def test_all_that_a_student_that_writes_learns_from_is_on_the_gpu(tmp_path: Path, write: object) -> None:
    folder = write(tmp_path)  # type: ignore[operator]
    examples = (TaughtText(text="rome in x", target="rome is in x ."), TaughtText(text="oslo", target="oslo is ."))
    job = Seq2SeqJob(name="s", title="", model="", model_revision="", examples=examples, settings=TextStudentSettings())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).to("meta")
    loss = seq2seq._Training(model, tokenizer, job, set())._loss([0, 1])
    loss.backward()
    assert loss.device.type == "meta"


def test_where_torch_computes_is_where_they_are_trained_and_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices, places = list[str](), list[str]()

    def device() -> str:
        devices.append("cuda")
        return "cuda"

    def to(module: torch.nn.Module, place: str) -> torch.nn.Module:
        places.append(place)
        return module

    monkeypatch.setattr(seq2seq, "torch_device", device)
    monkeypatch.setattr(torch.nn.Module, "to", to)
    examples = tuple(TaughtText(text=f"{name} in x", target=f"{name} .") for name in ("rome", "oslo"))
    folder = str(write_bart(tmp_path / "model"))
    job = Seq2SeqJob(
        name="s",
        title="",
        model=folder,
        model_revision="",
        examples=examples,
        settings=TextStudentSettings(num_epochs=1),
    )
    trained = train_seq2seq(job, tmp_path / "store")
    assert places == ["cuda"] and trained.steps == 1
    assert len(Seq2SeqWriter(trained.path).write(["rome in x"])) == 1
    assert places == devices == ["cuda", "cuda"]
