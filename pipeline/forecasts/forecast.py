"""What a command will take on this machine: calls, tokens, seconds and memory, stage by stage.

`StageWork` says what a stage asks for, `pipeline.forecasts.speed` how long that takes here. Afterwards the seconds that
each stage took stand beside what was forecast. Importing this module loads neither torch nor vllm.
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
SWITCH = "FOURSHOT_FORECAST"  # environment: "0" where nobody reads it, and a new machine should not be measured
TOKENS = ("prompt_tokens", "shots_tokens", "adapter_tokens", "output_tokens", "train_tokens")
NUMBERS = ("calls", *TOKENS, "trainings", "steps")
SIDE_BY_SIDE = 1.4  # times as fast two trainings on two cores are side by side (docs/training.md); more: not measured
MEASURING = "measuring this machine, about a minute on idle cores"
LEAST_S = 10.0  # of stages that say how fast a machine is: shorter ones say more of what else it did
COMPILE_S = 60.0  # of torch.compile, which then samples twice as fast (docs/corpus.md)


class StageWork(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage asks of the machine. Prompt tokens are those that the prefix cache does not have."""

    stage: str
    opens: Literal["engine", "trainer", "nothing"] = "engine"  # nothing: the engine of the stage before is asked
    calls: float = 0  # texts that are drawn or read
    prompt_tokens: float = 0  # read by the base
    shots_tokens: float = 0  # the same, behind shots
    adapter_tokens: float = 0  # read by an adapter
    output_tokens: float = 0
    trainings: float = 0
    steps: float = 0  # of all of them
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
        """``at_once``: how many trainings go on side by side."""
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
    """Time of trainings of one length side by side, in that of one after the other; the last ones may be fewer."""
    if at_once <= 1:
        return 1.0
    return ceil(trainings / at_once) * at_once / trainings / SIDE_BY_SIDE


class StageForecast(msgspec.Struct, frozen=True, kw_only=True):
    """One stage."""

    stage: str
    calls: int  # texts that are drawn or read
    tokens: int  # computed: prompts that no cache has, answers, trainings
    steps: int  # of trainings
    seconds: float
    opens: Literal["engine", "trainer", ""] = ""  # whose speed the seconds stand on; "": neither's
    draws: bool = False  # it draws texts, and how many draws it takes is not known before
    took_s: float | None = None  # once it is done


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """A whole command, as far as it is not done yet."""

    seconds: float
    calls: int
    tokens: int
    memory_bytes: int  # the most that a process needs
    stages: tuple[StageForecast, ...]
    took_s: float | None = None  # all stages, once they are done
    revision: str = ""  # of the base of whose speed the time that it takes will tell; "": of none
    doubt: str = ""  # why it may take another time
    asks: str = ""  # the remote model that all calls are requests to; what seconds there are, are of this machine
    cost: float | None = None  # of these; None: no prices were given

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

    def beside(self, took: Mapping[str, float]) -> "Forecast":
        """With the seconds that stages took, by name."""
        stages = tuple(
            msgspec.structs.replace(stage, took_s=round(took[stage.stage], 1)) if stage.stage in took else stage
            for stage in self.stages
        )
        times = [stage.took_s for stage in stages]
        total = sum(seconds for seconds in times if seconds is not None)
        return msgspec.structs.replace(self, stages=stages, took_s=round(total, 1) if None not in times else None)

    def share(self, opens: str) -> float | None:
        """How many times its forecast the engine or the trainer took, where that is known and long enough.

        Not counting stages that draw texts: how many draws it takes depends on the task, not on the machine.
        """
        stages = [stage for stage in self.stages if stage.opens == opens and not stage.draws]
        done = [(stage.took_s, stage.seconds) for stage in stages if stage.took_s is not None]
        took_s, forecast_s = (sum(seconds) for seconds in zip(*done, strict=True)) if done else (0.0, 0.0)
        return took_s / forecast_s if forecast_s >= LEAST_S else None

    @property
    def verdict(self) -> str:
        """How right it was; "" before that is known."""
        if self.took_s is None or self.asks:
            return ""
        share = self.took_s / self.seconds - 1 if self.seconds else 0.0
        more = f" ({abs(share):.0%} {'more' if share > 0 else 'less'})" if self.seconds else ""
        return f"forecast {span(self.seconds)}, took {span(self.took_s)}{more}"


def forecast(work: Iterable[StageWork], speed: Speed, at_once: Callable[[int], int] = lambda trainings: 1) -> Forecast:
    """What ``work`` will take; parts of the same stage share one process.

    ``at_once`` says how many of so many trainings go on side by side, each with the memory of one.
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


def foretell(
    model: ResolvedModel,
    work_of: Callable[[Speed], Sequence[StageWork]],
    on_event: OnEvent,
    *,
    anew: bool = False,
    at_once: int = 0,
    goes_on: bool = False,
    complete: Callable[[Forecast], Forecast] = lambda estimate: estimate,
) -> Forecast | None:
    """Forecast what ``work_of`` a machine of some speed gives, with what else ``complete`` puts to it, and tell; None
    where nothing is left to do.

    ``at_once``: trainings side by side, 0 for as many as fit. ``goes_on``: some of the work was begun before, so what
    the rest takes says nothing of the speed. Without ``anew``, a speed that cannot be measured is told of and stops
    nobody; with it FourshotError is raised. And without it, `SWITCH` set to 0 means no forecast.
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
    except Exception as error:  # whatever it is: who asked for a run is to have it
        if anew:
            raise
        on_event(Event(stage="forecast", message=f"none, for this machine could not be measured: {error}"))
        return None

    def side_by_side(trainings: int) -> int:
        return width(model.path, trainings, at_once).at_once

    estimate = forecast(work_of(speed), speed, side_by_side)
    estimate = complete(msgspec.structs.replace(estimate, revision="" if goes_on else model.revision))
    on_event(Event(stage="forecast", message=str(estimate)))
    return estimate


def settled(estimate: Forecast, took: Mapping[str, float], *, failed: bool = False) -> Forecast:
    """``estimate`` beside the seconds that stages took, by name; later forecasts of this base are corrected by them.

    ``failed``: some of the work was not done, so that they say nothing.
    """
    estimate = estimate.beside(took)
    if estimate.revision and not failed:
        learn_from(estimate.revision, engine=estimate.share("engine"), trainer=estimate.share("trainer"))
    return estimate


def conclude(
    estimate: Forecast, took: Mapping[str, float], folder: WorkFolder, on_event: OnEvent, *, failed: bool = False
) -> None:
    """Keep in ``folder`` what `settled` gives, and tell how right it was, but not of work that ``failed`` in part."""
    estimate = settled(estimate, took, failed=failed)
    folder.write(FORECAST_FILE, estimate)
    if estimate.verdict and not failed:
        on_event(Event(stage="forecast", message=estimate.verdict))
