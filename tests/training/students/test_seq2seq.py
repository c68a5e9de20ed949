"""Sequence-to-sequence students: small random models of the real classes, trained, saved and loaded by transformers."""

import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSeq2SeqLM, BartConfig, T5Config

from fourshot.engine.errors import InputError, ModelNotFoundError
from fourshot.training.students.seq2seq import (
    Seq2SeqJob,
    Seq2SeqWriter,
    TaughtText,
    finished_seq2seq,
    train_seq2seq,
)
from fourshot.training.students.settings import TextStudentSettings
from fourshot.training.students.text_models import resolve_text_model
from tests.training.students.small_seq2seq import write_bart, write_t5

CITIES = ("rome", "oslo", "bonn", "nice")
EXAMPLES = tuple(TaughtText(text=f"{city} in x", target="x has x", is_real=True) for city in CITIES)
SETTINGS = TextStudentSettings(num_epochs=12, learning_rate=0.02, max_target_tokens=8)


def job(folder: Path, **changes: Any) -> Seq2SeqJob:
    fields: dict[str, Any] = {"examples": EXAMPLES, "settings": SETTINGS} | changes
    return Seq2SeqJob(name="facts", title="facts", model=str(folder), model_revision="1", **fields)


@pytest.mark.parametrize("write", [write_bart, write_t5], ids=["bart", "t5"])
def test_a_student_learns_to_write_and_is_loaded_by_transformers(write: Any, tmp_path: Path) -> None:
    brief = job(write(tmp_path / "base"))
    result = train_seq2seq(brief, tmp_path / "store")
    assert finished_seq2seq(tmp_path / "store", brief) == result
    assert result.losses[-1] < result.losses[0] / 3
    assert Seq2SeqWriter(result.path).write(["nice in x", "rome in"]) == [("x has x", True, 4)] * 2
    loaded = AutoModelForSeq2SeqLM.from_pretrained(result.path)
    assert loaded.generation_config.max_new_tokens == 8
    assert sum(parameter.numel() for parameter in loaded.parameters()) == result.parameters


@pytest.mark.parametrize("write", [write_bart, write_t5], ids=["bart", "t5"])
def test_a_pair_counts_the_same_however_long_its_target_is(write: Any, tmp_path: Path) -> None:
    base = write(tmp_path / "base")
    settings = TextStudentSettings(num_epochs=1, learning_rate=1e-4, batch_size=4)
    pairs = TaughtText(text="rome in x", target="x"), TaughtText(text="oslo", target="x has x is | . " * 5)

    def first_loss(*examples: TaughtText) -> float:
        return train_seq2seq(job(base, examples=examples, settings=settings), tmp_path / "store").losses[0]

    short, long = map(first_loss, pairs)
    assert abs(short - long) > 0.01
    assert first_loss(*pairs) == pytest.approx((short + long) / 2, rel=1e-5)


@pytest.mark.parametrize("write", [write_bart, write_t5], ids=["bart", "t5"])
def test_a_target_that_is_cut_does_not_end_there(write: Any, tmp_path: Path) -> None:
    examples = [TaughtText(text=example.text, target="x has is | . in x has is | .") for example in EXAMPLES]
    settings = TextStudentSettings(num_epochs=30, learning_rate=0.02, max_target_tokens=8)
    result = train_seq2seq(job(write(tmp_path / "base"), examples=tuple(examples), settings=settings), tmp_path)
    assert Seq2SeqWriter(result.path).write(["nice in x"]) == [("x has is | . in x has", False, 8)]


