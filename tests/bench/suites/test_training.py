"""Both trainers of the training suite get the same work, and their memory is their own."""

import pytest

from fourshot.bench.core.processes import call_apart, peak_bytes
from fourshot.bench.suites.training.trainers import TrainerCall


@pytest.mark.parametrize("texts", [12, 300])
def test_ours_takes_as_many_passes_as_the_other_trainer(texts: int) -> None:
    """Ours has a bound on how often texts are repeated; here it would compare fewer steps with more."""
    training = TrainerCall(
        model="", prompts=("x",) * texts, targets=(0,) * texts, labels=("a", "b"), epochs=6, seed=0, out=""
    )
    assert training.settings.planned_steps(texts, 2) == 6 * training.steps_per_epoch


def test_the_memory_of_a_training_does_not_begin_with_that_of_who_started_it() -> None:
    ballast = bytearray(1 << 30)
    assert call_apart(peak_bytes) < len(ballast) // 2
