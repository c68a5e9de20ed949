"""Copies where something is missing: a folder, memory, file descriptors. A process of its own takes their place."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fourshot.engine.machine import forks
from fourshot.engine.machine.processes import ChildProcess, child_environment, prepare_child
from fourshot.engine.machine.threads import ENGINE_SPINS
from tests.engine.test_forks import IMPORTS, MODULE, is_over, state_of
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="copies need Linux"),
    pytest.mark.usefixtures("own_servers"),
]


def test_a_folder_that_is_gone_is_no_hindrance(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    with ChildProcess("json.tool", log, imports=IMPORTS) as child:
        child.finish()
    assert child.wait() == 1, "it was started, and given no JSON"


def test_a_folder_whose_name_is_no_text_is_no_hindrance(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(here)
    monkeypatch.chdir(os.fsdecode(here))
    with ChildProcess("json.tool", log, imports=IMPORTS) as child:
        child.finish()
    assert child.wait() == 1, "it was started, and given no JSON"


def test_a_copy_that_cannot_be_made_is_started_as_usual_and_costs_no_other_one(log: Path) -> None:
    imports = "tests.engine.forks_once"
    with ChildProcess(MODULE, log, imports=imports) as first:
        server = state_of(first)["parent"]
        assert server != os.getpid()
        with ChildProcess(MODULE, log, imports=imports) as second:
            assert state_of(second)["parent"] == os.getpid()
        assert state_of(first)["parent"] == server


def test_a_server_with_too_many_files_keeps_its_copies(log: Path) -> None:
    with ChildProcess(MODULE, log, imports=IMPORTS) as first:
        server = state_of(first)["parent"]
        used = {int(number) for number in os.listdir(f"/proc/{server}/fd")}
        free = [number for number in range(100) if number not in used]
        for room in range(7):  # four that it is sent, and for the copy its end and its number
            resource.prlimit(server, resource.RLIMIT_NOFILE, (free[room], 4096))
            with ChildProcess(MODULE, log, imports=IMPORTS) as second:
                assert state_of(second)["parent"] == (os.getpid() if room < 6 else server), room
        assert state_of(first)["parent"] == server


def test_a_server_ends_with_who_asked_for_it_while_it_imports(log: Path) -> None:
    words = "import sys; from pathlib import Path; from fourshot.engine.machine.processes import prepare_child"
    code = f"{words}; prepare_child('tests.engine.imports_for_ever', '0', Path(sys.argv[1])); sys.stdin.read()"
    owner = subprocess.Popen([sys.executable, "-c", code, str(log)], stdin=subprocess.PIPE, env=child_environment())
    with owner:
        wait_for(lambda: log.exists() and "importing" in log.read_text(), "the server")
        (server,) = psutil.Process(owner.pid).children()
        owner.kill()
    try:
        wait_for(lambda: is_over(server), "the server to end")
    finally:
        if server.is_running():
            server.kill()


def test_copies_may_be_asked_for_while_others_are_counted(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By several threads: each copy of a server that another one looks at."""
    with ChildProcess(MODULE, log, imports=IMPORTS) as first, ChildProcess(MODULE, log, imports=IMPORTS):
        (server,) = forks._servers._by_state.values()
        more: list[ChildProcess] = []

        def is_running(_: forks.ForkedProcess) -> bool:
            if not more:
                more.append(ChildProcess(MODULE, log, imports=IMPORTS))
            return False

        assert first._process in server._copies
        with monkeypatch.context() as patch:
            patch.setattr(forks.ForkedProcess, "is_running", property(is_running))
            assert server.is_idle
        more[0].finish()


def test_a_server_that_still_imports_does_not_outlive_who_asked_for_it(log: Path) -> None:
    prepare_child("tests.engine.imports_slowly", ENGINE_SPINS, log)
    (server,) = forks._servers._by_state.values()
    began = time.monotonic()
    forks._servers.end()
    assert server._process.poll() is not None and time.monotonic() - began < 1


def test_a_process_that_an_import_left_may_end(log: Path) -> None:
    with ChildProcess(MODULE, log, imports="tests.engine.leaves_a_process") as child:
        server = psutil.Process(state_of(child)["parent"])
        wait_for(lambda: len(server.children()) == 1, "the other process to end")
        assert state_of(child)["parent"] == server.pid
    child.check("A copy")
