"""A stage in a process of its own: what it says arrives, what it dies of is told, and it never outlives its parent.

The work of the child is replaced here by a few lines of each test; the processes are real.
"""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path
from typing import Any

import pytest

from fourshot.engine import errors
from fourshot.engine.core import Adapter, Engine
from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.parent import PARENT as PARENT_PID
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.stage_process import run_stage
from fourshot.pipeline.runs.stages.stage import EngineStage
from fourshot.pipeline.runs.stages.train import TrainStage
from fourshot.training.jobs.jobs import TrainingJob
from fourshot.training.lora.examples import TrainingExample, TrainingResult
from fourshot.training.lora.settings import LoraSettings
from tests.pipeline.runs.prepared_experiments import write_finished
from tests.waiting import wait_for

PATIENCE_S = 30
RESULT = TrainingResult(
    name="notes-0", path="", steps=1, planned_steps=1, losses=(0.5,), tokens=9, seconds=1.0, examples=1
)

# Python imports this by itself at start, in every process that has its folder in the path.
AT_START = """\
import os, signal, sys, time
from fourshot.pipeline.runs.stages.train import TrainStage
from fourshot.engine.errors import *
from fourshot.pipeline.events import Event

def run(stage, on_event):
{work}
    return []

TrainStage.run = run
{early}
"""

PARENT = """\
import os, sys
from pathlib import Path
import msgspec
from fourshot.engine.machine.processes import ChildProcess
from fourshot.pipeline.runs.stage_process import run_stage
from fourshot.pipeline.runs.stages.train import TrainStage
stage = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=TrainStage)
{early}
run_stage(stage, lambda event: None)
"""


@pytest.fixture
def stage(tmp_path: Path, log: Path) -> TrainStage:
    """Something that is left to do."""
    job = TrainingJob(
        name="notes",
        model_revision="",
        examples=(TrainingExample(prompt="Label:", target=0),),
        labels=("warm", "cold"),
        settings=LoraSettings(),
    )
    return TrainStage(model_path="nowhere", store=str(tmp_path / "store"), items=(job,), log=str(log))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


def child_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, work: str, early: str = "") -> None:
    """Have every child that is started from here do ``work`` for its stage; ``early`` runs before the child's main."""
    body = textwrap.indent(textwrap.dedent(work), "    ")
    (tmp_path / "sitecustomize.py").write_text(AT_START.format(work=body, early=early))
    monkeypatch.syspath_prepend(tmp_path)


def start_parent(tmp_path: Path, stage: TrainStage, early: str = "") -> "subprocess.Popen[bytes]":
    """A process that gives ``stage`` to a child; the test may kill it."""
    import msgspec

    (tmp_path / "stage.json").write_bytes(msgspec.json.encode(stage))
    command = [sys.executable, "-S", "-c", PARENT.format(early=early), str(tmp_path / "stage.json")]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})


def lives(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not asked for its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_what_the_child_tells_arrives_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: TrainStage, log: Path
) -> None:
    child_does(monkeypatch, tmp_path, "for n in range(3): on_event(Event(stage='train', message='ä\\n', done=n))")
    events: list[Event] = []
    run_stage(stage, events.append)
    assert events == [Event(stage="train", message="ä\n", done=n) for n in range(3)]


def test_what_libraries_print_goes_to_the_log_and_not_between_the_events(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: TrainStage, log: Path
) -> None:
    work = """
        print("from python")
        os.write(1, b"from a library in C, without a line end")
        os.system("echo from a process of its own")
        on_event(Event(stage="train", done=1))
        print("more", file=sys.__stdout__, flush=True)
    """
    child_does(monkeypatch, tmp_path, work)
    events: list[Event] = []
    run_stage(stage, events.append)
    assert events == [Event(stage="train", done=1)]
    for printed in ("from python", "from a library in C", "from a process of its own", "more"):
        assert printed in log.read_text()


@pytest.mark.parametrize("kind", ["InputError", "ShortRunError", "RunFolderError", "AdapterError", "FourshotError"])
def test_an_error_of_ours_comes_back_as_what_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: TrainStage, log: Path, kind: str
) -> None:
    child_does(monkeypatch, tmp_path, f"raise {kind}('what was got\\nwhat to do')")
    with pytest.raises(FourshotError) as caught:
        run_stage(stage, lambda _: None)
    assert type(caught.value) is getattr(errors, kind)
    assert str(caught.value) == "what was got\nwhat to do"


def test_faults_in_a_task_file_come_back_as_bad_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: TrainStage, log: Path
) -> None:
    child_does(monkeypatch, tmp_path, "raise TaskFileError('task.toml', ['no name', 'no labels'])")
    with pytest.raises(InputError, match=r"task\.toml has 2 faults:\n  - no name\n  - no labels"):
        run_stage(stage, lambda _: None)


