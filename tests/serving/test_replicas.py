"""Two real replicas over Ray: one is killed under load, and no request is lost."""

import asyncio
import errno
import json
import socket
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from aiohttp import web

from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import FourshotError, InputError
from fourshot.serving.app.keys import Keys
from fourshot.serving.fleet import ray_replicas
from fourshot.serving.fleet.ray_replicas import cores_each
from fourshot.serving.fleet.replicas import Replicas, _pass_on_line, environments
from fourshot.serving.fleet.supervisor import Say, listen
from fourshot.serving.settings import ServeSettings
from fourshot.serving.testing.adapters import make_adapter, task_of
from fourshot.serving.testing.server import running_service, wait_for
from fourshot.training.jobs.machines import MachineRequirements, MachineSetup

TASKS = 6
THREADS = "OMP_NUM_THREADS"
OPTIONS = ("--replicas", "2", "--ray", "local", "--kv-cache-mib", "64", "--max-loras", "2", "--max-model-len", "512")


class FakeSupervisor:
    """Stands for a `Supervisor`: its server says which replica it is, and what it was asked with."""

    is_asked = asyncio.Event()  # what it never answers

    def __init__(
        self, settings: ServeSettings, listening: socket.socket, log: Path, say: Say, environment: dict[str, str]
    ) -> None:
        self._keys, self._listening, self._log, self._threads = settings.keys, listening, log, environment[THREADS]
        self._stopping = asyncio.Event()
        say("started")

    async def _answer(self, request: web.Request) -> web.Response:
        if request.path == "/health":
            return web.Response()
        if request.path == "/v1/classify/never":
            self.is_asked.set()
            await self._stopping.wait()
        key = Keys(self._keys).find(request.headers["Authorization"])
        about = {"log": self._log.name, "threads": self._threads, "key": key.name if key else ""}
        return web.json_response(about)

    async def run(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.SockSite(runner, self._listening).start()
        await self._stopping.wait()
        await runner.cleanup()

    def stop(self) -> None:
        self._stopping.set()


def test_while_replicas_stop_the_address_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fourshot.serving.fleet.replicas.Supervisor", FakeSupervisor)

    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        settings = ServeSettings(adapters=str(tmp_path), port=listening.getsockname()[1], drain_s=1.0)
        replicas = Replicas(settings, listening, 2, "", tmp_path / "serve.log", lambda line: None)
        serving = asyncio.create_task(replicas.run())
        await asyncio.wait_for(replicas.ready.wait(), 10)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.port}") as client:
            assert (await client.get("/health")).status_code == 200
            waiting = asyncio.create_task(client.post("/v1/classify/never", json={}))
            await asyncio.wait_for(FakeSupervisor.is_asked.wait(), 10)
            replicas.stop()
            await asyncio.sleep(0)
            for answer in (await client.get("/health"), await client.post("/v1/classify/task-0", json={})):
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
                assert answer.json()["error"]["type"] == "stopping"
            assert (await client.get("/v1/models")).status_code == 200
            assert (await waiting).json()["error"]["type"] == "stopping"  # once its time was over
        await asyncio.wait_for(serving, 10)

    asyncio.run(run())
    assert capfd.readouterr().err == ""


def test_replicas_of_one_machine_answer_behind_one_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourshot.serving.fleet.replicas.Supervisor", FakeSupervisor)
    monkeypatch.setattr("fourshot.serving.fleet.replicas.available_cores", lambda: 8)
    heard: list[str] = []

    async def run() -> list[dict[str, str]]:
        listening = listen("127.0.0.1", 0)
        settings = ServeSettings(adapters=str(tmp_path), port=listening.getsockname()[1], allowed_hosts=("a.example",))
        replicas = Replicas(settings, listening, 2, "", tmp_path / "serve.log", heard.append)
        serving = asyncio.create_task(replicas.run())
        await asyncio.wait_for(replicas.ready.wait(), 10)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.port}") as client:
            answers = [await client.post(f"/v1/classify/task-{number}", json={}) for number in range(20)]
            assert (await client.get("/v1/tasks", headers={"Host": "evil.example"})).status_code == 421
            assert (await client.get("/v1/models", headers={"Host": "a.example"})).status_code == 200
        replicas.stop()
        await asyncio.wait_for(serving, 10)
        return [answer.json() for answer in answers]

    answers = asyncio.run(run())
    assert {answer["log"] for answer in answers} == {"serve.0.log", "serve.1.log"}
    assert {(answer["threads"], answer["key"]) for answer in answers} == {("4", "router")}
    assert heard == ["replica 0: started", "replica 1: started"]


def test_a_line_of_a_replica_s_log_keeps_its_level_and_names_the_replica() -> None:
    heard: list[str] = []
    _pass_on_line(heard.append, 1, '{"level": "error", "event": "the engine has died"}')
    _pass_on_line(heard.append, 1, "started again")
    assert json.loads(heard[0]) == {"level": "error", "event": "the engine has died", "replica": 1}
    assert heard[1] == "replica 1: started again"


