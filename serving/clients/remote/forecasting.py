"""Forecast of requests to a remote teacher: their number, tokens and cost. Time and memory are not known."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from fourshot.pipeline.forecasts.forecast import Forecast, StageForecast
from fourshot.pipeline.synthesis.committee import PROMPT_FOLDS
from fourshot.pipeline.synthesis.evidence import shot_folds
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.windows import parts_of
from fourshot.pipeline.task import Example, Task
from fourshot.serving.clients.remote.asking import REQUEST_MODES, RequestMode, requests_for
from fourshot.serving.clients.remote.drawing import drawn_for
from fourshot.serving.clients.remote.settings import RemoteSettings

CHARS_A_TOKEN = 4  # about
ASKING_CHARS = 200  # of a request to generate, in addition to the shots of its class


def forecast_requests(
    asks: str, settings: RemoteSettings, stages: Mapping[str, tuple[float, float, float]], doubt: str = ""
) -> Forecast:
    """Return a forecast. ``stages``: of each, requests, and the characters that one of them sends and receives."""
    planned = {
        name: (round(calls), calls * sent, calls * received)
        for name, (calls, sent, received) in stages.items()
        if calls
    }
    calls = sum(stage[0] for stage in planned.values())
    sent_tokens, received_tokens = (sum(stage[place] for stage in planned.values()) / CHARS_A_TOKEN for place in (1, 2))
    limit = settings.max_requests
    if limit is not None and limit < calls:
        doubt = f"--max-requests {limit} will end it before" + (f"; {doubt}" if doubt else "")
    return Forecast(
        seconds=0.0,
        calls=calls,
        tokens=round(sent_tokens + received_tokens),
        memory_bytes=0,
        stages=tuple(
            StageForecast(
                stage=name, calls=number, tokens=round((sent + received) / CHARS_A_TOKEN), steps=0, seconds=0.0
            )
            for name, (number, sent, received) in planned.items()
        ),
        doubt=doubt,
        asks=asks,
        cost=settings.cost(sent_tokens, received_tokens),
    )


class AskedTask(NamedTuple):
    """What requests to annotate a text are made from."""

    task: Task  # as from `asking.with_short_labels`
    shots: Sequence[Example]
    form: PromptFormat
    settings: RemoteSettings


def forecast_reading(
    asks: str, subject: AskedTask, known_mode: RequestMode | None, sample: Sequence[str], counts: Mapping[str, int]
) -> Forecast:
    """Forecast annotation: one request for every window of a text, or one per vote if each gives one answer.

    ``known_mode``: the request mode, if known. ``counts``: texts like ``sample``, by stage; of "generate", the texts
    wanted of each class.
    """
    settings, shots = subject.settings, [shot.text for shot in subject.shots]
    mode = known_mode or next(mode for mode in REQUEST_MODES if settings.teacher_api in ("auto", mode.route))
    requests_each, answers = settings.votes if mode.one_by_one else 1, 1 if mode.likely else settings.votes
    received = answers / requests_each * (fmean(len(word) for word in subject.task.label_words) + CHARS_A_TOKEN)

    def reading(texts: Sequence[str], count: int) -> tuple[float, float, float]:
        parts = [parts_of(subject.task, text, subject.form) for text in texts]
        requests = (
            requests_for(subject.task, part, subject.shots, mode, settings, subject.form)
            for windows in parts
            for part in windows
        )
        return count * fmean(map(len, parts)) * requests_each, fmean(several[0].chars for several in requests), received

    folds = shot_folds([shot.label for shot in subject.shots], PROMPT_FOLDS)
    calls, sent, _ = reading(shots, len(shots) - folds.count(None))
    stages = {"weigh": (calls + 1, sent, received)}
    doubts = []
    for name, count in counts.items():
        if name == "generate" and count:
            longest, classes = fmean(map(len, shots)), len(subject.task.labels)
            stages[name] = (drawn_for(count, classes), longest * len(shots) / classes + ASKING_CHARS, longest)
            stages["read what was written"] = reading(shots, drawn_for(count, classes))
            doubts.append("more where texts are rejected")
        elif count:
            stages[name] = reading(sample or shots, count)
    if known_mode is None and settings.votes > 1:
        doubts.append(
            f"if it returns no probabilities, {settings.votes} answers for each text, in as many requests where it "
            "gives one at a time"
        )
    return forecast_requests(asks, settings, stages, "; ".join(doubts))
