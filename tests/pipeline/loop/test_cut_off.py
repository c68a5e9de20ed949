"""Two machines of their own: `ray start` in network namespaces, with a shared folder and disks that differ.

One lacks the base model and another folder, and its network is cut in the middle; so is that of a third one, which
comes later. Needs root and `ip`.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import ray

from fourshot.engine.checkpoints.models import ResolvedModel, content_hash
from fourshot.engine.errors import InputError
from fourshot.serving.fleet import ray_replicas
from fourshot.serving.settings import ServeSettings
from fourshot.training.jobs import ray_jobs
from fourshot.training.jobs.cluster import nodes, on_node
from fourshot.training.jobs.jobs import Placement
from fourshot.training.jobs.machines import (
    CheckpointServer,
    MachineSetup,
    check_machines,
    machine_setup,
    prepare_machine,
)
from tests.pipeline.corpus.small_corpora import make, named, rows_of, settings
from tests.pipeline.loop.machines import in_the_middle
from tests.training.jobs.fake_trainer import MACHINE, Behaviour, check_each_is_there_once, install, jobs, seeds_begun
from tests.waiting import wait_for

NET = "10.213.7"
ADDRESSES = {"a": f"{NET}.2", "b": f"{NET}.3", "c": f"{NET}.4"}
BRIDGE = f"fsb{os.getpid()}"  # other workers of the suite look at the same time whether namespaces can be had
RAY = str(Path(sys.executable).parent / "ray")
SOON = {"period_ms": "500", "timeout_ms": "2000", "failure_threshold": "3"}  # of health checks
ENVIRONMENT = {**os.environ, **{f"RAY_health_check_{name}": value for name, value in SOON.items()}}
# In a mount namespace of its own, as `ip netns exec` makes one: no folder of Ray's is that of another machine.
START = """
mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray
for folder in $OTHER; do mount -t tmpfs none "$folder"; done
[ -z "$OTHER" ] || mount -t tmpfs -o size=64k none "$SMALL"
exec "$@"
"""


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


def refused() -> str:
    """Why no namespaces can be had; "" where they can."""
    if os.geteuid() or not shutil.which("ip"):
        return "needs root and ip(8)"
    try:
        ip(f"link add {BRIDGE} type bridge")
        ip(f"link del {BRIDGE}")
        ip(f"netns add {BRIDGE}")
        ip(f"netns del {BRIDGE}")
        subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"namespaces cannot be made here: {error}"
    return ""


pytestmark = pytest.mark.skipif(bool(reason := refused()), reason=reason)


class Lan:
    """A head here, without devices, and machines of two devices each: "a", "b" and those that are added."""

    def __init__(self, folder: Path) -> None:
        self.shared, self.local, self.small = folder / "shared", folder / "local", folder / "small"
        for path in (self.shared, self.local, self.small):
            path.mkdir()
        self.model = self.local / "model"  # b has none
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        (self.model / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
        self._log = (folder / "ray.log").open("w")
        self._processes: list[subprocess.Popen[bytes]] = []
        ip(f"link add {BRIDGE} type bridge")
        ip(f"addr add {NET}.1/24 dev {BRIDGE}")
        ip(f"link set {BRIDGE} up")
        self.address = f"{NET}.1:6399"
        head = ["--head", f"--node-ip-address={NET}.1", "--port=6399", "--num-cpus=0", "--include-dashboard=false"]
        self._ray([], *head)
        self.add("a")
        self.add("b")

    def add(self, name: str) -> None:
        """Start a machine; a moment later it is in the cluster."""
        space, address = f"fsnet-{name}", ADDRESSES[name]
        ip(f"netns add {space}")
        ip(f"link add fsveth-{name} type veth peer name eth0 netns {space}")
        ip(f"link set fsveth-{name} master {BRIDGE} up")
        ip(f"-n {space} addr add {address}/24 dev eth0")
        ip(f"-n {space} link set eth0 up")
        ip(f"-n {space} link set lo up")
        prefix = ["ip", "netns", "exec", space, "sh", "-c", START, "sh"]
        node = [f"--address={self.address}", f"--node-ip-address={address}", "--num-cpus=4"]
        other = str(self.local) if name == "b" else ""
        variables = {"OTHER": other, "SMALL": str(self.small), MACHINE: name, "FOURSHOT_HOME": str(self.home(name))}
        self._ray(prefix, *node, **variables)

    def home(self, name: str) -> Path:
        return self.shared / f"home-{name}"  # where the test can look

    def _ray(self, prefix: list[str], *words: str, **variables: str) -> None:
        command = [*prefix, RAY, "start", *words, "--object-store-memory=80000000", "--block"]
        self._processes.append(
            subprocess.Popen(command, env={**ENVIRONMENT, **variables}, stdout=self._log, stderr=subprocess.STDOUT)
        )

    def connect(self) -> None:
        runtime = {
            "env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            "worker_process_setup_hook": install,
        }

        def is_up() -> bool:
            try:
                ray.init(self.address, log_to_driver=False, logging_level="ERROR", runtime_env=runtime)
            except (ConnectionError, RuntimeError, ValueError):
                assert all(process.poll() is None for process in self._processes), self._log.name
                return False
            return True

        wait_for(is_up, "the head", 180)
        self.wait_until_there_are("a", "b")

    def node(self, name: str) -> str:
        """Ray's id of a machine."""
        (node_id,) = (node["NodeID"] for node in ray.nodes() if node["NodeManagerAddress"] == ADDRESSES[name])
        return str(node_id)

    def wait_until_there_are(self, *names: str) -> None:
        """These, and no others."""
        wanted = {ADDRESSES[name] for name in names} | {f"{NET}.1"}
        wait_for(
            lambda: {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]} == wanted,
            f"the machines {', '.join(names)}",
            180,
        )

    def cut(self, name: str) -> None:
        ip(f"link set fsveth-{name} down")

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for name in ADDRESSES:
            alive = subprocess.run(["ip", "netns", "pids", f"fsnet-{name}"], capture_output=True, check=False)
            for pid in alive.stdout.split():
                os.kill(int(pid), 9)
            subprocess.run(["ip", "netns", "del", f"fsnet-{name}"], check=False, capture_output=True)
            subprocess.run(["ip", "link", "del", f"fsveth-{name}"], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], check=False)
        self._log.close()


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    network = Lan(tmp_path_factory.mktemp("lan"))
    try:
        network.connect()
        yield network
    finally:
        ray.shutdown()
        network.close()


