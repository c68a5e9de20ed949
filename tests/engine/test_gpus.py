"""What the driver says about GPUs, with a driver of the test's own."""

from pathlib import Path

import pytest

from fourshot.engine.errors import FourshotError
from fourshot.engine.gpus import MIB, free_gpu_bytes, gpus


def test_the_gpus_of_a_machine_are_counted_without_a_model_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr("fourshot.engine.gpus.version", lambda package: "0.32.0")
    assert gpus({}, tmp_path) == ["0", "1"]
    assert gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-8a2c"}, tmp_path) == ["3", "GPU-8a2c"]
    assert gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []


def test_the_fullest_gpu_says_how_much_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text(
        '#!/bin/sh\ncase "$*" in *--id=0,3*) echo 81000; echo 70123;; *) echo "No devices"; exit 6;; esac\n'
    )
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert free_gpu_bytes(["0", "3"]) == 70123 * MIB
    with pytest.raises(FourshotError, match="nvidia-smi does not say how much memory is free on GPU 7"):
        free_gpu_bytes(["7"])
