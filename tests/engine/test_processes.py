"""Children: what they say arrives, what libraries print does not, and they die with their parent."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fourshot.engine import errors
from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine import processes
from fourshot.engine.machine.parent import PARENT
from fourshot.engine.machine.processes import ChildProcess, child_environment
from tests.engine.child import Answer, Question
from tests.waiting import wait_for

PARENT_CODE = """
import signal, sys
from pathlib import Path
from fourshot.engine.machine.processes import ChildProcess
from tests.engine.child import Answer, Question
child = ChildProcess("tests.engine.child", Path(sys.argv[1]), "answer")
child.send(Question(number=1))
print(child.receive(Answer).pid, flush=True)
signal.pause()
"""


def start(log: Path, action: str) -> ChildProcess:
    child = ChildProcess("tests.engine.child", log, action)
    child.send(Question(number=21))
    return child


def test_messages_go_both_ways_and_prints_go_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log.txt"
    with start(log, "print") as child:
        assert child.receive(Answer).number == 42
        child.send(Question(number=1))
        assert child.receive(Answer) == Answer(number=2, pid=child.pid)
        child.finish()
        assert list(child.messages(Answer)) == []
        child.check("It")
    for printed in ("from python", "from a library in C", "from a process of its own"):
        assert printed in log.read_text()


@pytest.mark.parametrize("kind", ["InputError", "ShortRunError", "RunFolderError", "ServiceError"])
def test_an_error_of_ours_comes_back_as_what_it_was(tmp_path: Path, kind: str) -> None:
    with start(tmp_path / "log.txt", kind) as child, pytest.raises(FourshotError) as caught:
        child.receive(Answer)
    assert type(caught.value) is getattr(errors, kind)
    assert str(caught.value) == "what was got\nwhat to do"
    assert child.wait() == caught.value.exit_code


def test_faults_in_a_task_file_come_back_as_bad_input(tmp_path: Path) -> None:
    with start(tmp_path / "log.txt", "TaskFileError") as child:
        assert list(child.messages(Answer)) == []
        with pytest.raises(InputError, match=r"task\.toml has 2 faults:\n  - no name\n  - no labels"):
            child.check("It")


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    with start(tmp_path / "log.txt", "OSError") as child:
        with pytest.raises(FourshotError, match=r"^No space left on device \(weights\)\. Finished work is kept"):
            child.receive(Answer)
        assert child.wait() == 1


def test_a_dead_child_is_told_with_its_own_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("of an earlier child\n")
    with start(log, "die") as child, pytest.raises(FourshotError) as caught:
        child.receive(Answer)
    message = str(caught.value)
    assert "was ended by signal SIGKILL. It may have run out of memory." in message
    assert message.endswith(f"The end of its log ({log}):\nthe last words")
    child.send(Question(number=1))  # nobody hears it, and it does not raise


def test_a_log_that_nobody_will_find_is_shown_and_not_named(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with ChildProcess("tests.engine.child", log, "die", keeps_log=False) as child:
        child.send(Question(number=1))
        with pytest.raises(FourshotError, match=r"The end of its log:\nthe last words$"):
            child.receive(Answer)


def test_a_message_that_death_cut_short_is_no_message(tmp_path: Path) -> None:
    with start(tmp_path / "log.txt", "half") as child:
        assert list(child.messages(Answer)) == []
        with pytest.raises(FourshotError, match="ended with exit code 3"):
            child.check("It")


def test_a_child_that_will_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TERMINATE_S", 0.1)
    child = start(tmp_path / "log.txt", "deaf")
    child.receive(Answer)
    child.end()
    assert child.wait() == -9
    child.end()


def test_a_child_is_ended_where_its_parent_goes_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of its parent"), start(tmp_path / "log.txt", "answer") as child:
        raise ValueError("of its parent")
    assert child.wait() == -15


def test_a_child_dies_with_its_parent_and_with_one_that_is_dead_already(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT_CODE, str(tmp_path / "log.txt")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, env=child_environment())
    assert parent.stdout
    with parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child to end")
    orphan = {**child_environment(), PARENT: "1"}
    done = subprocess.run([sys.executable, "-m", "tests.engine.child", "answer"], env=orphan, input=b"", check=False)
    assert done.returncode == 1


def test_a_process_that_ends_at_once_does_what_was_registered_and_says_all(tmp_path: Path) -> None:
    code = (
        "import atexit, sys; from fourshot.engine.machine.processes import end_process; "
        "atexit.register(lambda: print('registered')); print('said'); end_process(3); print('never')"
    )
    done = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"said\nregistered\n", b"")


def test_a_process_that_ends_at_once_collects_nothing_first() -> None:
    code = """
import atexit, gc
from fourshot.engine.machine.processes import end_process

class Garbage:
    def __init__(self): self.itself = self
    def __del__(self): print("collected")

@atexit.register
def as_vllm_does():
    gc.unfreeze()
    gc.collect()

gc.disable()
Garbage()
end_process(0)
"""
    done = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_child_imports_from_where_an_interactive_parent_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/elsewhere", tmp_path])  # Python itself ignores what is no string
    assert child_environment()["PYTHONPATH"] == f"{tmp_path}:/elsewhere"
    here = tmp_path / "gone"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    assert child_environment()["PYTHONPATH"] == "/elsewhere"