def test_a_folder_that_is_not_shared_is_told_with_the_machine_before_any_work(lan: Lan) -> None:
    store = lan.local / "store"
    with pytest.raises(InputError, match=rf"(?s)1 of 2 machines.*-{NET}\.3: .*{store} is not .*Mount one folder"):
        ray_jobs.run_jobs_over_ray(str(lan.model), jobs(1), store, Placement(ray="auto"))
    assert not [*store.iterdir()], "a probe is left"
    message = f"there is no {lan.model}. Adapters are read by every machine: put them into a folder that all mount"
    with machine_setup("", folders=[str(lan.model)]) as setup, pytest.raises(InputError, match=message):
        check_machines(setup, nodes())


def test_a_machine_whose_disk_is_too_small_for_the_model_is_told_with_the_way_out(lan: Lan) -> None:
    lan.home("b").symlink_to(lan.small)
    try:
        with machine_setup(str(lan.model)) as setup, pytest.raises(InputError) as refused:
            check_machines(setup, nodes())
    finally:
        lan.home("b").unlink()
    assert "1 of 2 machines" in str(refused.value) and f"-{NET}.3: the base model {lan.model}" in str(refused.value)
    assert "No space left on device" in str(refused.value) and "FOURSHOT_HOME" in str(refused.value)


class Counting(CheckpointServer):
    """Counts who asks for the files."""

    requests = 0

    def files(self) -> list[tuple[str, int, str]]:
        self.requests += 1
        return super().files()

    def times(self) -> int:
        return self.requests