def test_the_command_ends_where_no_replica_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(FakeSupervisor):
        async def run(self) -> None:
            raise FourshotError(f"{self._log.name}: no memory")

    monkeypatch.setattr("fourshot.serving.fleet.replicas.Supervisor", Failing)
    heard: list[str] = []

    async def run() -> None:
        listening = listen("127.0.0.1", 0)
        settings = ServeSettings(adapters=str(tmp_path), port=listening.getsockname()[1])
        await asyncio.wait_for(Replicas(settings, listening, 2, "", tmp_path / "serve.log", heard.append).run(), 10)

    with pytest.raises(FourshotError, match=r"serve\.0\.log: no memory"):
        asyncio.run(run())
    assert heard[2:] == ["replica 0: serve.0.log: no memory", "replica 1: serve.1.log: no memory"]


def test_an_actor_without_a_server_makes_room_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, *_: object) -> None:
            pass

        async def run(self) -> None:
            raise FourshotError("no memory")

    ended: list[int] = []
    monkeypatch.setattr(ray_replicas, "Supervisor", Failing)
    monkeypatch.setattr(ray_replicas, "prepare_machine", lambda setup: "")
    monkeypatch.setattr("os._exit", ended.append)
    ray_replicas._Actor(ServeSettings(adapters=str(tmp_path)), "", 0, MachineSetup(MachineRequirements(), None))
    wait_for(lambda: ended)
    assert ended == [1]


def test_an_actor_whose_machine_can_start_no_process_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def failing(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    ended: list[int] = []
    monkeypatch.setattr(asyncio, "create_subprocess_exec", failing)
    monkeypatch.setattr(ray_replicas, "prepare_machine", lambda setup: "")
    monkeypatch.setattr("os._exit", ended.append)
    ray_replicas._Actor(ServeSettings(adapters=str(tmp_path)), "", 0, MachineSetup(MachineRequirements(), None))
    wait_for(lambda: ended, 10)
    assert ended == [1] and "Cannot allocate memory" in capfd.readouterr().out


def test_a_replica_that_was_stopped_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(ray_replicas, "Supervisor", FakeSupervisor)
    monkeypatch.setattr(ray_replicas, "prepare_machine", lambda setup: "")
    replica = ray_replicas._Actor(
        ServeSettings(adapters=str(tmp_path)), "", 1, MachineSetup(MachineRequirements(), None)
    )
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("fourshot-replica-") and (folder / "keys.toml").exists()
    replica.stop()
    assert [*tmp_path.iterdir()] == []


def test_replicas_on_one_machine_divide_its_gpus() -> None:
    visible = [environment["CUDA_VISIBLE_DEVICES"] for environment in environments(2, {}, ["0", "1", "2", "3", "4"])]
    assert visible == ["0,1", "2,3"]
    assert all("CUDA_VISIBLE_DEVICES" not in environment for environment in environments(2, {}, []))
    with pytest.raises(InputError, match="each needs a GPU, and there are 2 here"):
        environments(3, {}, ["0", "GPU-8a2c"])


def test_a_replica_that_dies_takes_no_request_with_it(tmp_path: Path, narrow_model: str) -> None:
    root = tmp_path / "adapters"
    for number in range(TASKS):
        make_adapter(root, task_of(f"task-{number}"), seed=number, base=resolve_model(narrow_model))
    with running_service(root, tmp_path / "serve.log", *OPTIONS, "--base", narrow_model) as service:
        wait_for(lambda: service.http.get("/metrics").text.count("fourshot_tasks{") == 2, 120)
        codes: list[int] = []
        over = threading.Event()

        def ask(number: int) -> None:
            while not over.is_set():
                answer = service.classify(f"task-{number % TASKS}", {"input": "a text"})
                codes.append(answer.status_code)
                time.sleep(0.2 if answer.status_code == 429 else 0.01)  # as a client does that was asked to wait

        asking = [threading.Thread(target=ask, args=(number,)) for number in range(TASKS)]
        for thread in asking:
            thread.start()
        wait_for(lambda: codes.count(200) > 12)
        actor = next(process for process in service.processes() if process.name().startswith("ray::_Actor"))
        actor.kill()
        actor.wait(10)
        answered = codes.count(200)
        wait_for(lambda: codes.count(200) > answered + 12)
        over.set()
        for thread in asking:
            thread.join()
        engines = service.engines()
    assert set(codes) <= {200, 429}
    _, alive = psutil.wait_procs(engines, timeout=10)
    assert alive == []


def test_replicas_over_ray_get_as_many_cores_as_one_machine_can_give_each() -> None:
    assert [cores_each([2, 2, 2], number) for number in (2, 3, 4)] == [2, 2, 1]
    assert [cores_each([8], number) for number in (1, 2, 3)] == [8, 4, 2]
    assert cores_each([0, 16, 4], 3) == 5
