"""What the driver says about GPUs, with a driver of the test's own."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.gpus import MIB, are_shared, check_gpus, free_gpu_bytes, gpus, torch_device
from fourshot.engine.vllm_start import engine_arguments


def test_the_gpus_of_a_machine_are_counted_without_a_model_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr("fourshot.engine.machine.gpus.version", lambda package: "0.32.0")
    assert gpus({}, tmp_path) == ["0", "1"]
    assert gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-8a2c"}, tmp_path) == ["3", "GPU-8a2c"]
    assert gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == gpus({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == []


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts an `nvidia-smi` in the way that answers by the cases of a shell's ``case`` over its arguments."""
    file = tmp_path / "nvidia-smi"

    def answer(cases: str) -> None:
        file.write_text(f'#!/bin/sh\ncase "$*" in {cases} esac\n')
        file.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return answer


def test_the_fullest_gpu_says_how_much_is_free(driver: Callable[[str], None]) -> None:
    driver('*--id=0,3*) echo 81000; echo 70123;; *) echo "No devices"; exit 6;;')
    assert free_gpu_bytes(["0", "3"]) == 70123 * MIB
    with pytest.raises(FourshotError, match="nvidia-smi does not report the free memory of GPU 7"):
        free_gpu_bytes(["7"])


def test_a_gpu_without_memory_of_its_own_has_what_is_free_of_the_machine_s(
    driver: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver('*--id=0) echo "[N/A]";; *--id=1) echo "[Not Supported]";; *) echo "[GPU requires reset]";;')
    monkeypatch.setattr("fourshot.engine.machine.gpus.free_bytes", lambda: 40 * MIB)
    assert free_gpu_bytes(["0"]) == free_gpu_bytes(["1"]) == 40 * MIB
    with pytest.raises(FourshotError, match="GPU requires reset"):
        free_gpu_bytes(["2"])


def test_an_engine_takes_what_is_free_of_the_fullest_gpu(
    driver: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM takes 92 % of all memory, and does not start where another process has some of that."""
    driver(
        '*memory.free,memory.total*--id=0,1) echo "80000 MiB, 81920 MiB"; echo "40960 MiB, 81920 MiB";; '
        '*--id=0) echo "80000 MiB, 81920 MiB";; *--id=8) echo "[N/A], [N/A]";; *) echo "[Unknown Error], 81920 MiB";;'
    )
    monkeypatch.setattr("fourshot.engine.machine.gpus.free_bytes", lambda: 40 * MIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=80 * MIB))
    monkeypatch.setattr("fourshot.engine.machine.gpus.version", lambda package: "0.32.0")
    settings = EngineSettings(model="m")
    for visible, share in (("0", None), ("0,1", 0.485), ("7", None), ("8", 0.485)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert engine_arguments(settings, on_cpu=False).get("gpu_memory_utilization") == share


def test_a_gpu_for_one_process_alone_is_not_shared(driver: Callable[[str], None]) -> None:
    driver("*compute_mode*--id=0) echo Default;; *--id=0,1) echo Default; echo Exclusive_Process;; *) exit 6;;")
    assert are_shared(["0"])
    assert not are_shared(["0", "1"])
    assert not are_shared(["7"])


def test_an_engine_is_divided_over_no_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    check_gpus(1)
    with pytest.raises(InputError, match=r"2 GPUs are to share one engine .* but vLLM may use only 0 here"):
        check_gpus(2)
    monkeypatch.setattr("fourshot.engine.machine.gpus.version", lambda package: "0.32.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    check_gpus(2)
    with pytest.raises(InputError, match="4 GPUs"):
        check_gpus(4)


def test_a_gpu_that_torch_cannot_use_is_not_passed_over_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert torch_device() == "cpu"
    monkeypatch.setattr("fourshot.engine.machine.gpus.version", lambda package: "0.32.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(FourshotError, match=r"made for CUDA 13\.0, cannot use it"):
        torch_device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert torch_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device() == "cuda"
