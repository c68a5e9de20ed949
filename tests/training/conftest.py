import pytest

from fourshot.training.lora.train import LoraTrainer


@pytest.fixture(scope="session")
def trainer(model: str) -> LoraTrainer:
    """The embedded model, loaded once for all trainings of the session."""
    return LoraTrainer(model)
