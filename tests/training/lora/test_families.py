"""Every family answers in vLLM as in transformers, with an adapter of our trainer and without one.

Two narrow layers with random weights: what is compared is how tokens, layers and adapters are put together. Prompts in
context are longer than the sliding windows. One process opens one small engine after another, without compiling.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fourshot.engine.calibration import normalise
from fourshot.engine.core import Adapter, Engine, EngineSettings
from fourshot.engine.opening import open_engine
from fourshot.engine.probe import check_probe
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.train import LoraTrainer
from tests.engine.prompts import IN_CONTEXT, LABELS, LONG_LABELS, ZERO_SHOT
from tests.engine.tiny_models import FAMILIES, tiny_checkpoint
from tests.training import notes

UNSERVED = ("gpt2", "falcon")  # vLLM takes no adapters on these
# bfloat16 in another order: measured up to 0.06 and 0.02 nats.
WORST_NATS, MEAN_NATS = 0.25, 0.08
FEW_STEPS = LoraSettings(min_steps=8, max_steps=8, learning_rate=5e-3, warmup=0.0)


class Opened:
    """A family's checkpoint and its two engines."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family, self.checkpoint = family, tiny_checkpoint(family, folder)
        settings = EngineSettings(
            model=self.checkpoint,
            max_model_len=512,
            max_loras=0 if family in UNSERVED else 1,
            kv_cache_bytes=32 << 20,
            max_num_seqs=16,
            compile=False,
        )
        self.vllm: Engine = open_engine(settings)
        self.reference: Engine = open_engine(
            EngineSettings(model=self.checkpoint, kind="transformers", max_model_len=512)
        )


@pytest.fixture(scope="module", params=FAMILIES)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    one = Opened(request.param, tmp_path_factory.mktemp("model"))
    yield one
    one.vllm.close()
    one.reference.close()


def assert_same(ours: np.ndarray, reference: np.ndarray) -> None:
    difference = np.abs(ours - reference)
    assert difference.max() <= WORST_NATS and difference.mean() <= MEAN_NATS, (difference.max(), difference.mean())


def test_both_engines_agree_and_so_does_an_adapter(opened: Opened, tmp_path: Path) -> None:
    for prompts in (ZERO_SHOT, IN_CONTEXT):
        for labels in (LABELS, LONG_LABELS):
            reference = opened.reference.score(prompts, labels)
            assert_same(opened.vllm.score(prompts, labels), reference)
            assert np.abs(reference[0] - reference).max() > 3 * MEAN_NATS, "answers that all texts share prove nothing"
    if opened.family in UNSERVED:
        return
    trainer = LoraTrainer(opened.checkpoint)
    result = trainer.train(notes.examples(), notes.WORDS, FEW_STEPS, tmp_path)
    adapter = Adapter(name=result.name, path=result.path)
    prompts = [notes.prompt(text) for text in (*notes.WARM, *notes.COLD, *notes.UNSEEN)]
    assert result.probe
    assert check_probe(opened.vllm, adapter, result.probe).difference < 0.05
    base, adapted = (opened.reference.score(prompts, notes.WORDS, one) for one in (None, adapter))
    assert_same(opened.vllm.score(prompts, notes.WORDS, adapter), adapted)
    assert np.abs(adapted - base).mean() > 3 * MEAN_NATS, "an adapter that changes nothing would prove nothing"
    assert np.abs(normalise(adapted) - normalise(base)).max() > 0.2
