"""A cluster that does not answer, or has other work: it is told of, and not waited for once for each machine."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from fourshot.training.jobs import machines, ray_jobs
from fourshot.training.jobs.machines import ANSWER_S, MachineRequirements, MachineSetup
from tests.training.jobs.fake_trainer import jobs


class Task:
    """A remote function that never begins."""

    def options(self, **_: object) -> "Task":
        return self

    def remote(self, *_: object) -> object:
        return object()


def test_machines_that_do_not_answer_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0

    def get(call: object, timeout: float) -> None:
        nonlocal now_s
        now_s += timeout
        raise ray.exceptions.GetTimeoutError

    names = [f"node{number}" for number in range(5)]
    listed = [{"NodeID": name, "NodeManagerHostname": name, "NodeManagerAddress": "::1"} for name in names]
    for name, fake in {"remote": lambda **_: lambda _: Task(), "get": get, "nodes": lambda: listed}.items():
        monkeypatch.setattr(ray, name, fake)
    monkeypatch.setattr(machines, "on_node", lambda node: node)
    monkeypatch.setattr(machines, "time", SimpleNamespace(monotonic=lambda: now_s))
    faults = machines._faults(MachineSetup(MachineRequirements(), None), names, ANSWER_S)
    assert len(faults) == 5 and "node4-::1: no task began there within 120 s" in faults[4]
    assert now_s == 1000.0 + ANSWER_S


def test_trainings_that_wait_for_devices_are_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    polls, heard = 0, list[str]()

    def wait(calls: list[object], **_: object) -> Any:
        nonlocal polls
        polls += 1
        if polls > 4:
            raise KeyboardInterrupt
        return [], calls

    for name, fake in {"remote": lambda **_: lambda _: Task(), "wait": wait, "get": lambda _: ({}, {})}.items():
        monkeypatch.setattr(ray, name, fake)
    for name, value in {"device_resources": {}, "alive": {"busy"}}.items():
        monkeypatch.setattr(ray_jobs, name, lambda *_, value=value: value)
    monkeypatch.setattr(ray_jobs, "NOTICE_S", 0.0)
    server = SimpleNamespace(read=SimpleNamespace(remote=lambda: None))
    queue = ray_jobs._Queue(jobs(2), tmp_path, MachineSetup(MachineRequirements(), server), 1, heard.append)
    with pytest.raises(KeyboardInterrupt):
        list(queue.run([0, 1], None))
    assert len(heard) == 1 and "no training has begun on the Ray cluster" in heard[0] and "`ray status`" in heard[0]


def test_a_training_on_cores_goes_on_where_a_machine_with_a_gpu_joins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on only machines with GPUs have devices for new work."""
    machines = [{"NodeID": "cores", "Alive": True, "Resources": {"CPU": 8.0}}]
    cancelled = list[object]()
    for name, fake in {"remote": lambda **_: lambda _: Task(), "nodes": lambda: machines}.items():
        monkeypatch.setattr(ray, name, fake)
    monkeypatch.setattr(ray, "cancel", cancelled.append)
    monkeypatch.setattr(ray_jobs, "CHECK_INTERVAL_S", 0.0)
    queue = ray_jobs._Queue(jobs(2), tmp_path, MachineSetup(MachineRequirements(), None), 1, lambda line: None)
    queue._running, queue._nodes = {"a": 0, "b": 1}, {0: "cores"}
    machines.append({"NodeID": "gpu", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}})
    queue._resubmit_lost()
    assert not cancelled
    machines[0]["Alive"] = False
    queue._resubmit_lost()
    assert cancelled == ["a", "b"] and len(queue._running) == 2
