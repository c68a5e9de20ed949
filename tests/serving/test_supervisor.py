"""The process behind `fourshot serve`, with a server that holds no model: what is done when a process dies."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fourshot.engine.errors import FourshotError, InputError
from fourshot.serving.fleet import supervisor
from fourshot.serving.fleet.launch import ServiceLaunch
from fourshot.serving.fleet.supervisor import Supervisor, listen
from fourshot.serving.settings import Limits, ServeSettings
from fourshot.serving.testing.server import wait_for
from tests.waiting import until

# Stands for Python, so `-P -m fourshot.serving.app.server FD RESTARTS STAGING` follows. {work} is done, not vLLM's.
SERVER = """\
#!{python}
import multiprocessing, os, signal, sys, types
from pathlib import Path
lifecycle = types.SimpleNamespace(process_state=types.SimpleNamespace())
sys.modules["fourshot.serving.app.lifecycle"] = lifecycle
from fourshot.engine.vllm_seams import lora_kernels, lora_loads, lora_pins
from fourshot.engine.vllm_seams.plugin import register
from fourshot.serving.app import server

sys.argv, folder, start = sys.argv[3:], Path({folder!r}), int(sys.argv[5])

def note(name):
    part = folder / f".{{name}}"
    part.write_text(str(os.getpid()))
    part.rename(folder / name)

def engine():
    lora_kernels.apply = lora_loads.register = lora_pins.register = lambda **_: None  # each would import vLLM
    register()
    note("engine")
    signal.pause()

async def serve(settings, listening):
{work}