def test_workers_of_a_machine_without_the_model_fetch_it_once(lan: Lan) -> None:
    with machine_setup(str(lan.model), file_server=Counting) as setup:
        task = ray.remote(num_cpus=1, scheduling_strategy=on_node(lan.node("b")))(prepare_machine)
        folders = ray.get([task.remote(setup) for _ in range(3)])
        assert ray.get(setup.file_server.times.remote()) == 1
        assert ray.get(ray.remote(scheduling_strategy=on_node(lan.node("a")))(prepare_machine).remote(setup)) == str(
            lan.model
        )
    (folder,) = {*folders}
    assert Path(folder).parent == lan.home("b") / "models" and content_hash(Path(folder)) == content_hash(lan.model)
    assert not lan.home("a").exists(), "a has the model, and fetched it"


class Replica(ray_replicas._Actor):
    """Its server is told as much as a real one, and writes it down. The first start of all fails."""

    def __init__(self, settings: ServeSettings, *setup: Any) -> None:
        beside = Path(settings.adapters).parent

        class Server:
            def __init__(self, settings: ServeSettings, *_: Any) -> None:
                base = msgspec.json.encode(settings.find_base())
                (beside / f"base-{os.environ[MACHINE]}").write_bytes(base)
                self._stopping = asyncio.Event()
                self.run, self.stop = self._stopping.wait, self._stopping.set

        def prepare_once(setup: MachineSetup) -> str:
            with suppress(FileExistsError):
                (beside / "failed").touch(exist_ok=False)
                raise OSError(28, "No space left on device")
            return prepare_machine(setup)

        vars(ray_replicas).update(Supervisor=Server, prepare_machine=prepare_once)
        super().__init__(settings, *setup)


def test_a_replica_finds_its_base_where_its_machine_has_it(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, heard = lan.shared / "serving", list[str]()
    (beside / "adapters").mkdir(parents=True)
    base = ResolvedModel(path=str(lan.model), name="owner/model", revision="7")
    monkeypatch.setattr(ray_replicas, "_Actor", Replica)
    monkeypatch.chdir(beside)
    settings = ServeSettings(adapters="adapters", found_base=base)  # workers have other working folders
    replicas = ray_replicas.RayReplicas(settings, 2, "auto", "", heard.append)
    try:
        wait_for(lambda: all(replicas.addresses(120)), "both replicas", 120)
    finally:
        replicas.close()
    a, b = (msgspec.json.decode((beside / f"base-{name}").read_bytes(), type=ResolvedModel) for name in "ab")
    assert a == base and b == msgspec.structs.replace(base, path=b.path)
    assert Path(b.path).parent == lan.home("b") / "models" and content_hash(Path(b.path)) == content_hash(lan.model)
    assert len(heard) == 1 and NET in heard[0] and "No space left" in heard[0] and "tried again" in heard[0]


def test_a_machine_that_is_cut_off_costs_only_time(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "CHECK_INTERVAL_S", 0.2)
    beside = lan.shared / "trainings"
    beside.mkdir()
    (beside / "work.json").write_bytes(msgspec.json.encode(Behaviour(hold="b")))
    cut: list[int] = []

    def cut_b(number: int, step: int, planned: int, loss: float) -> None:
        if not cut and (begun := seeds_begun(beside, "b")):
            lan.cut("b")
            cut.extend(begun)

    outcomes = ray_jobs.run_jobs_over_ray(str(lan.model), jobs(4), beside / "store", Placement(ray="auto"), cut_b)
    assert cut, "no training was begun there"
    check_each_is_there_once(outcomes, beside / "store")
    assert sorted(seeds_begun(beside, "a")) == list(range(4))


def test_a_machine_that_is_cut_off_in_a_corpus_costs_no_row(
    lan: Lan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.pipeline.loop.ray_workers.LOOK_S", 0.2)
    lan.cut("b")  # as the test before did, if it was run
    lan.add("c")
    lan.wait_until_there_are("a", "c")
    run_settings, tasks = settings(per_class=40), named("one", "two")
    make(tmp_path / "alone", tasks, run_settings)
    in_the_middle(lambda: lan.cut("c"), monkeypatch, engines=4)
    make(tmp_path / "spread", tasks, run_settings, ray="auto", model="fake:delay_s=0.02")
    assert lan.node("c") not in nodes(), "nobody missed it"
    assert rows_of(tmp_path / "spread") == rows_of(tmp_path / "alone")
