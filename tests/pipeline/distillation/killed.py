"""`fourshot distill` in forks of a process with the slow imports done: undisturbed, and killed in each stage.

Its argument is a folder. It writes ``undisturbed`` and ``killed`` there, and each start's output as ``<name>.jsonl``.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from fourshot.cli.main import main
from fourshot.pipeline.distillation import distilled
from fourshot.pipeline.events import Event
from fourshot.pipeline.runs.stages.student import StudentStage
from fourshot.pipeline.tasks.task_file import load_task
from tests.pipeline.task_folders import write_jsonl, write_task
from tests.serving.random_students import make_student
from tests.training.students.tiny_encoders import make_encoder

TEXTS = [f"note {number} of {word}" for number in range(10) for word in ("sun", "ice", "tea", "snow")]
ALONE = "on the shots alone"
# Stage -> an event at which it is partly done. For the report, the process dies when writing begins.
DEATHS: dict[str, Callable[[Event], bool]] = {
    "annotate": lambda event: event.stage == "annotate" and event.done == 16,
    "student": lambda event: event.stage == "train" and event.done == 2 and ALONE not in event.message,
    "export": lambda event: event.stage == "export",
    "alone": lambda event: event.stage == "train" and event.done == 2 and ALONE in event.message,
    "report": lambda event: False,
}


def die(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def start(root: Path, name: str, out: str, death: str = "") -> int:
    """Run the command in a fork of this process that dies at ``death``. Return its exit code, negative for a signal."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = os.open(root / f"{name}.jsonl", os.O_WRONLY | os.O_CREAT)
    os.dup2(lines, 1)
    from fourshot import teaching

    distill = teaching.distill

    def watched(task: Any, *, on_event: Callable[[Event], None], **arguments: Any) -> Any:
        def tell(event: Event) -> None:
            on_event(event)
            if death and DEATHS[death](event):
                die()

        return distill(task, on_event=tell, **arguments)

    teaching.distill = watched  # type: ignore[assignment]
    if death == "report":
        vars(distilled)["write_report"] = die
    words = ["distill", str(root / "task.toml"), "--unlabelled", str(root / "notes.jsonl"), "--json", "--onnx"]
    words += ["--by", str(next(root.glob("teacher/*"))), "--student", str(root / "encoder"), "--max-tokens", "32"]
    os._exit(main([*words, "--out", str(root / out)]))


def prepare(root: Path) -> None:
    write_task(root)
    write_jsonl(root / "notes.jsonl", [{"text": text} for text in TEXTS])
    make_encoder("distilbert", root / "encoder")
    make_student(root / "teacher", load_task(root / "task.toml"))
    StudentStage.needs_process = False  # a separate process would repeat the imports at each start


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    prepare(folder)
    ends = {"undisturbed": start(folder, "undisturbed", "undisturbed")}
    ends |= {death: start(folder, death, "killed", death) for death in DEATHS}
    ends |= {"last": start(folder, "last", "killed")}
    print(ends)
    sys.exit(ends != {"undisturbed": 0, **dict.fromkeys(DEATHS, -signal.SIGKILL), "last": 0})
