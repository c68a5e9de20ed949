"""As many threads as cores may be used, which wait briefly, unless the user has said otherwise."""

import os
from pathlib import Path

import pytest

from fourshot.engine import doctor
from fourshot.engine.machine import threads
from fourshot.engine.machine.processes import child_environment
from fourshot.engine.machine.threads import TRAIN_SPINS, available_cores, waiting_briefly


def test_a_process_that_computes_spins_briefly() -> None:
    assert waiting_briefly({"HOME": "/"}, TRAIN_SPINS) == {"HOME": "/", "GOMP_SPINCOUNT": TRAIN_SPINS}


@pytest.mark.parametrize("environment", [{"OMP_WAIT_POLICY": "PASSIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_has_set_stays(environment: dict[str, str]) -> None:
    assert waiting_briefly(environment, TRAIN_SPINS) == environment


@pytest.mark.parametrize(
    ("limit", "cores"), [("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("max 100000", 64), ("", 64)]
)
def test_a_container_has_no_more_cores_than_its_limit(
    limit: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(threads, "CPU_LIMIT", tmp_path / "cpu.max")
    assert available_cores() == 64
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert available_cores() == cores
    assert child_environment().get("OMP_NUM_THREADS") == (str(cores) if cores < 64 else None), "torch would use all"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert available_cores() == 5 and child_environment()["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize("setting", ["0", "abc", "-1", "2,1", "", "\u00b2"])
def test_what_is_no_number_of_threads_does_not_count(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    usual = available_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert available_cores() == usual
    assert "(OMP_NUM_THREADS)" not in doctor._in_process().found
    assert doctor._in_process().state == ("note" if setting else "ok")
