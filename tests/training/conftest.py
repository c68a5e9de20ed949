import pytest

from fourshot.training.lora.train import LoraTrainer


@pytest.fixture(scope="session")
def trainer(model: str) -> LoraTrainer:
    """A trainer of the embedded model, loaded once per session, for tests that depend on trained weights."""
    return LoraTrainer(model)


@pytest.fixture(scope="session")
def tiny_trainer(tiny_model: str) -> LoraTrainer:
    """A trainer of two narrow random layers with the embedded model's tokenizer, for all other tests."""
    return LoraTrainer(tiny_model)


@pytest.fixture(scope="session")
def decided_trainer(decided_model: str) -> LoraTrainer:
    """A trainer of two narrow random layers that can learn, with losses and gradients as large as a trained base's."""
    return LoraTrainer(decided_model)
