"""A real service in a process of its own, as a user starts it: `fourshot serve`, for the duration of a block."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

START_S, STOP_S = 180, 60


class RunningService:
    """A ready `fourshot serve`; ``http`` is a client for it."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self.process, self.address = process, address
        self.http = httpx.Client(base_url=address, timeout=60, trust_env=False)  # no proxy on the way

    def classify(self, task: str, body: Any, **options: Any) -> httpx.Response:
        return self.http.post(f"/v1/classify/{task}", json=body, **options)

    def tasks(self, everything: bool = False) -> dict[str, Any]:
        listed: dict[str, Any] = self.http.get("/v1/tasks", params={"all": "1"} if everything else {}).json()
        return listed

    def processes(self) -> list[psutil.Process]:
        """Return the process of `fourshot serve` and all its descendants."""
        service = psutil.Process(self.process.pid)
        return [service, *service.children(recursive=True)]

    def engines(self) -> list[psutil.Process]:
        """Return the descendants that run an engine: those with ``EngineCore`` in their command line."""
        engines = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if "EngineCore" in " ".join(process.cmdline()):
                    engines.append(process)
        return engines

    def memory_bytes(self) -> int:
        """Return the memory of all its processes; what they share counts once."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total


def wait_for(condition: Callable[[], object], timeout_s: float = 30) -> None:
    """Return once ``condition()`` holds. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition does not hold within {timeout_s:g} s")
        time.sleep(0.05)


@contextmanager
def running_service(adapters: Path, log: Path, *options: str, cores: str = "") -> Iterator[RunningService]:
    """Start `fourshot serve` on a free port, pinned to ``cores`` ("0,1") if given; end it with SIGTERM.

    Raises RuntimeError, with the end of ``log``, if it does not become ready, or has ended when the block fails.
    """
    pinned = ["taskset", "-c", cores] if cores else []
    command = [*pinned, sys.executable, "-m", "fourshot", "serve", "--adapters", str(adapters)]
    command += ["--port", "0", "--json", "--log", str(log), *options]
    # In a session of its own, so that Ctrl-C in the tests does not reach it before they end it.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", start_new_session=True
    )
    try:
        service = RunningService(process, _address(process, log))
        try:
            yield service
        except Exception as error:
            if process.poll() is None:
                raise
            raise RuntimeError(f"the service ended: exit code {process.returncode}\n{_end_of(log)}") from error
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _address(process: "subprocess.Popen[str]", log: Path) -> str:
    assert process.stdout is not None
    timer = threading.Timer(START_S, process.kill)
    timer.start()
    try:
        lines = []
        for line in process.stdout:
            event = json.loads(line)
            if event["type"] == "ready":
                return str(event["address"])
            lines.append(line)
    finally:
        timer.cancel()
    raise RuntimeError(f"the service did not start: exit code {process.wait()}\n{''.join(lines[-5:])}{_end_of(log)}")


def _end_of(log: Path) -> str:
    """Return the last 3,000 characters of ``log``, or "" if it is gone: its folder may be removed with the service."""
    return log.read_text(encoding="utf-8", errors="replace")[-3000:] if log.exists() else ""
