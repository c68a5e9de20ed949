"""Choose the prompt style once for each seed's shots, before any other use of the base model."""

from pathlib import Path
from typing import ClassVar

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.loop.styles import choose_styles
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.synthesis.prompts import PromptStyle
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.jobs.jobs import FailedJob


class StyleItem(msgspec.Struct, frozen=True, kw_only=True):
    """The shots of one seed, and the file for the style that is chosen on them."""

    out: str
    task: Task
    shots: tuple[Example, ...]

    @property
    def key(self) -> str:
        return self.out


class StyleStage(Stage, frozen=True, kw_only=True, tag="style"):
    """Choose prompt styles and write them to files."""

    items: tuple[StyleItem, ...]
    model: ResolvedModel
    wanted: PromptStyle
    max_text_words: int

    needs_process: ClassVar[bool] = False  # the base is opened in a process of its own

    def is_finished(self, item: StyleItem) -> bool:
        return Path(item.out).exists()

    def run(self, on_event: OnEvent) -> list[FailedJob]:
        items = [item for item in self.items if not self.is_finished(item)]
        if items and self.wanted == "auto":
            on_event(Event(stage="shots", message="comparing plain-text and chat prompts"))
        tasks = [(item.task, item.shots) for item in items]
        styles = choose_styles(self.wanted, self.model, tasks, self.max_text_words, Path(self.log))
        for item, style in zip(items, styles, strict=True):
            out = Path(item.out)
            WorkFolder(out.parent).write(out.name, style)
            on_event(Event(stage="shots", message=f"{item.task.name}, {style}"))
        return []


def prompt_styles(experiment: Experiment) -> StyleStage:
    """Return the choice of a style for each seed; no items where prompts are plain text."""
    settings = experiment.settings
    items = [
        StyleItem(out=str(experiment.style_file(examples)), task=experiment.task, shots=examples.shots)
        for examples in (experiment.seeds if settings.prompt_style != "plain" else ())
    ]
    return StyleStage(
        model_path=experiment.model.path,
        model=experiment.model,
        wanted=settings.prompt_style,
        max_text_words=settings.max_text_words,
        items=tuple(items),
    )
