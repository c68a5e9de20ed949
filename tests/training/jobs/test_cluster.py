"""Ray that is not there: said within seconds, whoever asks, and with nothing made."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fourshot.cli import main as cli
from fourshot.engine.errors import FourshotError, InputError
from fourshot.training.jobs import cluster

BOUND_S = 5.0  # of these tests; with the times as they are it is 10 s and what Ray takes to be imported
WORDS = {
    "corpus": ["corpus", "--tasks", "support_tickets", "--model", "fake"],
    "run": ["run", "support_tickets"],
    "compare": ["compare", "support_tickets"],
    "train": ["train", "--tasks", "support_tickets"],
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "STEP_S", 0.5)
    monkeypatch.setattr(cluster, "ANSWER_S", 1.0)


@pytest.fixture(params=["refuses", "is silent", "speaks otherwise"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """An address where there is no cluster, and what is to be said of it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        message = "Connection refused"
        if request.param != "refuses":
            listener.listen()
            message = "no response within"
        if request.param == "speaks otherwise":
            listener.settimeout(0)
            message = "what listens there is not Ray"
            monkeypatch.setattr(socket.socket, "recv", lambda *_: b"HTTP/1.1 ")
        yield f"127.0.0.1:{listener.getsockname()[1]}", message


@pytest.mark.parametrize("kind", ["address", "variable", "client"])
def test_an_address_without_a_cluster_is_told_of_within_seconds(
    kind: str, place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, message = place
    began_s = time.monotonic()
    value = {"address": address, "variable": "auto", "client": f"ray://{address}"}[kind]
    if kind == "variable":
        monkeypatch.setenv("RAY_ADDRESS", address)
        message = f"RAY_ADDRESS is '{address}': .*{message}"
    with pytest.raises(InputError, match=rf"no Ray cluster at '{value}': .*{message}.*Give 'local'"):
        cluster.check_cluster(value)
    assert time.monotonic() - began_s < BOUND_S


@pytest.mark.parametrize("greeting", [[b"\0\0\0\4\0\0\0\0\0"], [b"\0\0", b"\0", b"\4\0\0\0\0\0"]])
def test_another_server_of_grpc_is_told_of_within_seconds(greeting: list[bytes]) -> None:
    """That of Ray's clients, say, at the port beside: it greets, and then says nothing that Ray could wait for."""

    def greet() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                for part in greeting:
                    connection.sendall(part)
                    time.sleep(0.05)

    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, daemon=True).start()
        began_s = time.monotonic()
        with pytest.raises(InputError, match=r"no Ray cluster at .*: no response within 1 s\. Give 'local'"):
            cluster.check_cluster(f"127.0.0.1:{listener.getsockname()[1]}")
        assert time.monotonic() - began_s < BOUND_S
    for connection in connections:
        connection.close()


def test_a_name_that_nobody_looks_up_is_told_of_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: looked_up.wait(2 * BOUND_S) and [])
    monkeypatch.setenv("RAY_ADDRESS", "head.example:6379")
    began_s = time.monotonic()
    with pytest.raises(InputError, match=r"RAY_ADDRESS is 'head\.example:6379': no response within 1 s"):
        cluster.check_cluster("auto")
    assert time.monotonic() - began_s < BOUND_S
    looked_up.set()


def test_a_machine_that_is_not_part_of_the_cluster_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would wait a minute for it to join."""
    monkeypatch.setattr(cluster, "_call", lambda *_, **__: None)
    monkeypatch.setattr("ray._private.services.find_node_ids", lambda: set(), raising=False)
    with pytest.raises(InputError, match=r"this machine is not part of it \(`ray start --address=10\.0\.0\.1:6379`\)"):
        cluster.check_cluster("10.0.0.1:6379")


@pytest.mark.parametrize("address", ["6399", "head:", "127.0.0.1:99999", ":6379", "ray://head"])
def test_what_is_no_address_is_told_of(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"is not HOST:PORT.*like 10\.0\.0\.1:6379"):
        cluster.check_cluster(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=r"RAY_ADDRESS is .*is not HOST:PORT"):
        cluster.check_cluster("auto")


@pytest.mark.parametrize("command", WORDS)
def test_a_command_whose_cluster_is_not_there_makes_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    for address in ("auto", "127.0.0.1:1"):
        assert cli.main([*WORDS[command], "--ray", address, "--out", str(tmp_path / "out"), "--quiet"]) == 2
        assert f"no Ray cluster at '{address}'" in capfd.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("address", ["local", "auto", "10.0.0.1:6379"])
def test_ray_that_is_not_installed_is_told_of(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--ray needs Ray, which cannot be imported here: .*leave --ray out"):
        cluster.check_cluster(address)
    cluster.check_cluster("")


def test_ray_that_cannot_be_started_here_is_no_address_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", init)
    why = r"could not be started .* timed out during startup\. Its logs"
    with pytest.raises(FourshotError, match=why) as failed, cluster.cluster("local"):
        pass
    assert failed.value.exit_code == 1 and "Give 'local'" not in str(failed.value)


def test_more_gpus_for_an_engine_than_any_machine_has_are_told_of_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engines would wait for such a machine."""
    machines: list[dict[str, float]] = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}]
    monkeypatch.setattr(cluster, "cluster", lambda address: contextlib.nullcontext())
    monkeypatch.setattr(cluster, "machines", lambda: machines)
    cluster.check_cluster("auto", 2)
    with pytest.raises(InputError, match=r"No machine .* has 3 GPUs for an engine .*: at most 2\. Give fewer"):
        cluster.check_cluster("auto", 3)
    machines[:] = [{"CPU": 2.0}]
    cluster.check_cluster("auto", 1)
    for address in ("auto", "local"):
        with pytest.raises(InputError, match="--gpus-per-engine"):
            cluster.check_cluster(address, 2)


def test_the_reason_in_a_message_of_ray_is_the_line_that_says_why() -> None:
    import ray

    lines = "Traceback (most recent call last):\n  File 'a.py', line 1, in f\nModuleNotFoundError: No module named 'x'"
    in_worker = ray.exceptions.RayTaskError("f", lines, ModuleNotFoundError("No module named 'x'"), "ray::f", 7, "::1")
    for error in (in_worker, in_worker.as_instanceof_cause(), ray.exceptions.ActorDiedError(in_worker)):
        assert cluster.reason_of(error) == "ModuleNotFoundError: No module named 'x'"
    memory = ray.exceptions.OutOfMemoryError("\x1b[31mThe node was low on memory.\x1b[39m\nMemory on the node: 9 GB")
    assert cluster.reason_of(memory) == "The node was low on memory."
    assert cluster.reason_of(ray.exceptions.RayError()) == "RayError"


def test_devices_that_work_together_are_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 3.0}, {"CPU": 64.0}]

    def nodes() -> list[dict[str, Any]]:
        return [
            {"NodeID": str(number), "Alive": True, "Resources": resources} for number, resources in enumerate(machines)
        ]

    monkeypatch.setattr("ray.nodes", nodes)
    assert [sum(cluster.nodes(together).values()) for together in (1, 2, 3, 4)] == [7, 3, 2, 1]
    assert cluster.nodes() == {"0": 4, "1": 3}
    assert cluster.device_resources(2) == {"num_gpus": 2, "num_cpus": 0}
    machines[:] = [{"CPU": 5.0}, {"CPU": 3.0}]
    assert [sum(cluster.nodes(together).values()) for together in (1, 2)] == [3, 1]
