"""Forecast of the work of a teacher that is trained on this machine, for a text generation task."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from fourshot.pipeline.forecasts.forecast import StageWork
from fourshot.pipeline.forecasts.work_counts import BLOCK, MOST_COUNTED
from fourshot.pipeline.tasks.generation import GenerationTask, Pair, between, drawing_prompt
from fourshot.pipeline.token_counter import token_counter
from fourshot.training.lora.settings import LoraSettings


class Teaching(NamedTuple):
    """What a teacher is trained on, and what it must generate."""

    learnt: Sequence[Pair]  # real pairs, for training
    test: Sequence[Pair]
    inputs: Sequence[str]  # of the user's table, those that are not blank
    generate: int  # number of new pairs


class TextCounts:
    """Counts tokens of prompts and targets of one task, assuming targets as long as those of the real pairs."""

    def __init__(self, task: GenerationTask, teaching: Teaching, model_path: str) -> None:
        tokens = token_counter(model_path)
        learnt = teaching.learnt[:MOST_COUNTED]
        sample = [*teaching.inputs[:MOST_COUNTED], *(pair.input for pair in teaching.test[:MOST_COUNTED])]
        self._shared = tokens(drawing_prompt(task))  # all prompts begin with it
        self._between = tokens(between(task))
        self._learnt = fmean(tokens(pair.input) for pair in learnt)
        self._input_tokens = fmean(map(tokens, sample)) if sample else self._learnt
        self._target = fmean(tokens(f" {pair.target}") for pair in learnt) + 1  # with the end token

    def training(self, stage: str, examples: int, settings: LoraSettings) -> StageWork:
        """Return the work of training one adapter on ``examples`` pairs; the texts of a row share their prefix."""
        steps, pair_tokens = settings.planned_steps(examples), self._learnt + self._between + self._target
        tokens = steps * (self._shared + min(settings.batch_size, examples) * pair_tokens)
        return StageWork(stage=stage, opens="trainer", trainings=1, steps=steps, train_tokens=tokens)

    def targets(self, stage: str, inputs: int, *, adapter: bool = True) -> StageWork:
        """Return the work of generating targets for ``inputs`` inputs."""
        prompt_tokens = inputs * (self._input_tokens + self._between + self._shared % BLOCK)
        written = inputs * self._target
        if adapter:
            return StageWork(stage=stage, calls=inputs, adapter_tokens=prompt_tokens, output_tokens=written)
        return StageWork(stage=stage, calls=inputs, prompt_tokens=prompt_tokens, output_tokens=written)

    def pairs(self, stage: str, pairs: int) -> StageWork:
        """Return the work of generating ``pairs`` pairs, all from the same prompt."""
        written = pairs * (self._learnt + self._between + self._target)
        return StageWork(
            stage=stage, calls=pairs, adapter_tokens=pairs * (self._shared % BLOCK or BLOCK), output_tokens=written
        )
