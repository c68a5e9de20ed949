"""Run folders that are filled by an engine in this process, for tests."""

from collections.abc import Sequence
from typing import Any

from fourshot.engine.core import Engine
from fourshot.pipeline.synthesis.driver import Driver
from fourshot.pipeline.synthesis.rounds import RoundSink, finished_pairs
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.synthesis.workers import InProcessWorker
from fourshot.pipeline.tasks.types import Example, Task
from fourshot.pipeline.work_folder import WorkFolder


def fill_rounds(
    folder: WorkFolder, engine: Engine, task: Task, shots: Sequence[Example], settings: RunSettings, **more: Any
) -> list[tuple[Candidate, Verdict]]:
    """Fill ``folder`` as a run does, on an engine that is open; the pairs that are kept. ``more``: of `RoundSink`."""
    sink = RoundSink(folder, task, shots, settings, **more)
    Driver({sink.key: sink}, one_at_a_time=True).run(InProcessWorker(engine))
    return [(candidate, verdict) for candidate, verdict in finished_pairs(folder) if verdict.kept]