def test_a_full_disk_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: TrainStage, log: Path
) -> None:
    child_does(monkeypatch, tmp_path, "raise OSError(28, 'No space left on device', '/somewhere/x.json')")
    with pytest.raises(FourshotError, match=r"^No space left on device \(/somewhere/x\.json\)\. .*again\.$"):
        run_stage(stage, lambda _: None)


def test_a_fault_of_ours_names_the_log_and_shows_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: TrainStage, log: Path
) -> None:
    child_does(monkeypatch, tmp_path, "raise ZeroDivisionError('by nought')")
    with pytest.raises(FourshotError) as caught:
        run_stage(stage, lambda _: None)
    message = str(caught.value)
    assert "ended with exit code 1" in message and str(log) in message and "ZeroDivisionError: by nought" in message
    assert "run the same command again" in message


@pytest.mark.parametrize(("name", "hint"), [("SIGKILL", "out of memory"), ("SIGSEGV", "")])
def test_a_child_ended_by_a_signal_is_said_to_be_so_with_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: TrainStage, log: Path, name: str, hint: str
) -> None:
    child_does(monkeypatch, tmp_path, f"print('last words', flush=True); os.kill(os.getpid(), signal.{name})")
    with pytest.raises(FourshotError) as caught:
        run_stage(stage, lambda _: None)
    message = str(caught.value)
    assert f"ended by signal {name}" in message and str(log) in message and "last words" in message
    assert hint in message and ("memory" in message) == bool(hint)


def test_whoever_listens_may_stop_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: TrainStage, log: Path
) -> None:
    child_does(monkeypatch, tmp_path, "on_event(Event(stage='train', done=os.getpid())); signal.pause()")
    pids: list[int] = []

    def stop(event: Event) -> None:
        pids.append(int(event.done))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, stop)
    assert not lives(pids[0])


def test_a_child_dies_with_a_parent_that_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: TrainStage, log: Path
) -> None:
    noted = tmp_path / "pid"
    child_does(monkeypatch, tmp_path, f"open({str(noted)!r}, 'w').write(str(os.getpid()) + '\\n'); signal.pause()")
    parent = start_parent(tmp_path, stage)
    try:
        wait_for(lambda: noted.exists() and noted.read_text().endswith("\n"), "the child's work to begin")
        child = int(noted.read_text())
        assert lives(child)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not lives(child), "the child to die")


def test_a_child_whose_parent_was_killed_before_it_was_ready_does_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: TrainStage, log: Path
) -> None:
    """Its stage is in the pipe by then: it would write into a folder that another run may have taken."""
    noted, worked = tmp_path / "pid", tmp_path / "worked"
    module = "fourshot.pipeline.runs.stage_process"
    starting = f"""
if {module!r} in sys.orig_argv:
    open({str(noted)!r}, 'w').write(f'{{os.getpid()}}\\n')
    while os.getppid() == int(os.environ[{PARENT_PID!r}]):
        time.sleep(0.001)
"""
    child_does(monkeypatch, tmp_path, f"open({str(worked)!r}, 'w')", starting)
    dies = "ChildProcess.messages = lambda *_: os.kill(os.getpid(), 9)"
    parent = start_parent(tmp_path, stage, dies)
    assert parent.wait(timeout=PATIENCE_S) == -signal.SIGKILL
    wait_for(lambda: noted.exists() and noted.read_text().endswith("\n"), "the child to start")
    wait_for(lambda: not lives(int(noted.read_text())), "the child to end")
    assert not worked.exists()


def test_where_nothing_is_left_to_do_no_process_is_started(tmp_path: Path, stage: TrainStage, log: Path) -> None:
    write_finished(tmp_path / "store" / stage.items[0].key, RESULT)
    run_stage(stage, lambda _: None)
    assert not log.exists()


class Asking(EngineStage, frozen=True, kw_only=True, tag="asking"):
    """Notes which engine it was given."""

    def is_finished(self, item: Any) -> bool:
        return False

    def adapters(self) -> set[Adapter]:
        return set()

    def do(self, item: "list[weakref.ref[Engine]]", engine: Engine, on_event: OnEvent) -> None:
        item.append(weakref.ref(engine))


def test_an_engine_lasts_as_long_as_the_process_of_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of vLLM that nobody has any more is closed, which takes it seconds, and its process ends anyway."""
    monkeypatch.setattr("fourshot.pipeline.runs.stages.stage.gpus", lambda _: [])
    given: list[weakref.ref[Engine]] = []
    assert Asking(model_path="fake", items=(given,)).run(lambda event: None) == []
    gc.collect()
    assert given[0]() is not None
