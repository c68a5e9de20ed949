"""Forecasts of the time, calls and memory for the students of a distillation that are not finished."""

import os
from collections.abc import Sequence
from functools import partial
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar

import msgspec

from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.forecasts.forecast import SWITCH, Forecast, StageForecast
from fourshot.pipeline.forecasts.speed import OTHER_WORK
from fourshot.pipeline.forecasts.work_counts import MOST_COUNTED
from fourshot.pipeline.rows.fields import encoder_text
from fourshot.pipeline.runs.stages.student import TIMED_ALONE, StudentItem, StudentStage
from fourshot.pipeline.students.speed import EncoderSpeed, known_encoder_speed, padded_tokens, token_lengths
from fourshot.training.students.encoders import ResolvedEncoder
from fourshot.training.students.examples import StudentJob
from fourshot.training.students.onnx_export import PROBED_TEXTS
from fourshot.training.students.train import finished_student

STUDENTS = "train the students"  # name of the stage, which also evaluates and exports them
MEASURING = "measuring how fast the student trains on this machine (some seconds on idle cores)"
AT_MOST = "less if a student stops early"
# The ONNX export is Python code, as imports are, so its time is a multiple of the time to load an encoder.
EXPORT_OPENINGS = 3.0
Sampled = TypeVar("Sampled")


class StudentWork(NamedTuple):
    """The amount of a piece of work, and its time."""

    seconds: float
    tokens: float = 0
    steps: int = 0
    texts: int = 0  # classified by a finished student


def forecast_of_students(
    stage: StudentStage, encoder: ResolvedEncoder, on_event: OnEvent, *, anew: bool = False
) -> Forecast | None:
    """Forecast at most what the rest of ``stage`` takes; None if nothing is left, or if forecasts are switched off.

    ``anew``: as for `pipeline.forecasts.forecast.make_forecast`. The caller reports the forecast. If the speed cannot
    be measured, the reason is reported and None is returned; with ``anew``, the error is raised.
    """
    if stage.is_done or (not anew and os.environ.get(SWITCH) == "0"):
        return None
    try:
        max_tokens = stage.items[0].job.settings.max_tokens
        tell = partial(on_event, Event(stage="forecast", message=MEASURING))
        speed = known_encoder_speed(encoder, max_tokens, tell, anew=anew)
    except Exception as error:  # no fault of a forecast may prevent the training
        if anew:
            raise
        message = f"none for the students, because this machine could not be measured: {error}"
        on_event(Event(stage="forecast", message=message))
        return None
    return forecast_at_speed(stage, speed)


def forecast_at_speed(stage: StudentStage, speed: EncoderSpeed) -> Forecast:
    """Return the forecast of the rest of ``stage``, in one process."""
    items = [item for item in stage.items if not stage.is_finished(item)]
    work = [part for item in items for part in _work(item, Path(stage.store), speed)]
    total = StageForecast(
        stage=STUDENTS,
        calls=sum(part.texts for part in work),
        tokens=round(sum(part.tokens for part in work)),
        steps=sum(part.steps for part in work),
        seconds=round(speed.open_s + sum(part.seconds for part in work), 1),
    )
    return Forecast(
        seconds=total.seconds,
        calls=total.calls,
        tokens=total.tokens,
        memory_bytes=speed.process_bytes,
        stages=(total,),
        doubt="; ".join(filter(None, (AT_MOST if total.steps else "", speed.doubt))),
    )


def with_students(teacher: Forecast, students: Forecast | None) -> Forecast:
    """Return the forecast of the teacher's work followed by the students'.

    For a remote teacher, calls and tokens remain those of its requests alone.
    """
    if students is None:
        return teacher
    counted = 0 if teacher.asks else 1
    return msgspec.structs.replace(
        teacher,
        seconds=round(teacher.seconds + students.seconds, 1),
        calls=teacher.calls + counted * students.calls,
        tokens=teacher.tokens + counted * students.tokens,
        memory_bytes=max(teacher.memory_bytes, students.memory_bytes),
        stages=(*teacher.stages, *students.stages),
        doubt=_joined(teacher.doubt, students.doubt),
    )


def _joined(*doubts: str) -> str:
    """Join doubts, each once. Two on other work count as the same, as measured loads differ slightly."""
    by_kind: dict[str, str] = {}
    for part in "; ".join(filter(None, doubts)).split("; "):
        by_kind.setdefault(OTHER_WORK if part.startswith(OTHER_WORK) else part, part)
    return "; ".join(by_kind.values())


def _work(item: StudentItem, store: Path, speed: EncoderSpeed) -> list[StudentWork]:
    """Return the remaining work for one student that is not finished."""
    result, job, tested = finished_student(store, item.job), item.job, item.test
    texts = [encoder_text(item.task, example.text, job.settings.max_tokens) for example in _some(tested)]
    test_tokens = fmean(_lengths(job, texts)) if texts else 0.0
    work = []
    if result is None:
        work.append(training_work(job, speed))
    if tested and not Path(item.out).exists():
        read = len(tested) * test_tokens
        alone_s = min(TIMED_ALONE, len(tested)) * speed.alone_s
        work.append(StudentWork(read * speed.read_token_s + alone_s, tokens=read, texts=len(tested)))
    if item.onnx:
        probed = min(PROBED_TEXTS, len(job.examples)) * fmean(_lengths(job, [x.text for x in _some(job.examples)]))
        read = 3 * (probed + len(tested) * test_tokens)  # by the checkpoint and both ONNX files
        work.append(StudentWork(EXPORT_OPENINGS * speed.open_s + read * speed.read_token_s, tokens=read))
    return work


def training_work(job: StudentJob, speed: EncoderSpeed) -> StudentWork:
    """Return the work of a training without an early stop, assuming that all texts pass ``min_confidence``.

    See `train_student`.
    """
    settings, taught = job.settings, sum(not example.is_real for example in job.examples)
    held_out = int(taught * settings.held_out)
    learnt, strategy = len(job.examples) - held_out, settings.strategy_for(len(job.examples))
    lengths = _lengths(job, [example.text for example in _some(job.examples)])
    passes = 0 if strategy == "head" else settings.planned_passes(learnt)
    steps = passes * ceil(learnt / settings.batch_size)
    # The last layer is fitted to all training texts. Held-out texts are read before, after, and once per epoch.
    fits = 1 + (passes if held_out else 1) * (strategy == "geometric")
    read = (fits * learnt + (3 + passes) * held_out) * fmean(lengths)
    tokens = passes * learnt * padded_tokens(lengths, min(settings.batch_size, learnt))
    seconds = speed.training_s + steps * speed.step_s + tokens * speed.learn_token_s + read * speed.read_token_s
    return StudentWork(seconds, tokens=tokens + read, steps=steps)


def _some(texts: Sequence[Sampled]) -> Sequence[Sampled]:
    """Return an evenly spaced sample, large enough to represent all."""
    return texts[:: max(1, len(texts) // MOST_COUNTED)]


def _lengths(job: StudentJob, texts: Sequence[str]) -> list[int]:
    return token_lengths(job.encoder, texts, job.settings.max_tokens)