def test_a_student_that_learnt_by_another_loss_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of earlier builds did: they are trained again."""
    key = job(tmp_path).key
    monkeypatch.setattr("fourshot.training.students.seq2seq.LOSS", "mean of tokens")
    assert job(tmp_path).key != key


@pytest.mark.parametrize("write", [write_bart, write_t5], ids=["bart", "t5"])
def test_how_its_base_writes_is_not_how_a_student_does(write: Any, tmp_path: Path) -> None:
    """BART's checkpoints for summaries say how long one is at least, what may not recur, and put its end anywhere."""
    base = write(tmp_path / "base")
    config = AutoModelForSeq2SeqLM.from_pretrained(base).generation_config
    end = config.eos_token_id
    config.update(min_length=7, no_repeat_ngram_size=1, forced_eos_token_id=end, eos_token_id=[end], num_beams=4)
    config.save_pretrained(base)
    result = train_seq2seq(job(base), tmp_path / "store")
    earlier = tmp_path / "earlier"  # as before, whose students kept what their base says
    shutil.copytree(result.path, earlier)
    config.update(max_new_tokens=8)
    config.save_pretrained(earlier)
    for folder in (result.path, earlier):
        writer = Seq2SeqWriter(folder)
        assert writer.write(["nice in x"]) == [("x has x", True, 4)]
        assert writer.write(["nice in x"], max_tokens=2) == [("x has", False, 2)]


def test_one_that_counts_tokens_and_one_that_writes_do_not_meet_in_the_tokenizer(tmp_path: Path) -> None:
    """How it pads and cuts is the tokenizer's state: a service counts in one thread and writes in another."""
    writer = Seq2SeqWriter(train_seq2seq(job(write_bart(tmp_path / "base")), tmp_path / "store").path)
    tokenizer, inside, most = writer._tokenizer, Counter[str](), Counter[str]()

    class Watched:
        def __call__(self, *args: Any, **options: Any) -> Any:
            inside["calls"] += 1
            most["calls"] = max(most["calls"], inside["calls"])
            try:
                time.sleep(0.01)
                return tokenizer(*args, **options)
            finally:
                inside["calls"] -= 1

        def decode(self, *args: Any, **options: Any) -> Any:
            return tokenizer.decode(*args, **options)

    writer._tokenizer = Watched()
    with ThreadPoolExecutor(4) as threads:
        counted = [threads.submit(writer.encode, ["rome in x", "rome"]) for _ in range(8)]
        written = [threads.submit(writer.write, ["nice in x", "rome in"]) for _ in range(2)]
        assert [[len(row) for row in done.result()] for done in counted] == [[4, 2]] * 8
        assert [done.result() for done in written] == [[("x has x", True, 4)] * 2] * 2
    assert most["calls"] == 1


def test_the_epoch_that_does_best_on_held_out_texts_is_kept(tmp_path: Path) -> None:
    taught = tuple(TaughtText(text=example.text, target="has has | |") for example in EXAMPLES)
    settings = TextStudentSettings(num_epochs=20, learning_rate=0.1, held_out=0.25, max_target_tokens=8)
    steps: list[int] = []
    brief = job(write_bart(tmp_path / "base"), examples=EXAMPLES + taught, settings=settings)
    result = train_seq2seq(brief, tmp_path / "store", lambda step, planned, loss: steps.append(step))
    assert result.held_out == 1 and len(result.held_out_losses) < 20  # it stops where it no longer gains
    assert steps == list(range(1, result.steps + 1))


def test_what_a_model_is_follows_from_its_checkpoint(tmp_path: Path) -> None:
    assert resolve_text_model(str(write_t5(tmp_path / "t5"))).kind == "seq2seq"
    BartConfig(architectures=["BartForSequenceClassification"], is_encoder_decoder=False).save_pretrained(
        tmp_path / "e"
    )
    with pytest.raises(ModelNotFoundError, match="does not generate texts"):
        resolve_text_model(str(tmp_path / "e"))
    T5Config(architectures=["T5ForConditionalGeneration"]).save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelNotFoundError, match=r"no weights .* no tokenizer"):
        resolve_text_model(str(tmp_path / "bare"))
    with pytest.raises(ModelNotFoundError, match=r"There is no model folder './nowhere'"):
        resolve_text_model("./nowhere")


def test_nothing_to_learn_and_settings_without_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to train a student on"):
        train_seq2seq(job(tmp_path, examples=()), tmp_path / "store")
    with pytest.raises(InputError, match=r"held_out from 0 to 0.5"):
        TextStudentSettings(held_out=0.9)
