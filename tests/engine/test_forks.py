"""Children that are copies of a process: they are what a process of their own would be, and end as it would."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine import forks
from fourshot.engine.machine.processes import ChildProcess, child_environment, prepare_child
from fourshot.engine.opening import imports_of
from fourshot.training.jobs.jobs import IMPORTS as TRAINING_IMPORTS
from tests.waiting import wait_for

MODULE, IMPORTS = "tests.engine.forked", "json.tool"
OWNER = f"""
import sys
from pathlib import Path
from fourshot.engine.machine.processes import ChildProcess
child = ChildProcess("{MODULE}", Path(sys.argv[1]), imports="{IMPORTS}")
child.send("sleep")
child.receive(dict)
print(child.pid, flush=True)
child.receive(dict)
"""

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="copies need Linux"),
    pytest.mark.usefixtures("own_servers"),
]


def state_of(child: ChildProcess) -> dict[str, Any]:
    child.send("state")
    return child.receive(dict)


def is_over(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_copy_is_as_a_process_of_its_own_but_has_imported_what_it_needs(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    for number in range(2):
        folder = tmp_path / f"here {number}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        for imports in (IMPORTS, ""):
            with ChildProcess(MODULE, log, "--of", "mine", imports=imports) as child:
                states.append(state_of(child))
                assert states[-1].pop("pid") == child.pid
            child.check("A copy")
    assert log.read_text() == "seen by nobody\n" * 4, "what libraries print is in the log"
    copies, others = states[::2], states[1::2]
    assert len({copy.pop("parent") for copy in copies}) == 1 and {other.pop("parent") for other in others} == {
        os.getpid()
    }
    assert {copy.pop("has_imported") for copy in copies} == {True} != {other.pop("has_imported") for other in others}
    assert copies == others
    assert copies[0]["arguments"] == ["--of", "mine"] and copies[0]["interrupt"] and copies[0]["files"] == [0, 1, 2, 3]


@pytest.mark.parametrize("imports", [IMPORTS, ""])
def test_modules_in_the_folder_where_it_works_hide_none(
    imports: str, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command does not import what lies where it is called; its children, started with ``-m``, did."""
    for name in ("selectors", "msgspec", "token"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('of the user')")
    monkeypatch.chdir(tmp_path)
    with ChildProcess(MODULE, log, imports=imports) as child:
        assert (state_of(child)["parent"] != os.getpid()) == bool(imports)


def test_copies_live_side_by_side_and_end_each_in_its_own_way(log: Path) -> None:
    children = [ChildProcess(MODULE, log, imports=IMPORTS) for _ in range(5)]
    refused, failed, ended, killed, finished = children
    assert len({child.pid for child in children}) == 5
    refused.send("refuse")
    with pytest.raises(InputError, match="no such thing"):
        refused.receive(dict)
    failed.send("fail")
    with pytest.raises(FourshotError, match=r"(?s)exit code 1.*RuntimeError: a fault"):
        failed.receive(dict)
    for child in (ended, killed):
        child.send("sleep")
        assert child.receive(dict) == {"asleep": True}
    ended.end()
    assert ended.wait() == -signal.SIGTERM
    os.kill(killed.pid, signal.SIGKILL)
    with pytest.raises(FourshotError, match=r"SIGKILL.*run out of memory"):
        killed.receive(dict)
    with pytest.raises(subprocess.TimeoutExpired):
        finished._process.wait(0.01)
    finished.finish(10)
    assert finished.wait() == 0


def test_another_environment_or_limit_gets_a_server_of_its_own(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = []
    for value in ("1", "2", "3", "1", "4"):
        monkeypatch.setenv("FOURSHOT_TRIED", value)
        with ChildProcess(MODULE, log, imports=IMPORTS) as child:
            state = state_of(child)
        assert state["environment"]["FOURSHOT_TRIED"] == value
        parents.append(state["parent"])
    assert parents[0] == parents[3] and len({*parents}) == 4
    assert len(forks._servers._by_state) == forks.MOST_SERVERS == 3
    for value, is_kept in (("3", True), ("1", True), ("2", False)):  # "2" was used the longest ago
        monkeypatch.setenv("FOURSHOT_TRIED", value)
        with ChildProcess(MODULE, log, imports=IMPORTS) as child:
            assert (state_of(child)["parent"] in parents) == is_kept
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {77})
    with ChildProcess(MODULE, log, imports=IMPORTS) as child:
        assert state_of(child)["parent"] not in parents


def test_where_other_servers_are_busy_a_process_is_started_as_usual(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children = []
    for value in ("1", "2", "3", "4"):
        monkeypatch.setenv("FOURSHOT_TRIED", value)
        children.append(ChildProcess(MODULE, log, imports=IMPORTS))
    assert [state_of(child)["parent"] == os.getpid() for child in children] == [False, False, False, True]
    for child in children:
        child.finish(10)


@pytest.mark.parametrize("imports", ["no.such.module", "tests.engine.starts_a_thread"])
def test_a_server_that_cannot_be_costs_nothing_but_the_copies(imports: str, log: Path) -> None:
    def run() -> None:
        with ChildProcess(MODULE, log, imports=imports) as child:
            assert state_of(child)["parent"] == os.getpid()
        child.check("A child")

    run()
    (server,) = forks._servers._by_state.values()
    wait_for(lambda: server.is_unfit, "the server to end")
    run()
    assert not forks._servers._by_state, "it is not tried again"


def test_without_its_server_a_copy_is_killed_and_the_next_has_a_new_one(log: Path) -> None:
    child = ChildProcess(MODULE, log, imports=IMPORTS)
    server = psutil.Process(state_of(child)["parent"])
    server.kill()
    with pytest.raises(FourshotError, match="SIGKILL"):
        child.receive(dict)
    with ChildProcess(MODULE, log, imports=IMPORTS) as child:
        assert state_of(child)["parent"] not in (server.pid, os.getpid())


def test_a_server_without_copies_ends_after_a_while_and_a_busy_one_does_not(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "IDLE_S", 0.3)
    with ChildProcess(MODULE, log, imports=IMPORTS) as child:
        server = psutil.Process(state_of(child)["parent"])
        with pytest.raises(psutil.TimeoutExpired):
            server.wait(1)
    wait_for(lambda: is_over(server), "the server to end")
    with ChildProcess(MODULE, log, imports=IMPORTS) as child:
        assert state_of(child)["parent"] not in (server.pid, os.getpid())


@pytest.mark.parametrize("threads", [None, "7"])
def test_a_copy_has_the_environment_that_its_imports_leave(
    threads: str | None, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the single thread that these had: that is for loading alone."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    with ChildProcess(MODULE, log, imports="tests.engine.sets_a_variable") as child:
        environment = state_of(child)["environment"]
    assert environment["FOURSHOT_SET_AT_IMPORT"] == "1"
    assert environment.get("OPENBLAS_NUM_THREADS") == threads


def test_a_server_that_was_prepared_is_used(log: Path) -> None:
    prepare_child(IMPORTS, "77", log)
    (server,) = forks._servers._by_state.values()
    with ChildProcess(MODULE, log, spins="77", imports=IMPORTS) as child:
        assert state_of(child)["parent"] == server._process.pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_copies_and_their_server_end_with_who_asked_for_them(number: signal.Signals, log: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(log)], stdout=subprocess.PIPE, env=child_environment())
    assert owner.stdout
    with owner:
        copy = psutil.Process(int(owner.stdout.readline()))
        server = copy.parent()
        assert server and server.ppid() == owner.pid
        owner.send_signal(number)
    wait_for(lambda: is_over(copy) and is_over(server), "the copy and its server to end")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What a shell begins in the background ignores Ctrl-C, and so does what it starts, unless it says otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_is_for_the_copy_and_not_for_its_server(log: Path) -> None:
    with ChildProcess(MODULE, log, imports=IMPORTS) as child:
        server = psutil.Process(state_of(child)["parent"])
        child.send("sleep")
        assert child.receive(dict) == {"asleep": True}
        for pid in (server.pid, child.pid):
            os.kill(pid, signal.SIGINT)
        assert child.wait() == 130
    assert not is_over(server)


@pytest.mark.parametrize("imports", [imports_of(EngineSettings(model="any")), TRAINING_IMPORTS])
def test_what_engines_and_trainings_import_can_be_copied(imports: str, log: Path) -> None:
    """It starts no thread, and takes nothing that only one process can have."""
    with ChildProcess(MODULE, log, imports=imports) as child:
        assert state_of(child)["parent"] != os.getpid(), log.read_text()


def test_with_a_gpu_processes_are_started_as_usual(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "gpus", lambda _: ["0"])
    with ChildProcess(MODULE, log, imports=IMPORTS) as child:
        assert state_of(child)["parent"] == os.getpid()
