"""The files in deploy/ say what is true: commands that parse, ports and paths that exist, files that are there."""

import re
import shlex
import shutil
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
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

# Keys of a RayJob and of its groups. Source: https://github.com/ray-project/kuberay, ray-operator/apis/ray/v1
RAY_JOB = {"backoffLimit", "entrypoint", "rayClusterSpec", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
RAY_GROUP = {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "replicas", "template"}


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


def test_metrics_that_need_a_key_are_scraped_with_one_and_no_others() -> None:
    assert "/metrics" not in OPEN_PATHS
    (job,) = next(document for document in DOCUMENTS if "scrape_configs" in document)["scrape_configs"]
    has_keys = "--keys" in COMPOSE[0]["services"]["serve"]["command"]
    assert has_keys == ("authorization" in job) and job["metrics_path"] == "/metrics"
    clusters = [document for document in DOCUMENTS if "apiVersion" in document and "kind" in document]
    annotated = [key for document in clusters for key, _ in parts(document) if key.startswith("prometheus.io/")]
    assert annotated == [], "such a scrape shows no key"
    (monitor,) = [document for document in clusters if document["kind"] == "ServiceMonitor"]
    (endpoint,) = monitor["spec"]["endpoints"]
    secret, _ = endpoint["authorization"]["credentials"].values()
    made = (DEPLOY / "kubernetes" / "metrics.yaml").read_text("utf-8")
    assert f"create secret generic {secret} --from-literal=key=" in made and endpoint["path"] == "/metrics"
    (chosen,) = monitor["spec"]["selector"]["matchExpressions"]
    services = [document for document in clusters if document["kind"] == "Service"]
    assert {service["metadata"]["labels"][chosen["key"]] for service in services} == {*chosen["values"]}
    assert {endpoint["port"]} == {port["name"] for service in services for port in service["spec"]["ports"]}


def test_nobody_is_killed_while_requests_are_answered() -> None:
    waits = [value for key, value in EVERYTHING if key == "terminationGracePeriodSeconds"]
    waits += [int(COMPOSE[0]["services"]["serve"]["stop_grace_period"].removesuffix("s"))]
    waits += [int(wait) for wait in re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)]
    assert len(waits) == 5 and min(waits) > DEFAULTS.drain_s + GRACE_S
    pods = [value for _, value in EVERYTHING if isinstance(value, dict) and "containers" in value]
    (pod,) = [pod for pod in pods if "lifecycle" in pod["containers"][0]]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]  # requests still come
    assert pause >= 5 and pod["terminationGracePeriodSeconds"] > pause + DEFAULTS.drain_s + GRACE_S


def test_ray_jobs_have_the_fields_that_kuberay_knows() -> None:
    jobs = [document["spec"] for document in DOCUMENTS if document.get("kind") == "RayJob"]
    assert len(jobs) == 2
    for job in jobs:
        cluster = job["rayClusterSpec"]
        assert job.keys() <= RAY_JOB and cluster.keys() == {"headGroupSpec", "workerGroupSpecs"}
        assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
        for group in cluster["workerGroupSpecs"]:
            assert group.keys() == RAY_GROUP and group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


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


@pytest.mark.skipif(not find_spec("vllm") or not shutil.which("ldd"), reason="needs vLLM's build and ldd")
def test_the_image_has_the_libraries_of_the_system_that_vllm_s_kernels_load() -> None:
    found = find_spec("vllm")
    assert found and found.origin
    kernels = [*Path(found.origin).parent.glob("*.so")]
    told = subprocess.run(["ldd", *kernels], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"^\s+(\S+) => /(?:usr/)?lib", told, re.MULTILINE))
    of_compiler = {"libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1"}
    packages = {library.replace(".so.", "") for library in needed - of_compiler - {"libstdc++.so.6", "libz.so.1"}}
    (installed,) = re.findall(r"install -y --no-install-recommends (g\+\+ .*?) \\$", CONTAINERFILE, re.MULTILINE)
    assert packages <= {*installed.split()}  # Debian calls a package as its library


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
