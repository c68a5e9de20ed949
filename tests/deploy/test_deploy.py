"""The files in deploy/ say what is true: commands that parse, ports and paths that exist, files that are there."""

import re
import shlex
import shutil
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fourshot.cli import corpus, serve
from fourshot.cli.declare import read_command
from fourshot.engine.machine.home import HOME_VARIABLE
from fourshot.serving.app.guard import OPEN_PATHS
from fourshot.serving.fleet.supervisor import GRACE_S
from fourshot.serving.settings import ServeSettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DEFAULTS = ServeSettings(adapters="")
DOCUMENTS = [
    document
    for path in sorted(DEPLOY.rglob("*.y*ml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
COMPOSE = [yaml.safe_load((DEPLOY / name).read_text("utf-8")) for name in ("compose.yaml", "compose.gpu.yaml")]
CONTAINERFILE = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "systemd" / "fourshot.service").read_text(encoding="utf-8")
# Keys of a service that the Compose specification has, as far as they are used here.
# Source: https://github.com/compose-spec/compose-spec/blob/main/05-services.md
SERVICE = {"build", "cap_drop", "command", "deploy", "environment", "image", "init", "ports", "read_only", "restart"}
SERVICE |= {"security_opt", "stop_grace_period", "volumes"}


def parts(document: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a document, at any depth, with its value."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield str(key), value
        if isinstance(value, dict | list):
            yield from parts(value)


EVERYTHING = [part for document in DOCUMENTS for part in parts(document)]


def commands() -> list[list[str]]:
    """What the files have `fourshot` do: its words."""
    container = re.findall(r'^CMD (\["serve.*\])$', CONTAINERFILE, re.MULTILINE)
    listed = [value for key, value in EVERYTHING if key in ("command", "args") and "serve" in value]
    lines = [value for key, value in EVERYTHING if key == "entrypoint"]
    lines += re.findall(r"^ExecStart=\S+/(fourshot .*)$", UNIT, re.MULTILINE)
    return [*map(yaml.safe_load, container), *listed, *(shlex.split(line)[1:] for line in lines)]


def test_every_command_is_one_of_the_program_and_opens_the_port_that_is_named() -> None:
    parsed = [read_command(words, "0") for words in commands()]
    assert Counter(options.action for options in parsed) == {serve.serve: 5, corpus.corpus: 1}
    assert {options.port or DEFAULTS.port for options in parsed if "port" in options} == {8000}
    ports = [value for key, value in EVERYTHING if key == "containerPort"]
    assert set(ports) == {8000} and "EXPOSE 8000\n" in CONTAINERFILE
    assert "127.0.0.1:8000:8000" in COMPOSE[0]["services"]["serve"]["ports"]
    for local in [options for options in parsed if "host" in options and options.host == "0.0.0.0"]:
        assert local.keys or local.adapters == "/adapters"  # in a container whose port is opened to this machine alone


def test_what_is_asked_of_the_service_answers_without_a_key() -> None:
    probes = [value["httpGet"]["path"] for key, value in EVERYTHING if key == "readinessProbe"]
    assert probes == ["/health"] and "8000/health'" in CONTAINERFILE and "/health" in OPEN_PATHS
    assert [value["targets"] for key, value in EVERYTHING if key == "0" and "targets" in value] == [["serve:8000"]]


def test_nobody_is_killed_while_requests_are_answered() -> None:
    waits = [value for key, value in EVERYTHING if key == "terminationGracePeriodSeconds"]
    waits += [int(COMPOSE[0]["services"]["serve"]["stop_grace_period"].removesuffix("s"))]
    waits += [int(wait) for wait in re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)]
    assert len(waits) == 4 and min(waits) > DEFAULTS.drain_s + GRACE_S
    (pause,) = [value["sleep"]["seconds"] for key, value in EVERYTHING if key == "preStop"]  # requests still come
    assert pause >= 5 and waits[0] > pause + DEFAULTS.drain_s + GRACE_S


def test_compose_names_services_and_files_as_they_are() -> None:
    base, gpu = COMPOSE
    for file in COMPOSE:
        for name, service in file["services"].items():
            assert service.keys() <= SERVICE, name
    assert gpu["services"].keys() < base["services"].keys() == {"serve", "prometheus", "grafana"}
    sources = [
        volume.split(":")[0]
        for service in base["services"].values()
        for volume in service["volumes"]
        if isinstance(volume, str)
    ]
    assert {name for name in sources if "/" not in name} == base["volumes"].keys()
    files = [name for name in sources if "/" in name]
    assert len(files) == 4 and [name for name in files if not (DEPLOY / name).is_file()] == []
    assert (DEPLOY / base["services"]["serve"]["build"]["context"] / "deploy" / "Containerfile").is_file()


def test_the_image_has_all_that_is_installed_of_the_project_and_runs_as_nobody_special() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    copied = {word for line in re.findall(r"^COPY (?!--)(.*)$", CONTAINERFILE, re.MULTILINE) for word in line.split()}
    rooms = {path.name for path in (ROOT / "fourshot").iterdir() if path.is_symlink()}
    assert rooms | {"fourshot", "src", "requirements", "pyproject.toml", *project["license-files"]} == copied - {"./"}
    extras = set(re.findall(r"'\.\[(\w+)\]'", CONTAINERFILE))
    assert extras == {"cpu", "gpu"} <= project["optional-dependencies"].keys()
    for file in re.findall(r"requirements/[\w.-]+\.txt", CONTAINERFILE):
        assert (ROOT / file).is_file(), file
    assert set(re.findall(r"^FROM \S+ AS (\S+)$", CONTAINERFILE, re.MULTILINE)) >= {"build-cpu", "build-gpu"}
    assert HOME_VARIABLE in CONTAINERFILE and HOME_VARIABLE in UNIT
    users = re.findall(r"^USER (\d+):", CONTAINERFILE, re.MULTILINE)
    assert users[-1] == "10001" and f"useradd --uid {users[-1]} " in CONTAINERFILE
    assert {value["runAsUser"] for _, value in EVERYTHING if isinstance(value, dict) and "runAsUser" in value} == {
        10001
    }


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("drop_in", [None, "gpu.conf"])
def test_systemd_finds_no_fault_in_the_unit(drop_in: str | None, tmp_path: Path) -> None:
    unit = tmp_path / "fourshot.service"
    unit.write_text(re.sub(r"(?<=^ExecStart=)\S+", "/bin/true", UNIT, flags=re.MULTILINE))
    if drop_in:
        (tmp_path / "fourshot.service.d").mkdir()
        shutil.copy(DEPLOY / "systemd" / drop_in, tmp_path / "fourshot.service.d")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
