"""Two real replicas over Ray: one is killed under load, and no request is lost."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil

from fourshot.serving.testing.adapters import make_adapter, task_of
from fourshot.serving.testing.server import running_service

TASKS = 6
OPTIONS = ("--replicas", "2", "--ray", "local", "--kv-cache-mib", "128", "--max-loras", "2", "--max-model-len", "512")


def test_a_replica_that_dies_takes_no_request_with_it(tmp_path: Path) -> None:
    root = tmp_path / "adapters"
    for number in range(TASKS):
        make_adapter(root, task_of(f"task-{number}"), seed=number)
    with running_service(root, tmp_path / "serve.log", *OPTIONS) as service:
        page = wait_for_replicas(service.http, 2)
        assert page.count("fourshot_tasks{") == 2
        codes: list[int] = []
        over = threading.Event()

        def ask(number: int) -> None:
            while not over.is_set():
                answer = service.classify(f"task-{number % TASKS}", {"input": "a text"})
                codes.append(answer.status_code)
                time.sleep(0.2 if answer.status_code == 429 else 0.01)

        asking = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for one in asking:
            one.start()
        time.sleep(2)
        before = len(codes)
        actors = [
            process
            for process in psutil.Process(service.process.pid).children(recursive=True)
            if process.name().startswith("ray::_Actor")
        ]
        os.kill(actors[0].pid, signal.SIGKILL)
        time.sleep(6)
        over.set()
        for one in asking:
            one.join()
        engines = service.engines()
    assert before > 5 and len(codes) > before + 5
    assert set(codes) <= {200, 429}
    _, alive = psutil.wait_procs(engines, timeout=10)
    assert alive == []


def wait_for_replicas(http: object, number: int) -> str:
    """The metrics page once all replicas are on it."""
    end = time.monotonic() + 120
    while True:
        page: str = http.get("/metrics").text  # type: ignore[attr-defined]
        if page.count("fourshot_tasks{") == number:
            return page
        assert time.monotonic() < end, page[-500:]
        time.sleep(0.5)
