"""Complete runs in this process, with an engine and a trainer that only record their calls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fourshot.engine.fake_engine import WORDS
from fourshot.pipeline.card import CARD_FILE, AdapterCard
from fourshot.pipeline.events import Event
from fourshot.pipeline.runs import stage_driver
from fourshot.pipeline.runs.run import RunRequest, RunSummary, do_run
from fourshot.pipeline.runs.stages import generate
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.lora.examples import TrainingExample
from tests.pipeline.loop.filling import InProcessWorker
from tests.pipeline.task_folders import rows_of, write_jsonl, write_task
from tests.pipeline.test_settings import Listener, Trainer


class WholeRuns:
    """Runs of one small task. ``events`` and ``heard`` are the events and recorded calls of the last run."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.task_file = write_task(folder)
        self.task = load_task(self.task_file)
        cold = [f"A frozen {word} in the cold rain." for word in WORDS[:9]]
        warm = [f"Warm {word} on a sunny porch by the fire." for word in WORDS[20:50]]
        write_jsonl(folder / "train.jsonl", [*rows_of(warm, "warm"), *rows_of(cold, "cold")])
        self.events: list[Event] = []
        self.heard: list[Any] = Trainer.heard
        self.heard.clear()
        engine = Listener(self.heard)
        patch.setattr("fourshot.training.lora.train.LoraTrainer", Trainer)
        patch.setattr("fourshot.pipeline.runs.run.refuse_fake", lambda *_: None)  # here, the fake model can be trained
        patch.setattr(generate, "open_workers", lambda *_: InProcessWorker(engine))
        patch.setattr("fourshot.engine.opening.open_engine", lambda _: engine)
        patch.setattr(stage_driver, "run_stage", lambda stage, on_event: stage.run(on_event))

    def run(self, folder: Path, settings: RunSettings, forecast: bool = False, **more: Any) -> RunSummary:
        self.events.clear()
        self.heard.clear()
        request = RunRequest(self.task, "fake", settings, folder, "evaluate", **more)
        return do_run(request, self.events.append, forecast=forecast)

    @property
    def messages(self) -> str:
        return "\n".join(event.message for event in self.events)

    @property
    def trained(self) -> list[Sequence[TrainingExample]]:
        """The examples of each training of the last run."""
        return [call[0] for call in self.heard if len(call) == 6]

    @property
    def drawn(self) -> int:
        """The number of calls in the last run that requested texts."""
        return sum(len(call) == 2 for call in self.heard)


def card_of(summary: RunSummary) -> AdapterCard:
    return WorkFolder(summary.adapter_path).read(CARD_FILE, AdapterCard)


def texts_of(examples: Sequence[TrainingExample]) -> list[str]:
    return [example.prompt.rpartition("Text: ")[2].removesuffix("\nLabel:") for example in examples]
