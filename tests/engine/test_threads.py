"""Threads wait briefly, unless the user has said how they are to wait."""

import pytest

from fourshot.engine.threads import TRAIN_SPINS, waiting_briefly


def test_a_process_that_computes_spins_briefly() -> None:
    assert waiting_briefly({"HOME": "/"}, TRAIN_SPINS) == {"HOME": "/", "GOMP_SPINCOUNT": TRAIN_SPINS}


@pytest.mark.parametrize("said", [{"OMP_WAIT_POLICY": "PASSIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_has_set_stays(said: dict[str, str]) -> None:
    assert waiting_briefly(said, TRAIN_SPINS) == said
