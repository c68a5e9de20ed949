"""A run with a few seconds per stage, in a process that a test may kill at any time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import msgspec

from fourshot.pipeline.events import Event
from tests.pipeline.task_folders import write_jsonl

LABELS = ("billing", "login")  # two of the demo's five, to generate and annotate less, with shorter prompts

BRIEF = (
    *("--per-class", "8", "--allow-short", "--json"),
    # So many candidates calibrate the classifiers: fewer than 20 of them, without those that are learnt, would not.
    *("--set", "generate.draws_per_round=16", "--set", "generate.max_candidates=48"),
    *("--set", "generate.max_tokens=20", "--set", "train.max_steps=12"),
    *("--set", "train.target_modules=['q_proj','v_proj']"),
)
KILL_S = 120.0  # in which a file must exist that a kill waits for


class OutputLine(msgspec.Struct):
    """One line of ``fourshot run --json``."""

    type: str


def write_inbox(folder: Path) -> None:
    """Write a task with the demo's texts of two classes to ``folder``."""
    folder.mkdir()
    shipped = resources.files("fourshot.pipeline.tasks") / "shipped" / "support_tickets"
    for file in ("shots.jsonl", "test.jsonl"):
        rows = [json.loads(line) for line in (shipped / file).read_text(encoding="utf-8").splitlines()]
        write_jsonl(folder / file, [row for row in rows if row["label"] in LABELS])
    labels = "\n".join(f'[[labels]]\nname = "{label}"' for label in LABELS)
    head = f'name = "inbox"\ninstruction = "Is the ticket about {" or ".join(LABELS)}?"\nnoun = "support ticket"'
    (folder / "inbox.toml").write_text(f'{head}\n\n[data]\nfolder = "."\n\n{labels}\n', encoding="utf-8")


def start(folder: Path, base: str, *options: str) -> "subprocess.Popen[bytes]":
    """Start ``fourshot run`` with the task "inbox" beside ``folder`` and the checkpoint ``base``, into ``folder``."""
    task = folder.parent / "inbox"
    if not task.exists():
        write_inbox(task)
    command = [sys.executable, "-m", "fourshot", "run", str(task), "--out", str(folder)]
    command += ["--model", base, *BRIEF, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(folder: Path, base: str, *options: str) -> list[Event]:
    """Run to the end. Return the events."""
    process = start(folder, base, *options)
    out, err = process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    return [event for line in out.splitlines() if (event := event_of(line))]


def kill_when(folder: Path, base: str, due: Callable[[Event], bool], file: str = "") -> None:
    """Run until an event is ``due``, then kill the process as a power cut would. Its child must end with it.

    ``file``: a pattern of files in ``folder``, one of which must exist, too.
    """
    process = start(folder, base)
    assert process.stdout
    try:
        for line in process.stdout:
            event = event_of(line)
            if event and due(event):
                given_up_s = time.monotonic() + KILL_S
                while file and not any(folder.glob(file)) and time.monotonic() < given_up_s:
                    time.sleep(0.005)
                break
        else:
            stderr = process.communicate()[1].decode()[-2000:]
            raise AssertionError(f"the run ended before it was to be killed: {stderr}")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()


def event_of(line: bytes) -> Event | None:
    """Return the event in a line of output, or None if it has none."""
    if msgspec.json.decode(line, type=OutputLine).type != "progress":
        return None
    return msgspec.json.decode(line, type=Event)