server.serve = serve
server.main()
"""
OWNER = """\
import asyncio, sys
from pathlib import Path
from fourshot.serving.fleet.supervisor import Supervisor, listen
from fourshot.serving.settings import ServeSettings
sys.executable, folder = sys.argv[1], Path(sys.argv[2])
settings = ServeSettings(adapters=str(folder))
asyncio.run(Supervisor(settings, listen("127.0.0.1", 0), folder / "log.txt", lambda _: None).run())
"""


def server_does(folder: Path, *work: str) -> str:
    """A Python whose server does ``work``."""
    script = folder / "python"
    lines = "\n".join(f"    {line}" for line in work)
    script.write_text(SERVER.format(python=sys.executable, folder=str(folder), work=lines))
    script.chmod(0o755)
    return str(script)


def make_supervisor(folder: Path, listening: socket.socket) -> Supervisor:
    return Supervisor(ServeSettings(adapters=str(folder)), listening, folder / "log.txt", lambda _: None)


@pytest.mark.parametrize(
    ("host", "port", "remedy"),
    [("127.0.0.1", 99999, "to 65535"), ("no.host.invalid", 0, "--host"), ("\u00e9" * 80, 0, "--host")],
)
def test_an_address_that_cannot_be_listened_on_is_bad_input(host: str, port: int, remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        listen(host, port)


def test_a_server_that_never_gets_ready_ends_the_command_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", server_does(tmp_path, "print('no memory', file=sys.stderr)", "sys.exit(3)"))
    with pytest.raises(FourshotError, match=r"(?s)cannot be started \(exit code 3\).*no memory.*log\.txt"):
        asyncio.run(make_supervisor(tmp_path, listen("127.0.0.1", 0)).run())


def test_an_option_that_vllm_does_not_have_is_bad_input_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = "print('usage: serve [-h]\\nserve: error: unrecognized arguments: --nonsense', file=sys.stderr)"
    monkeypatch.setattr(sys, "executable", server_does(tmp_path, usage, "sys.exit(2)"))
    settings = ServeSettings(adapters=str(tmp_path), vllm_arguments=("--nonsense",))
    supervised = Supervisor(settings, listen("127.0.0.1", 0), tmp_path / "log.txt", lambda _: None)
    with pytest.raises(InputError, match=r"follows --vllm: unrecognized arguments: --nonsense\. .*log\.txt\.$"):
        asyncio.run(supervised.run())


def test_a_server_that_once_was_ready_is_tried_three_times_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.serving.fleet.supervisor.LONGEST_PAUSE_S", 0.01)
    ready_once = ("note(f'start-{start}')", "start or lifecycle.process_state.ready()", "sys.exit(3)")
    monkeypatch.setattr(sys, "executable", server_does(tmp_path, *ready_once))
    with pytest.raises(FourshotError, match="cannot be started"):
        asyncio.run(make_supervisor(tmp_path, listen("127.0.0.1", 0)).run())
    assert sorted(file.name for file in tmp_path.glob("start-*")) == [f"start-{number}" for number in range(4)]


def test_while_a_dead_server_starts_again_its_address_answers_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies_once = ("note(f'start-{start}')", "if not start:", "    lifecycle.process_state.ready()", "    sys.exit(3)")
    monkeypatch.setattr(sys, "executable", server_does(tmp_path, *dies_once, "signal.pause()"))

    async def run() -> httpx.Response:
        listening = listen("127.0.0.1", 0)
        supervised = make_supervisor(tmp_path, listening)
        serving = asyncio.create_task(supervised.run())
        await until((tmp_path / "start-1").exists)
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/health"
            answer, head = await client.get(url), await client.head(url)
        assert (head.status_code, head.headers["Content-Length"]) == (503, str(len(answer.content)))
        supervised.stop()
        await serving
        return answer

    answer = asyncio.run(run())
    assert (answer.status_code, answer.json()["error"]["type"], answer.headers["Retry-After"]) == (
        503,
        "restarting",
        "5",
    )
    assert not psutil.pid_exists(int((tmp_path / "start-1").read_text()))


def test_a_long_line_of_the_log_is_cut_and_ends_no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = "import logging; logging.getLogger('fourshot.serving').warning('a name of %s', 'y' * 1_000_000)"
    monkeypatch.setattr(sys, "executable", server_does(tmp_path, logs, "sys.exit(3)"))
    heard: list[str] = []
    supervised = Supervisor(
        ServeSettings(adapters=str(tmp_path)), listen("127.0.0.1", 0), tmp_path / "log.txt", heard.append
    )
    with pytest.raises(FourshotError, match="exit code 3"):
        asyncio.run(supervised.run())
    assert "a name of yyy" in heard[0] and len(heard[0]) < 20_000


def test_a_server_that_is_stuck_does_not_keep_the_command_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GRACE_S", 0.1)
    monkeypatch.setattr(sys, "executable", server_does(tmp_path, "lifecycle.process_state.ready()", "signal.pause()"))

    async def run() -> None:
        settings = ServeSettings(adapters=str(tmp_path), drain_s=0.1)
        supervised = Supervisor(settings, listen("127.0.0.1", 0), tmp_path / "log.txt", lambda _: None)
        serving = asyncio.create_task(supervised.run())
        await supervised.ready.wait()
        supervised.stop()
        await asyncio.wait_for(serving, 10)

    asyncio.run(run())


def test_a_server_that_is_being_made_when_it_is_stopped_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", server_does(tmp_path, "signal.pause()"))

    async def run() -> None:
        supervised = make_supervisor(tmp_path, listen("127.0.0.1", 0))
        begin = asyncio.create_subprocess_exec

        async def begun(*words: str, **settings: Any) -> asyncio.subprocess.Process:
            child = await begin(*words, **settings)
            supervised.stop()
            return child

        monkeypatch.setattr(asyncio, "create_subprocess_exec", begun)
        await asyncio.wait_for(supervised.run(), 10)

    asyncio.run(run())


def test_server_and_engine_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    starts_an_engine = ("multiprocessing.get_context('fork').Process(target=engine).start()", "note('server')")
    script = server_does(tmp_path, *starts_an_engine, "signal.pause()")
    owner = subprocess.Popen([sys.executable, "-c", OWNER, script, str(tmp_path)], start_new_session=True)
    try:
        wait_for(lambda: (tmp_path / "server").exists() and (tmp_path / "engine").exists())
        processes = [psutil.Process(int((tmp_path / name).read_text())) for name in ("server", "engine")]
        assert len({os.getpid(), owner.pid, *(process.pid for process in processes)}) == 4
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


def test_one_that_ends_soon_whenever_it_is_ready_waits_longer_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    supervised = make_supervisor(tmp_path, listen("127.0.0.1", 0))

    async def wait_for(waiting: Any, pause_s: float) -> None:
        waiting.close()
        pauses.append(pause_s)
        if len(pauses) == 7:
            supervised.stop()
        raise TimeoutError

    async def one_server() -> tuple[bool, int]:
        if len(pauses) == 5:
            monkeypatch.setattr(supervisor, "LONG_ENOUGH_S", -1.0)
        return True, 1

    monkeypatch.setattr(supervised, "_one_server", one_server)
    monkeypatch.setattr("fourshot.serving.fleet.supervisor.asyncio.wait_for", wait_for)
    asyncio.run(supervised.run())
    assert pauses == pytest.approx([0.1, 0.4, 1.6, 6.4, 25.6, 0.1, 0.1])


def test_a_service_may_have_as_many_connections_as_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Servers:
        def __init__(self) -> None:
            self.ready = asyncio.Event()

        def stop(self) -> None: ...

        async def run(self) -> None:
            (tmp_path / "files").write_text(subprocess.check_output(["sh", "-c", "ulimit -n"], text=True))

    nothing: Any = None
    monkeypatch.setattr(ServiceLaunch, "_servers", lambda *_: Servers())
    settings = ServeSettings(adapters="", limits=Limits(max_connections=300))
    launch = ServiceLaunch(settings=settings, contents=nothing, listening=nothing, replicas=1, ray="")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        asyncio.run(launch.run(tmp_path / "log.txt", lambda _: None, lambda: None))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert int((tmp_path / "files").read_text()) > 2 * 300  # the router of replicas has two of each
