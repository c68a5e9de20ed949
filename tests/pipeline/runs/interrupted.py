"""A run of a few seconds per stage, in a process that a test may kill at any moment."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from fourshot.pipeline.events import Event

BRIEF = (
    *("--per-class", "3", "--allow-short", "--test-limit", "12", "--json"),
    *("--set", "generate.draws_per_round=4", "--set", "generate.max_candidates=12", "--set", "generate.max_tokens=20"),
    *("--set", "train.max_steps=4", "--set", "train.target_modules=['q_proj','v_proj']"),
)


class Told(msgspec.Struct):
    """One line of ``fourshot run --json``."""

    type: str


def start(folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    """``fourshot run support_tickets`` into ``folder``."""
    command = [sys.executable, "-m", "fourshot", "run", "support_tickets", "--out", str(folder), *BRIEF, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(folder: Path, *options: str) -> list[Event]:
    """Run to the end; returns what was told."""
    process = start(folder, *options)
    out, err = process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    return [event for line in out.splitlines() if (event := event_of(line))]


def kill_when(folder: Path, due: Callable[[Event], bool]) -> None:
    """Run until an event is ``due``, then kill the process at once, as a power cut would; its child must go with it."""
    process = start(folder)
    assert process.stdout
    try:
        for line in process.stdout:
            event = event_of(line)
            if event and due(event):
                break
        else:
            stderr = process.communicate()[1].decode()[-2000:]
            raise AssertionError(f"the run ended before it was to be killed: {stderr}")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()


def event_of(line: bytes) -> Event | None:
    """The event that a line of output tells, if it tells one."""
    if msgspec.json.decode(line, type=Told).type != "progress":
        return None
    return msgspec.json.decode(line, type=Event)
