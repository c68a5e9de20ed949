"""Prompt styles of many tasks on one base model, which a child process opens if styles have to be tried."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fourshot.engine.chat import turns_of
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.processes import ChildProcess, ParentLink, end_process, run_child
from fourshot.engine.opening import open_engine
from fourshot.pipeline.synthesis.prompt_style import ChosenStyle, StyleTrial, tried_style, untried_style
from fourshot.pipeline.synthesis.prompts import PromptStyle
from fourshot.pipeline.task import Example, Task


class StyleTrials(msgspec.Struct, frozen=True, kw_only=True):
    """The trials that a child process runs."""

    model_path: str
    trials: tuple[StyleTrial, ...]


def choose_styles(
    requested_style: PromptStyle,
    model: ResolvedModel,
    tasks: Sequence[tuple[Task, Sequence[Example]]],
    max_text_words: int,
    log: Path,
) -> list[ChosenStyle]:
    """Return the style of each task's prompts, in the order of ``tasks``, each with its shots.

    ``log``: file for the output of libraries. Raises InputError if "chat" is requested and the base model has no usable
    template.
    """
    if not tasks:
        return []
    if style := untried_style(requested_style, model.path, model.name):
        return [style] * len(tasks)
    chat = turns_of(model.path, model.name)
    trials = [
        StyleTrial(task=task, shots=tuple(shots), chat=chat, max_text_words=max_text_words) for task, shots in tasks
    ]
    with ChildProcess("fourshot.pipeline.loop.styles", log) as child:
        child.send(StyleTrials(model_path=model.path, trials=tuple(trials)))
        chosen = list(child.messages(ChosenStyle))
        if len(chosen) < len(trials):
            raise child.error("The process that tries prompt styles")
    return chosen


def _work(parent: ParentLink) -> None:
    request = parent.receive(StyleTrials)
    # The prompts are few and share little: the reference engine finishes them before vLLM would have started.
    engine = open_engine(EngineSettings(model=request.model_path, kind="transformers"))
    for trial in request.trials:
        parent.send(tried_style(engine, trial))


if __name__ == "__main__":
    end_process(run_child(_work, reported=(FourshotError,)))
