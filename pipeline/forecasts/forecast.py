"""Forecast what a command will take on this machine: calls, tokens, seconds and memory, stage by stage.

`StageWork` is the work of a stage, and `pipeline.forecasts.speed` measures how long it takes here. Afterwards, the
actual seconds of each stage are added to its forecast. Importing this module loads neither torch nor vllm.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from typing import Literal

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.pipeline.events import Event, OnEvent, span
from fourshot.pipeline.forecasts.speed import ANY_SPEED, Speed, known_speed, learn_from
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.jobs.at_once import width

FORECAST_FILE = "forecast.json"
SWITCH = "FOURSHOT_FORECAST"  # environment variable: "0" means no forecasts, so a new machine is not measured
TOKENS = ("prompt_tokens", "shots_tokens", "adapter_tokens", "output_tokens", "train_tokens")
NUMBERS = ("calls", *TOKENS, "trainings", "steps")
SIDE_BY_SIDE = 1.4  # speed-up of two trainings side by side on two cores (docs/training.md); of more: not measured
MEASURING = "measuring this machine, about a minute on idle cores"
LEAST_S = 10.0  # of stages that correct the speed of a machine: the time of shorter ones depends more on other load
COMPILE_S = 60.0  # of torch.compile, after which sampling is twice as fast (docs/corpus.md)


class StageWork(msgspec.Struct, frozen=True, kw_only=True):
    """The work of one stage. Prompt tokens are those that the prefix cache does not have."""

    stage: str
    opens: Literal["engine", "trainer", "nothing"] = "engine"  # nothing: it uses the engine of the stage before
    calls: float = 0  # texts that are drawn or scored
    prompt_tokens: float = 0  # of the base model
    shots_tokens: float = 0  # of the base model, behind shots
    adapter_tokens: float = 0  # of adapters
    output_tokens: float = 0
    trainings: float = 0
    steps: float = 0  # of all trainings
    train_tokens: float = 0
    compiled: bool = False

    def __add__(self, other: "StageWork") -> "StageWork":
        return msgspec.structs.replace(self, **{name: getattr(self, name) + getattr(other, name) for name in NUMBERS})

    def __mul__(self, times: float) -> "StageWork":
        return msgspec.structs.replace(self, **{name: getattr(self, name) * times for name in NUMBERS})

    @property
    def tokens(self) -> float:
        return float(sum(getattr(self, name) for name in TOKENS))

    def seconds(self, speed: Speed, at_once: int = 1) -> float:
        """Return the seconds that the work takes; ``at_once``: how many trainings run side by side."""
        if self.opens == "trainer":
            alone = self.trainings * speed.training_s + self.train_tokens * speed.train_token_s
            seconds = speed.open_trainer_s + alone * _share_of_alone(self.trainings, at_once)
            return seconds * speed.trainer.factor
        opening = 0.0 if self.opens == "nothing" else speed.open_engine_s + (COMPILE_S if self.compiled else 0)
        return speed.engine.factor * (
            opening
            + self.prompt_tokens * speed.prompt_token_s
            + self.shots_tokens * speed.shots_token_s
            + self.adapter_tokens * speed.adapter_token_s
            + self.output_tokens * speed.output_token_s / (2 if self.compiled else 1)
        )


def _share_of_alone(trainings: float, at_once: int) -> float:
    """Return the time of equally long trainings side by side, relative to one after the other.

    Fewer of them may run in the last turn.
    """
    if at_once <= 1:
        return 1.0
    return ceil(trainings / at_once) * at_once / trainings / SIDE_BY_SIDE


class StageForecast(msgspec.Struct, frozen=True, kw_only=True):
    """Forecast of one stage."""

    stage: str
    calls: int  # texts that are drawn or scored
    tokens: int  # computed: of uncached prompts, of outputs, of trainings
    steps: int  # of trainings
    seconds: float
    opens: Literal["engine", "trainer", ""] = ""  # whose speed the seconds are based on; "": neither's
    draws: bool = False  # it draws texts, and the number of draws is not known in advance
    took_s: float | None = None  # actual seconds, once it is done


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """Forecast of a command, as far as it is not done yet."""

    seconds: float
    calls: int
    tokens: int
    memory_bytes: int  # peak of the process that needs most, or of trainings side by side
    stages: tuple[StageForecast, ...]
    took_s: float | None = None  # actual seconds of all stages, once they are done
    revision: str = ""  # of the base whose speed will be corrected by the actual time; "": none
    doubt: str = ""  # why the forecast may be wrong
    asks: str = ""  # the remote model to which all calls are requests; any seconds are those of this machine
    cost: float | None = None  # of these requests; None: no prices were given

    def __str__(self) -> str:
        doubt = f"; {self.doubt}" if self.doubt else ""
        if self.asks:
            cost = "no prices were given" if self.cost is None else f"cost about {self.cost:.4g}"
            parts = ", ".join(f"{stage.stage} {stage.calls:,}" for stage in self.stages if not stage.seconds)
            requests = f"{self.calls:,} requests to {self.asks} ({parts}), about {self.tokens:,} tokens, {cost}"
            return requests + (f"; then about {span(self.seconds)} here" if self.seconds else "") + doubt
        parts = ", ".join(f"{stage.stage} {span(stage.seconds)}" for stage in self.stages)
        return (
            f"about {span(self.seconds)}, {self.calls:,} calls, {self.tokens:,} tokens, "
            f"{self.memory_bytes / 1e9:.1f} GB of memory ({parts}){doubt}"
        )

    def with_actual_times(self, took: Mapping[str, float]) -> "Forecast":
        """Return the forecast with the actual seconds of stages, by name."""
        stages = tuple(
            msgspec.structs.replace(stage, took_s=round(took[stage.stage], 1)) if stage.stage in took else stage
            for stage in self.stages
        )
        times = [stage.took_s for stage in stages]
        total = sum(seconds for seconds in times if seconds is not None)
        return msgspec.structs.replace(self, stages=stages, took_s=round(total, 1) if None not in times else None)

    def share(self, opens: str) -> float | None:
        """Return actual over forecast time of the engine or the trainer; None if unknown, or the forecast is too short.

        Stages that draw texts do not count: how many draws they need depends on the task, not on the machine.
        """
        stages = [stage for stage in self.stages if stage.opens == opens and not stage.draws]
        done = [(stage.took_s, stage.seconds) for stage in stages if stage.took_s is not None]
        took_s, forecast_s = (sum(seconds) for seconds in zip(*done, strict=True)) if done else (0.0, 0.0)
        return took_s / forecast_s if forecast_s >= LEAST_S else None

    @property
    def verdict(self) -> str:
        """How forecast and actual time compare, in words; "" before that is known, and for a remote model."""
        if self.took_s is None or self.asks:
            return ""
        share = self.took_s / self.seconds - 1 if self.seconds else 0.0
        more = f" ({abs(share):.0%} {'more' if share > 0 else 'less'})" if self.seconds else ""
        return f"forecast {span(self.seconds)}, took {span(self.took_s)}{more}"


def forecast(work: Iterable[StageWork], speed: Speed, at_once: Callable[[int], int] = lambda trainings: 1) -> Forecast:
    """Forecast ``work``. Parts of the same stage share one process.

    ``at_once`` maps a number of trainings to how many of them run side by side, each with memory of its own.
    """
    joined: dict[str, StageWork] = {}
    for part in work:
        joined[part.stage] = joined[part.stage] + part if part.stage in joined else part
    stages = tuple(
        StageForecast(
            stage=part.stage,
            calls=round(part.calls),
            tokens=round(part.tokens),
            steps=round(part.steps),
            seconds=round(part.seconds(speed, at_once(round(part.trainings))), 1),
            opens="trainer" if part.opens == "trainer" else "engine",
            draws=part.output_tokens > 0,
        )
        for part in joined.values()
    )

    def needs(part: StageWork) -> int:
        if part.opens == "trainer":
            return speed.trainer_bytes * at_once(round(part.trainings))
        return speed.engine_bytes if part.opens == "engine" else 0

    return Forecast(
        seconds=round(sum(stage.seconds for stage in stages), 1),
        calls=sum(stage.calls for stage in stages),
        tokens=sum(stage.tokens for stage in stages),
        memory_bytes=max(map(needs, joined.values()), default=0),
        stages=stages,
        doubt=speed.doubt,
    )


def make_forecast(
    model: ResolvedModel,
    work_of: Callable[[Speed], Sequence[StageWork]],
    on_event: OnEvent,
    *,
    anew: bool = False,
    at_once: int = 0,
    goes_on: bool = False,
    complete: Callable[[Forecast], Forecast] = lambda estimate: estimate,
) -> Forecast | None:
    """Forecast the work that ``work_of`` returns for a speed, add what ``complete`` adds, and report the result.

    None where nothing is left to do. ``at_once``: trainings side by side, 0 for as many as fit. ``goes_on``: some of
    the work was begun before, so the time of the rest does not correct the speed. ``anew``: measure the machine again.
    Without ``anew``, `SWITCH` set to 0 means no forecast, and a failed measurement is reported and returns None. With
    it, the error of the measurement is raised, such as FourshotError.
    """
    if not anew and os.environ.get(SWITCH) == "0":
        return None
    work = work_of(ANY_SPEED)
    if not work:
        return None
    calls, tokens = sum(part.calls for part in work), sum(part.tokens for part in work)
    ahead = f"about {calls:,.0f} calls, {tokens:,.0f} tokens; {MEASURING}"
    trains = any(part.opens == "trainer" or part.adapter_tokens for part in work)
    try:
        speed = known_speed(model, lambda: on_event(Event(stage="forecast", message=ahead)), anew=anew, trains=trains)
    except Exception as error:  # of any kind: a failed forecast must not prevent a run
        if anew:
            raise
        on_event(Event(stage="forecast", message=f"none, because this machine could not be measured: {error}"))
        return None

    def side_by_side(trainings: int) -> int:
        return width(model.path, trainings, at_once).at_once

    estimate = forecast(work_of(speed), speed, side_by_side)
    estimate = complete(msgspec.structs.replace(estimate, revision="" if goes_on else model.revision))
    on_event(Event(stage="forecast", message=str(estimate)))
    return estimate


def record_actual_times(estimate: Forecast, took: Mapping[str, float], *, failed: bool = False) -> Forecast:
    """Return ``estimate`` with the actual seconds of stages, by name, and correct later forecasts of this base by them.

    ``failed``: some of the work was not done, so its seconds correct nothing.
    """
    estimate = estimate.with_actual_times(took)
    if estimate.revision and not failed:
        learn_from(estimate.revision, engine=estimate.share("engine"), trainer=estimate.share("trainer"))
    return estimate


def finish_forecast(
    estimate: Forecast, took: Mapping[str, float], folder: WorkFolder, on_event: OnEvent, *, failed: bool = False
) -> None:
    """Write the forecast, with actual times, into ``folder``, and report its error, unless some work ``failed``."""
    estimate = record_actual_times(estimate, took, failed=failed)
    folder.write(FORECAST_FILE, estimate)
    if estimate.verdict and not failed:
        on_event(Event(stage="forecast", message=estimate.verdict))
