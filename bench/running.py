"""A real service in a process of its own, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

START_S, STOP_S = 180, 60


class Running:
    """`fourshot serve`, ready; ``http`` talks to it."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self.process, self.address = process, address
        self.http = httpx.Client(base_url=address, timeout=60)

    def classify(self, task: str, body: Any, **more: Any) -> httpx.Response:
        return self.http.post(f"/v1/classify/{task}", json=body, **more)

    def tasks(self, everything: bool = False) -> dict[str, Any]:
        told: dict[str, Any] = self.http.get("/v1/tasks", params={"all": "1"} if everything else {}).json()
        return told

    def engines(self) -> list[int]:
        """Process ids of its engines: what runs below it and calls itself so."""
        return [pid for pid in _below(self.process.pid) if "EngineCore" in _command_of(pid)]

    def memory_bytes(self) -> int:
        """Of all its processes; what they share counts once."""
        return sum(map(_resident_bytes, [self.process.pid, *_below(self.process.pid)]))


@contextmanager
def running(adapters: Path, log: Path, *options: str, cores: str = "") -> Iterator[Running]:
    """Start `fourshot serve` on a free port, on ``cores`` where given; ends it with SIGTERM."""
    pinned = ["taskset", "-c", cores] if cores else []
    command = [*pinned, sys.executable, "-m", "fourshot", "serve", "--adapters", str(adapters)]
    command += ["--port", "0", "--json", "--log", str(log), *options]
    # In a session of its own: Ctrl-C on the tests does not reach it before they end it themselves.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield Running(process, _address(process, log))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _address(process: "subprocess.Popen[str]", log: Path) -> str:
    assert process.stdout is not None
    late = threading.Timer(START_S, process.kill)
    late.start()
    try:
        for line in process.stdout:
            told = json.loads(line)
            if told["type"] == "ready":
                return str(told["address"])
    finally:
        late.cancel()
    said = log.read_text(errors="replace")[-3000:] if log.exists() else ""
    raise AssertionError(f"the service did not start: exit code {process.wait()}\n{said}")


def _resident_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _below(pid: int) -> list[int]:
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found: list[int] = []
    waiting: Sequence[int] = [pid]
    while waiting:
        waiting = [child for child, parent in parents.items() if parent in waiting]
        found += waiting
    return found


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
