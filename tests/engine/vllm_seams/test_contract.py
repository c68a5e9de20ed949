"""Every seam relies on what this vLLM has; what another vLLM lacks leaves the seam out, or stops, with one line."""

import logging

import pytest

from fourshot.engine.errors import FourshotError
from fourshot.engine.vllm_seams import (
    adapter_check,
    api_server,
    client,
    contract,
    cpu_eager,
    in_process,
    lora_files,
    lora_kernels,
    lora_loads,
    lora_pins,
    lora_support,
)
from fourshot.engine.vllm_seams.contract import Seam, faults

pytest.importorskip("vllm")
from fourshot.engine.vllm_seams import cpu_sampling

SEAMS = (
    adapter_check,
    api_server,
    client,
    cpu_eager,
    cpu_sampling,
    in_process,
    lora_files,
    lora_kernels,
    lora_loads,
    lora_pins,
    lora_support,
)


def seam(*relies_on: str) -> Seam:
    return Seam(name="a seam", relies_on=relies_on, without="Something is lost.")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """By us, not by the libraries that a contract imports."""
    return [record for record in caplog.records if record.name == "fourshot.engine"]


@pytest.fixture(autouse=True)
def nothing_said_yet() -> None:
    contract._holds.cache_clear()


@pytest.mark.parametrize("module", SEAMS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_this_vllm_keeps_the_contract(module: object, caplog: pytest.LogCaptureFixture) -> None:
    assert faults(module.SEAM) == []  # type: ignore[attr-defined]
    assert module.SEAM.holds()  # type: ignore[attr-defined]
    assert not warnings_of(caplog), "every seam is written for the version that is tested"


def test_a_vllm_that_lacks_something_goes_without_the_seam_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    changed = seam("json:dumps(obj, indent)", "json:JSONEncoder.no_such", "no.such.module:f", "json:loads")
    missing = faults(changed)
    assert missing[0].startswith("json:dumps takes (obj, skipkeys,") and missing[0].endswith(
        "(obj, indent) is relied on"
    )
    assert missing[1:] == ["json:JSONEncoder.no_such is not there", "no.such.module:f is not there"]
    assert not changed.holds() and not changed.holds()
    (record,) = warnings_of(caplog)
    assert "a seam is left out" in record.getMessage() and "Something is lost." in record.getMessage()
    with pytest.raises(FourshotError, match=r"vLLM \S+ is not one .*no_such is not there.*Install vLLM 0\.26 or 0\.32"):
        changed.require()


def test_another_version_is_said_and_used_where_all_is_there(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "vllm_version", lambda: "0.99.0")
    assert seam("json:loads").holds() and seam("json:loads").holds()
    (record,) = warnings_of(caplog)
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("vLLM 0.99.0: a seam was tried on 0.26 and 0.32 only")


def test_without_the_count_of_loads_our_arithmetic_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("replaced on the CPU build only")
    before = current_platform.get_punica_wrapper()
    monkeypatch.setattr(lora_loads, "SEAM", seam("json:no_such"))
    try:
        assert not lora_kernels.apply(enabled=True)
        assert current_platform.get_punica_wrapper() != lora_kernels.WRAPPER
    finally:
        monkeypatch.undo()
        lora_kernels.apply(enabled=before == lora_kernels.WRAPPER)
