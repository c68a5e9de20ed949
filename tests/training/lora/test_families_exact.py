"""Packed rows give every family what it gets in rows of its own: windows, positions, output layers, biases."""

import pytest
import torch

from fourshot.training.lora.precision import Precision
from fourshot.training.lora.targets import projections
from fourshot.training.lora.train import LoraTrainer
from tests.engine.tiny_models import FAMILIES, tiny_checkpoint
from tests.training import notes
from tests.training.lora.test_packing import LONG_WORDS, adapted, one_by_one, packed

WINDOWED = ("mistral", "gemma3", "phi3")


@pytest.fixture(scope="module", params=FAMILIES)
def trainer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoraTrainer:
    patch = pytest.MonkeyPatch()
    patch.setattr("fourshot.training.lora.train.choose_precision", lambda *_: Precision(base="float32"))
    changes = {"sliding_window": 16} if request.param in WINDOWED else {}  # less than a prompt
    exact = LoraTrainer(tiny_checkpoint(request.param, tmp_path_factory.mktemp("model"), **changes))
    patch.undo()
    return exact


@pytest.mark.parametrize("words", [notes.WORDS, LONG_WORDS], ids=["one token", "several tokens"])
def test_loss_and_gradients_are_those_of_rows_of_their_own(trainer: LoraTrainer, words: tuple[str, ...]) -> None:
    examples = notes.examples(notes.WARM[:2], notes.COLD[:2])
    wrapped = adapted(trainer, projections(trainer.model_path))
    try:
        expected, of_own = one_by_one(trainer, wrapped, examples, words, False)
        loss, of_packed = packed(trainer, wrapped, examples, words, False)
    finally:
        wrapped.unload()
    assert loss == pytest.approx(expected, rel=1e-4)
    assert of_own.norm() > 0
    assert (of_packed - of_own).norm() < 1e-3 * of_own.norm()


def test_logits_may_be_capped_and_scaled() -> None:
    from types import SimpleNamespace

    from fourshot.training.lora.output_layer import OutputLayer

    layer, hidden, tokens = torch.nn.Linear(4, 6), torch.randn(3, 4), torch.tensor([1, 4])
    config = SimpleNamespace(final_logit_softcapping=2.0, logits_scaling=4.0)
    config.get_text_config = lambda: config
    model = SimpleNamespace(get_output_embeddings=lambda: layer, config=config)
    expected = torch.tanh(layer(hidden) / 4.0 / 2.0) * 2.0
    torch.testing.assert_close(OutputLayer(model)(hidden), expected)
    torch.testing.assert_close(OutputLayer(model)(hidden, tokens), expected[:, tokens])
