"""Threads wait briefly, unless the user has said how they are to wait."""

import pytest

from fourshot.engine import doctor
from fourshot.engine.machine.threads import TRAIN_SPINS, available_cores, waiting_briefly


def test_a_process_that_computes_spins_briefly() -> None:
    assert waiting_briefly({"HOME": "/"}, TRAIN_SPINS) == {"HOME": "/", "GOMP_SPINCOUNT": TRAIN_SPINS}


@pytest.mark.parametrize("environment", [{"OMP_WAIT_POLICY": "PASSIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_has_set_stays(environment: dict[str, str]) -> None:
    assert waiting_briefly(environment, TRAIN_SPINS) == environment


@pytest.mark.parametrize("setting", ["0", "abc", "-1", "2,1", "", "\u00b2"])
def test_what_is_no_number_of_threads_does_not_count(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    usual = available_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert available_cores() == usual
    assert "(OMP_NUM_THREADS)" not in doctor._in_process().found
    assert doctor._in_process().state == ("note" if setting else "ok")
