"""What `make env` finds out before anything large is downloaded."""

import importlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture
def setup_env(scripts: None) -> ModuleType:
    return importlib.import_module("setup_env")


@pytest.fixture
def installers(scripts: None) -> ModuleType:
    return importlib.import_module("installers")


def test_a_driver_that_is_too_old_for_the_build_is_told_of(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho '| NVIDIA-SMI 550.54   Driver Version: 550.54   CUDA Version: 12.4 |'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(
        setup_env.SetupError, match=r"supports CUDA 12\.4, but the gpu build is made for CUDA 13"
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


LISTING = """\
:env:.cert='/etc/ssl/ours.crt'
:env:.default-timeout='180'
:env:.disable-pip-version-check='1'
global.extra-index-url='\\nhttps://one.example/simple\\nhttps://two.example/simple'
global.find-links='/wheels'
global.index-url='https://global.example/simple'
install.index-url='https://install.example/simple'
freeze.exclude='other'
"""


def test_uv_is_told_what_pip_is_configured_to(installers: ModuleType) -> None:
    arguments, variables = installers.as_uv(installers.configured(LISTING))
    assert arguments == ["--find-links", "/wheels"]
    assert variables == {
        "UV_DEFAULT_INDEX": "https://install.example/simple",  # more particular than `global`
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "SSL_CERT_FILE": "/etc/ssl/ours.crt",
        "UV_HTTP_TIMEOUT": "180",
    }
    assert installers.as_uv({"no-index": "t", "find-links": "/a /b"})[0][0] == "--no-index"
    assert installers.as_uv({"no-index": "perhaps"}) is None and installers.as_uv({"no-index": "0"}) == ([], {})
    assert installers.configured("global.timeout='1'\nglobal.timeout='2'\n") is None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with pip alone, and beside it a folder with the wheels of three packages."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "wheels").mkdir()
    for name in ("one", "two", "three"):
        with zipfile.ZipFile(folder / "wheels" / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            of_it = f"{name}-1.0.dist-info"
            wheel.writestr(f"{name}.py", "")
            wheel.writestr(f"{of_it}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{of_it}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{of_it}/RECORD", "")
    venv.create(folder / "env", with_pip=True)
    return folder


@pytest.fixture
def environment(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its Python, which is offered those wheels and nothing else."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made / "wheels"))
    monkeypatch.setenv("UV_CACHE_DIR", str(made / "cache"))
    return made / "env" / "bin" / "python"


def installer_of(package: str, python: Path) -> str:
    (file,) = python.parent.parent.glob(f"lib/python*/site-packages/{package}-1.0.dist-info/INSTALLER")
    return file.read_text().strip()


@pytest.fixture
def uv(environment: Path) -> Iterator[None]:
    """That of the environment of the tests: pip then finds it installed."""
    (site,) = environment.parent.parent.glob("lib/python*/site-packages")
    (site / "uv.pth").write_text(sysconfig.get_paths()["purelib"])
    yield
    (site / "uv.pth").unlink()


def test_pip_does_it_where_there_is_no_uv(installers: ModuleType, environment: Path) -> None:
    assert installers.install(environment, "one")
    assert installer_of("one", environment) == "pip"


def test_uv_does_it_where_it_is(installers: ModuleType, environment: Path, uv: None) -> None:
    assert installers.install(environment, "two")
    assert installer_of("two", environment) == "uv"


def test_an_index_for_torch_is_beside_those_that_pip_is_configured_to(
    installers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[dict[str, Any]] = []

    def run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        ran.append({"command": command, **how})
        listing = "global.extra-index-url='https://own.example'\n" if "config" in command else ""
        return subprocess.CompletedProcess(command, 0, stdout=listing)

    monkeypatch.setattr(installers.subprocess, "run", run)
    assert installers.install(tmp_path / "bin" / "python", "torch", extra_index="https://torch.example")
    assert ran[-1]["env"]["UV_INDEX"] == "https://torch.example https://own.example"
    assert "--index" not in ran[-1]["command"], "uv would then ignore the variable"


def test_pip_does_it_where_uv_has_no_word_for_an_option(
    installers: ModuleType, environment: Path, uv: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_PREFER_BINARY", "1")
    assert installers.install(environment, "three")
    assert installer_of("three", environment) == "pip"


def test_what_a_kill_left_half_installed_is_installed_again(
    installers: ModuleType, environment: Path, uv: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert installers.install(environment, "one")
    (site,) = environment.parent.parent.glob("lib/python*/site-packages")
    (site / "one-1.0.dist-info" / "INSTALLER").unlink()
    (site / "one.py").unlink()
    assert installers.install(environment, "one")
    assert (site / "one.py").exists() and installer_of("one", environment) == "uv"
    assert "one-1.0 was only half installed" in capfd.readouterr().out


def test_what_neither_can_install_is_no_good_end(
    installers: ModuleType, environment: Path, uv: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not installers.install(environment, "absent")
    told = capfd.readouterr()
    assert "trying pip" in told.out and "No matching distribution found for absent" in told.err


@pytest.fixture
def place(setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of an environment that the script would make; nothing is installed, not even pip, which takes seconds."""
    folder, run = tmp_path / ".venv", subprocess.run

    def without_pip(command: Any, **how: Any) -> Any:
        return run([*command, "--without-pip"] if "venv" in command else command, **how)

    monkeypatch.setattr("subprocess.run", without_pip)
    for name, value in (("VENV", folder), ("PYTHON", folder / "bin" / "python"), ("STAMP", folder / "stamp.json")):
        monkeypatch.setattr(setup_env, name, value)
    monkeypatch.setattr(setup_env, "install", lambda *_: None)
    monkeypatch.setattr(setup_env, "torch_problem", lambda *_: "")
    monkeypatch.setattr("sys.argv", ["setup_env.py", "--build", "cpu"])
    monkeypatch.setenv("PYTHON", sys.executable)
    return folder


def test_an_environment_that_was_moved_or_copied_is_made_anew(
    setup_env: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is in it names the place it was made for: it would run the code of that, or nothing."""
    assert setup_env.main() == 0 and (place / "bin" / "python").exists()
    (place / "kept").touch()
    capsys.readouterr()
    assert setup_env.main() == 0 and (place / "kept").exists() and capsys.readouterr().out == ""
    stamp = json.loads((place / "stamp.json").read_text())
    (place / "stamp.json").write_text(json.dumps(stamp | {"place": "/elsewhere/.venv"}))
    assert setup_env.main() == 0 and not (place / "kept").exists()
    assert "the environment belongs to /elsewhere/.venv: making one for" in capsys.readouterr().out
    monkeypatch.setattr(setup_env, "python_version", lambda python: "3.12" if python == sys.executable else "3.11")
    (place / "kept").touch()
    setup_env.main()
    assert not (place / "kept").exists(), "PYTHON names another one"


def test_what_somebody_else_made_is_not_taken_away(
    setup_env: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    with pytest.raises(
        setup_env.SetupError, match=r"was not made by `make env`, and has no Python that runs\. Move it"
    ):
        setup_env.main()
    assert (place / "notes.txt").read_text() == "mine"
    (place / "notes.txt").unlink()
    assert setup_env.main() == 0  # an empty folder is nobody's
