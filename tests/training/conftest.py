import pytest

from fourshot.training.lora.train import LoraTrainer


@pytest.fixture(scope="session")
def trainer(model: str) -> LoraTrainer:
    """The embedded model, loaded once for all trainings of the session: for what depends on what is learnt."""
    return LoraTrainer(model)


@pytest.fixture(scope="session")
def tiny_trainer(tiny_model: str) -> LoraTrainer:
    """Two narrow random layers under the embedded model's tokenizer: for all that does not."""
    return LoraTrainer(tiny_model)


@pytest.fixture(scope="session")
def decided_trainer(decided_model: str) -> LoraTrainer:
    """Two narrow random layers that can learn, and whose losses and gradients are as large as a trained base's."""
    return LoraTrainer(decided_model)
