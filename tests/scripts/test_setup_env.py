"""What `make env` finds out before anything large is downloaded."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup_env() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "scripts" / "setup_env.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_driver_that_is_too_old_for_the_build_is_told_of(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho '| NVIDIA-SMI 550.54   Driver Version: 550.54   CUDA Version: 12.4 |'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(
        setup_env.SetupError, match=r"can do CUDA 12\.4, and the gpu build is made for CUDA 13"
    ) as error:
        setup_env.check_driver("gpu")
    assert error.value.exit_code == 2
    setup_env.check_driver("v100")
    setup_env.check_driver("cpu")
    driver.write_text(driver.read_text().replace("12.4", "13.1"))
    setup_env.check_driver("gpu")


def test_the_cuda_of_a_build_is_that_of_the_documents(setup_env: ModuleType) -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    (named,) = re.findall(r"the torch version it pins \(CUDA (\d+)\)", page)
    assert int(named) == setup_env.CUDA_OF_BUILD["gpu"]
