"""An adapter must answer in vLLM as it did in training: one that is silently not applied looks like a bad one."""

from pathlib import Path

import numpy as np
import pytest

from fourshot.engine.calibration import normalise
from fourshot.engine.core import Adapter, Engine, Verbalizer
from fourshot.engine.errors import AdapterError
from fourshot.engine.probe import check_probe
from fourshot.training.lora.examples import TrainingResult
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes


@pytest.fixture(scope="module")
def result(trainer: LoraTrainer, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    folder = tmp_path_factory.mktemp("trained")
    return trainer.train(notes.examples(), notes.WORDS, LoraSettings(max_steps=20), folder)


@pytest.fixture(scope="module")
def trained(result: TrainingResult) -> Adapter:
    return result.adapter


def trainers_own(trainer: LoraTrainer, adapter: Adapter, texts: tuple[str, ...]) -> np.ndarray:
    """Label probabilities [num_texts, 2] by the trainer's copy of the base with the adapter loaded from its folder."""
    import torch
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(trainer._base, adapter.path).eval()
    words = [trainer.tokenizer(notes.prompt("") + f" {word}")["input_ids"][-1] for word in notes.WORDS]
    try:
        with torch.no_grad():
            logits = [
                wrapped(input_ids=torch.tensor([trainer.tokenizer(notes.prompt(text))["input_ids"]])).logits[0, -1]
                for text in texts
            ]
    finally:
        wrapped.unload()
    return torch.stack(logits)[:, words].float().softmax(dim=1).numpy()


def test_vllm_answers_with_the_probabilities_of_the_trainer(
    trainer: LoraTrainer, trained: Adapter, vllm_engine: Engine
) -> None:
    """Within 0.05: both compute in bfloat16, in another order."""
    prompts = [notes.prompt(text) for text in notes.UNSEEN]
    served = normalise(vllm_engine.score(prompts, notes.WORDS, trained))
    unadapted = normalise(vllm_engine.score(prompts, notes.WORDS))
    expected = trainers_own(trainer, trained, notes.UNSEEN)
    assert np.abs(served - expected).max() < 0.05
    assert np.abs(served - unadapted).max() > 0.2  # the adapter does something that can be missed


def test_what_was_learnt_is_what_is_served(trained: Adapter, vllm_engine: Engine) -> None:
    examples = notes.examples()
    answers = vllm_engine.score([example.prompt for example in examples], notes.WORDS, trained).argmax(axis=1)
    assert answers.tolist() == [example.target for example in examples]


def test_the_probe_passes_the_adapter_it_was_made_for_and_no_other(
    result: TrainingResult, trained: Adapter, adapters: tuple[Adapter, Adapter], vllm_engine: Engine
) -> None:
    assert result.probe and len(result.probe.prompts) == len(notes.examples())
    probed = check_probe(vllm_engine, trained, result.probe)
    assert probed.difference < 0.05 and probed.texts == len(notes.examples())
    with pytest.raises(AdapterError, match=r"random-0 does not predict as it did in training.*in training.*served"):
        check_probe(vllm_engine, adapters[0], result.probe)


def test_an_adapter_of_the_upper_layers_is_served_as_it_was_trained(
    trainer: LoraTrainer, vllm_engine: Engine, tmp_path: Path
) -> None:
    settings = LoraSettings(max_steps=6, adapted_layers=0.4)
    result = trainer.train(notes.examples(), notes.WORDS, settings, tmp_path)
    assert result.probe and check_probe(vllm_engine, result.adapter, result.probe).difference < 0.05
    prompts = [notes.prompt(text) for text in notes.UNSEEN]
    served, unadapted = (normalise(vllm_engine.score(prompts, notes.WORDS, a)) for a in (result.adapter, None))
    assert np.abs(served - unadapted).max() > 0.1


@pytest.mark.parametrize(
    ("words", "verbalizer"),
    [
        (("warm", "cold"), "word"),
        (("very warm", "very cold indeed"), "word"),
        (("very warm", "very cold indeed"), "token"),
    ],
    ids=["one token", "several", "one of several"],
)
def test_the_trainer_scores_labels_as_the_engine_does(
    trainer: LoraTrainer, vllm_engine: Engine, words: tuple[str, ...], verbalizer: Verbalizer, tmp_path: Path
) -> None:
    settings = LoraSettings(max_steps=3, min_steps=3)
    result = trainer.train(notes.examples(), words, settings, tmp_path, verbalizer=verbalizer)
    assert result.probe and result.probe.verbalizer == verbalizer
    adapter = result.adapter
    served = normalise(vllm_engine.score(list(result.probe.prompts), words, adapter, verbalizer))
    assert np.abs(served - np.array(result.probe.probabilities)).max() < 0.05
    assert np.allclose(np.array(result.probe.probabilities).sum(axis=1), 1, atol=1e-4)
