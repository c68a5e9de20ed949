"""What requests to a remote teacher will take: how many, tokens, cost. Of time and memory nothing is known."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from fourshot.pipeline.forecast import Forecast, StageForecast
from fourshot.pipeline.synthesis.committee import PROMPT_FOLDS
from fourshot.pipeline.synthesis.evidence import shot_folds
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.windows import parts_of
from fourshot.pipeline.tasks.types import Example, Task
from fourshot.serving.clients.remote.asking import WAYS, Way, requests_for
from fourshot.serving.clients.remote.drawing import drawn_for
from fourshot.serving.clients.remote.settings import RemoteSettings

CHARS_A_TOKEN = 4  # about
ASKING_CHARS = 200  # of a request to write, beside the shots of its class


def forecast_requests(
    asks: str, settings: RemoteSettings, stages: Mapping[str, tuple[float, float, float]], doubt: str = ""
) -> Forecast:
    """``stages``: of each, requests, and the characters that one of them sends and gets."""
    planned = {name: (round(calls), calls * sent, calls * got) for name, (calls, sent, got) in stages.items() if calls}
    calls = sum(one[0] for one in planned.values())
    read, said = (sum(one[place] for one in planned.values()) / CHARS_A_TOKEN for place in (1, 2))
    most = settings.max_requests
    if most is not None and most < calls:
        doubt = f"--max-requests {most} will end it before" + (f"; {doubt}" if doubt else "")
    return Forecast(
        seconds=0.0,
        calls=calls,
        tokens=round(read + said),
        memory_bytes=0,
        stages=tuple(
            StageForecast(stage=name, calls=number, tokens=round((sent + got) / CHARS_A_TOKEN), steps=0, seconds=0.0)
            for name, (number, sent, got) in planned.items()
        ),
        doubt=doubt,
        asks=asks,
        cost=settings.cost(read, said),
    )


class AskedTask(NamedTuple):
    """What requests to read a text are made of."""

    task: Task  # as `asking.asked_task` gives it
    shots: Sequence[Example]
    form: PromptFormat
    settings: RemoteSettings


def forecast_reading(
    asks: str, asked: AskedTask, known: Way | None, sample: Sequence[str], counts: Mapping[str, int]
) -> Forecast:
    """Every window of a text is a request, or as many as there are votes where one answer comes at a time.

    ``known``: how it is asked, where that is known. ``counts``: texts like ``sample``, by stage; of "generate", those
    that are wanted of each class.
    """
    settings, shots = asked.settings, [shot.text for shot in asked.shots]
    way = known or next(one for one in WAYS if settings.teacher_api in ("auto", one.route))
    each, answers = settings.votes if way.one_by_one else 1, 1 if way.likely else settings.votes
    got = answers / each * (fmean(len(word) for word in asked.task.label_words) + CHARS_A_TOKEN)

    def reading(texts: Sequence[str], count: int) -> tuple[float, float, float]:
        parts = [parts_of(asked.task, text, asked.form) for text in texts]
        one = (requests_for(asked.task, part, asked.shots, way, settings, asked.form) for own in parts for part in own)
        return count * fmean(map(len, parts)) * each, fmean(several[0].chars for several in one), got

    folds = shot_folds([shot.label for shot in asked.shots], PROMPT_FOLDS)
    calls, sent, _ = reading(shots, len(shots) - folds.count(None))
    stages = {"weigh": (calls + 1, sent, got)}
    doubts = []
    for name, count in counts.items():
        if name == "generate" and count:
            longest, classes = fmean(map(len, shots)), len(asked.task.labels)
            stages[name] = (drawn_for(count, classes), longest * len(shots) / classes + ASKING_CHARS, longest)
            stages["read what was written"] = reading(shots, drawn_for(count, classes))
            doubts.append("more where texts are rejected")
        elif count:
            stages[name] = reading(sample or shots, count)
    if known is None and settings.votes > 1:
        doubts.append(
            f"if it tells no probabilities, {settings.votes} answers for each text, in as many requests where it gives "
            "one at a time"
        )
    return forecast_requests(asks, settings, stages, "; ".join(doubts))
