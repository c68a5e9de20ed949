"""The child processes that measure a machine: train for a few steps; open the engine, draw and score some texts.

Each is a separate process, as in a run. `pipeline.forecasts.speed` starts them.
"""

import resource
import time
from collections.abc import Callable
from typing import Any

import msgspec

from fourshot.engine.core import Adapter, EngineSettings
from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.processes import ParentLink, end_process, run_child

TASK = "support_tickets"
STEPS = 3  # of training; the time between the first and the last one counts
READ_S = 1.0  # that scoring should take, within the bounds of READ_TEXTS: a large base is slow
READ_TEXTS = (8, 48)  # least and most
DRAWS_PER_CLASS = 26  # 130 at once: batches must be as large as in a run, where the time per token is lowest
WARM_UP_TEXTS, WARM_UP_DRAWS = 4, 2  # the latter per class


class TrainerProbe(msgspec.Struct, frozen=True, kw_only=True, tag="trainer"):
    """Train for some steps, into ``folder``."""

    model: str
    folder: str


class EngineProbe(msgspec.Struct, frozen=True, kw_only=True, tag="engine"):
    """Draw and score texts, the latter also with the adapter where there is one."""

    model: str
    adapter: Adapter | None


class ModelOpened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """Message of a child process: the model is open."""


class SpeedMeasured(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    """Measured fields of `Speed`; from the trainer, also its adapter."""

    fields: dict[str, int | float]
    adapter: Adapter | None = None


def _work(parent: ParentLink) -> None:
    either: Any = TrainerProbe | EngineProbe
    probe = parent.receive(either)
    trains = isinstance(probe, TrainerProbe)
    measured = (_trainer if trains else _engine)(probe, lambda: parent.send(ModelOpened()))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    fields = {**measured.fields, "trainer_bytes" if trains else "engine_bytes": most}
    parent.send(msgspec.structs.replace(measured, fields=fields))


def _trainer(probe: TrainerProbe, opened: Callable[[], object]) -> SpeedMeasured:
    from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
    from fourshot.pipeline.tasks.shots import take_shots
    from fourshot.pipeline.tasks.task_file import load_task, shipped_tasks
    from fourshot.training.lora.examples import TrainingExample, TrainingResult
    from fourshot.training.lora.settings import LoraSettings
    from fourshot.training.lora.train import LoraTrainer

    trainer, task, times = LoraTrainer(probe.model), load_task(shipped_tasks()[TASK]), list[float]()
    examples = [
        TrainingExample(
            prompt=classification_prompt(task, shot.text, PromptFormat()), target=task.label_names.index(shot.label)
        )
        for shot in take_shots(task, 4, 0)
    ]

    def train(steps: int) -> TrainingResult:
        times.append(time.perf_counter())
        return trainer.train(
            examples,
            task.label_words,
            LoraSettings(min_steps=steps, max_steps=steps),
            probe.folder,
            on_step=lambda *_: times.append(time.perf_counter()),
            verbalizer="token",
        )

    train(1)  # the first training of a process loads more, and builds kernels
    opened()
    times.clear()
    result = train(STEPS)
    began, first, *_, last = times
    steps_s = (last - first) / (STEPS - 1) * result.steps
    beside_s = max(0.0, time.perf_counter() - began - steps_s)
    return SpeedMeasured(
        fields={"train_token_s": steps_s / result.tokens, "training_s": beside_s},
        adapter=result.adapter,
    )


def _engine(probe: EngineProbe, opened: Callable[[], object]) -> SpeedMeasured:
    from fourshot.engine.opening import open_engine
    from fourshot.pipeline.loop.rounds import draw_round
    from fourshot.pipeline.rows.examples import load_split
    from fourshot.pipeline.synthesis.filters import TextFilter
    from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
    from fourshot.pipeline.synthesis.settings import GenerateSettings, RunSettings
    from fourshot.pipeline.tasks.shots import take_shots
    from fourshot.pipeline.tasks.task_file import load_task, shipped_tasks

    engine = open_engine(EngineSettings(model=probe.model, max_loras=1, compile=False))
    opened()
    task = load_task(shipped_tasks()[TASK])
    shots = take_shots(task, 4, 0)
    texts = [example.text for example in load_split(task, "test").examples[: READ_TEXTS[1]]]

    def seconds_per_token(count: int, *, shown: bool = False, adapter: Adapter | None = None) -> float:
        """Return the seconds per computed prompt token of the first ``count`` texts."""
        form = PromptFormat(verbalizer="token" if adapter else "word")
        prompts = [classification_prompt(task, text, form, shots if shown else ()) for text in texts[:count]]
        engine.reset_prefix_cache()
        before = engine.stats()
        engine.score(prompts, task.label_words, adapter, form.verbalizer)
        ran = engine.stats().since(before)
        return ran.busy_s / max(1, ran.computed_tokens)

    def draw(per_class: int, number: int) -> tuple[float, int, float]:
        """Return the seconds without those for prompts, the tokens drawn, and the share of well-formed texts."""
        settings = RunSettings(generate=GenerateSettings(draws_per_round=per_class))
        engine.reset_prefix_cache()
        before = engine.stats()
        drawn = draw_round(engine, task, shots, settings, number, task.label_names)
        ran = engine.stats().since(before)
        check = TextFilter(shots, settings.filter, task=task)
        good = sum(check.alone(candidate) is None for candidate in drawn)
        # On a busy machine, prompts may be faster now than when they were timed, which would leave no time for draws.
        seconds = max(ran.busy_s - ran.computed_tokens * prompt_token_s, ran.busy_s / 10)
        return seconds, ran.output_tokens, good / len(drawn)

    seconds_per_token(WARM_UP_TEXTS)  # warm-up: an engine's first requests take longer
    if probe.adapter:
        seconds_per_token(WARM_UP_TEXTS, adapter=probe.adapter)
    began, prompt_token_s = time.perf_counter(), seconds_per_token(WARM_UP_TEXTS)
    least, most = READ_TEXTS
    count = max(least, min(most, round(WARM_UP_TEXTS * READ_S / (time.perf_counter() - began))))
    prompt_token_s = seconds_per_token(count)
    draw(WARM_UP_DRAWS, 0)
    seconds, tokens, well_formed = draw(DRAWS_PER_CLASS, 1)
    return SpeedMeasured(
        fields={
            "prompt_token_s": prompt_token_s,
            "shots_token_s": seconds_per_token(count // 2, shown=True),
            "adapter_token_s": seconds_per_token(count, adapter=probe.adapter) if probe.adapter else prompt_token_s,
            "output_token_s": max(seconds, 0.0) / tokens,
            "well_formed": well_formed,
        }
    )


if __name__ == "__main__":
    end_process(run_child(_work, reported=(FourshotError, OSError)))
