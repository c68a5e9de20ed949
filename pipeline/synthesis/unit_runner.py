"""A worker's side: units in, texts and label scores out, through one engine that always has enough to do.

The requests of a draw unit are queued when it begins, so while the texts of one are being read those of the next are
being drawn, in the same batches. Requests that share a beginning stand side by side, which the prefix cache rewards.
"""

import os
import queue
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import msgspec
import numpy as np

from fourshot.engine import seeds
from fourshot.engine.core import Completion, Engine, Sampling
from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.processes import Failure
from fourshot.pipeline.synthesis.annotate import Annotator, annotator_of
from fourshot.pipeline.synthesis.attributes import Attributes, list_attributes
from fourshot.pipeline.synthesis.drawing import DrawPrompt, PromptSource, draw_sampling, likeliest
from fourshot.pipeline.synthesis.filters import TextFilter, clean_text
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.synthesis.units import (
    Draw,
    DrawFault,
    DrawSlice,
    DrawUnit,
    ReadUnit,
    TaskBrief,
    Unit,
    UnitProgress,
    UnitResult,
    all_faulty,
)

Inbox = queue.SimpleQueue[TaskBrief | Unit | None]  # None: nothing more will come
OnProgress = Callable[[UnitProgress], None]


class _Request(NamedTuple):
    """One draw of a unit, in the order of the engine's requests."""

    part: DrawSlice
    number: int  # of its id
    prompt: DrawPrompt


class _Call(NamedTuple):
    """Requests of a unit that are sampled alike."""

    first: int  # position of the first one among the unit's requests
    sampling: Sampling
    completions: Generator[Completion, None, None]


class _Running(NamedTuple):
    """A unit that has begun; of a draw unit, what is in the engine."""

    unit: Unit
    requests: Sequence[_Request] = ()
    calls: Sequence[_Call] = ()


def work(engine: Engine, inbox: Inbox, give: Callable[[UnitResult | UnitProgress], None]) -> None:
    """Do units as they come, in their order, until None comes."""
    runner = UnitRunner(engine, give)
    is_open = True

    def admit() -> None:
        """Take what lies there; wait for something where there is nothing to do."""
        nonlocal is_open
        while is_open and not (runner.is_busy and inbox.empty()):
            came = inbox.get()
            if came is None:
                is_open = False
            elif isinstance(came, TaskBrief):
                runner.introduce(came)
            elif refused := runner.begin(came):
                give(refused)

    while True:
        admit()
        if not runner.is_busy:
            return
        give(runner.finish(admit))


class UnitRunner:
    """Does units on one engine, several of them in the engine at once."""

    def __init__(self, engine: Engine, on_progress: OnProgress = lambda progress: None) -> None:
        self._engine, self._on_progress = engine, on_progress
        self._name = f"{os.uname().nodename}/{os.getpid()}"
        self._tasks: dict[str, _Task] = {}
        self._running: deque[_Running] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    def introduce(self, brief: TaskBrief) -> None:
        """Make a task known."""
        self._tasks[brief.key] = _Task(self._engine, brief)

    def begin(self, unit: Unit) -> UnitResult | None:
        """Queue a unit's requests. A result comes back at once where it cannot be done."""
        task = self._tasks[unit.brief]
        try:
            if isinstance(unit, ReadUnit):
                if unit.fresh:
                    self._engine.reset_prefix_cache()
                self._running.append(_Running(unit))
                return None
            sources = task.sources()
            if unit.fresh:
                self._engine.reset_prefix_cache()
            self._running.append(task.begin(unit, sources))
        except InputError as error:
            return all_faulty(unit, task.brief.task.name, "sample", str(error))
        except FourshotError as error:
            return self._failed(unit, error)
        return None

    def finish(self, meanwhile: Callable[[], None] = lambda: None) -> UnitResult:
        """Finish the oldest unit; ``meanwhile`` is called whenever one of its texts is there."""
        running = self._running[0]
        task, unit = self._tasks[running.unit.brief], running.unit
        try:
            if isinstance(unit, ReadUnit):
                result = UnitResult(unit=unit, scores=task.scores(unit.texts, unit.folds))
            else:
                completions = list(self._completions(running, unit.reports, meanwhile))
                best = likeliest(completions)
                drawn = [_draw(unit, running, position, best[position]) for position in range(len(running.requests))]
                draws, faults = task.read_in_place(drawn) if unit.reads else (tuple(drawn), ())
                result = UnitResult(
                    unit=unit,
                    draws=draws,
                    faults=faults,
                    output_tokens=sum(completion.num_tokens for completion in completions),
                    attributes=task.take_listed(),
                )
        except FourshotError as error:
            return self._failed(unit, error)
        finally:
            self._running.popleft()
        return msgspec.structs.replace(result, engine=self._name, stats=self._engine.stats())

    def _completions(self, running: _Running, reports: int, meanwhile: Callable[[], None]) -> Iterator[Completion]:
        """All of a unit, numbered as its requests are."""
        tries = running.calls[0].sampling.n
        total = len(running.requests) * tries
        every = max(1, total // reports) if reports else total + 1
        done = 0
        for call in running.calls:
            for completion in call.completions:
                meanwhile()
                done += 1
                if reports and (done % every == 0 or done == total):
                    self._on_progress(UnitProgress(unit=running.unit.key, done=done // tries))
                yield msgspec.structs.replace(completion, prompt_index=call.first + completion.prompt_index)

    def _failed(self, unit: Unit, error: FourshotError) -> UnitResult:
        return UnitResult(unit=unit, failure=Failure.of(error), engine=self._name, stats=self._engine.stats())


class _Task:
    """What is made once for all units of a task."""

    def __init__(self, engine: Engine, brief: TaskBrief) -> None:
        self.brief, self._engine = brief, engine
        self._filter = TextFilter(brief.shots, brief.settings.filter, task=brief.task)
        self._sources: dict[str, PromptSource] = {}  # by class, from the first draw on
        self._listed: dict[str, Attributes] = {}  # by this worker, and not yet sent to the driver
        self._annotator: Annotator | None = None

    def sources(self) -> Mapping[str, PromptSource]:
        """The prompts of every class; attributes are listed where the brief has none."""
        if not self._sources:
            brief = self.brief
            attributes = brief.attributes
            if brief.settings.variety.attributes and not attributes:
                # Every worker lists them for itself: what they are follows from the task, its shots and the seed.
                attributes = self._listed = list_attributes(self._engine, brief.task, brief.shots, brief.settings)
            self._sources = {
                label.name: PromptSource(brief.task, label, brief.shots, brief.settings, attributes.get(label.name))
                for label in brief.task.labels
            }
        return self._sources

    def take_listed(self) -> dict[str, Attributes]:
        """Attributes that the driver has not been sent yet."""
        listed, self._listed = self._listed, {}
        return listed

    def begin(self, unit: DrawUnit, sources: Mapping[str, PromptSource]) -> _Running:
        """Queue the requests of a unit."""
        brief, requests, calls = self.brief, list[_Request](), list[_Call]()
        seeded = [(part, *_prompts(part, sources[part.label])) for part in unit.slices]
        for (seed, bias), parts in groupby(seeded, key=lambda item: (item[1], item[0].bias)):
            first, offset = len(requests), None
            for part, _, prompts in parts:
                offset = part.seed_offset if offset is None else offset
                numbered = [_Request(part, part.first_id + i, prompt) for i, prompt in enumerate(prompts)]
                requests += sorted(numbered, key=lambda request: request.prompt.shots) if unit.by_shots else numbered
            sampling = draw_sampling(self._engine, brief.shots, brief.settings, seed, offset or 0, bias)
            prompts_of_call = [request.prompt.prompt for request in requests[first:]]
            calls.append(_Call(first, sampling, self._engine.sample(prompts_of_call, sampling)))
        return _Running(unit, requests, calls)

    def read_in_place(self, drawn: Sequence[Draw]) -> tuple[tuple[Draw, ...], tuple[DrawFault, ...]]:
        """The draws, by id, with what is wrong with their form, or with scores; and those that could not be read."""
        checked = [
            (draw, self._filter.alone(draw.candidate)) for draw in sorted(drawn, key=lambda draw: draw.candidate.id)
        ]
        scores = iter(self._scores_or_errors([draw.candidate.text for draw, reason in checked if reason is None]))
        draws, faults = [], []
        for draw, reason in checked:
            answer = () if reason else next(scores)
            if isinstance(answer, str):
                label, number = draw.candidate.label, draw_number(draw.candidate)
                faults.append(
                    DrawFault(task=self.brief.task.name, label=label, draw=number, step="score", message=answer)
                )
            else:
                draws.append(msgspec.structs.replace(draw, reason=reason, scores=answer))
        return tuple(draws), tuple(faults)

    def _scores_or_errors(self, texts: Sequence[str]) -> "Sequence[tuple[float, ...] | str]":
        """Label scores of each text, or why the engine refuses it: one bad text must not take others with it."""
        if not texts:
            return []
        if self.brief.settings.annotate.annotator == "none":
            return [()] * len(texts)
        try:
            return [tuple(round(score, 6) for score in row) for row in self.scores(texts)]
        except InputError as error:
            if len(texts) == 1:
                return [str(error)]
            return [answer for text in texts for answer in self._scores_or_errors([text])]

    def scores(self, texts: Sequence[str], folds: Sequence[int | None] = ()) -> tuple[tuple[float, ...], ...]:
        """The annotator's, uncalibrated, nats [num_texts, num_labels]."""
        if self._annotator is None:
            brief = self.brief
            self._annotator = annotator_of(self._engine, brief.task, brief.shots, brief.settings, brief.readers)
        return tuple(map(tuple, self._annotator.scores(texts, folds).astype(np.float64).tolist()))


def draw_number(candidate: Candidate) -> int:
    """Position of a text among the draws that are numbered with it."""
    return int(candidate.id.rpartition("-")[2])


def _prompts(part: DrawSlice, source: PromptSource) -> tuple[int, list[DrawPrompt]]:
    """The seed of a slice's requests, and its prompts."""
    numbers = random.Random(part.stream)
    prompts = [source.draw(numbers) for _ in range(part.stream_draws)]
    seed = numbers.getrandbits(31) if part.seed is None else part.seed
    return seed, prompts[part.skip : part.skip + part.draws]


def _draw(unit: DrawUnit, running: _Running, position: int, completion: Completion) -> Draw:
    part, number, prompt = running.requests[position]
    call = next(call for call in reversed(running.calls) if call.first <= position)
    candidate = Candidate(
        id=f"{part.id_prefix}{number:0{part.id_digits}d}",
        text=clean_text(completion.text),
        label=part.label,
        round=unit.batch,
        prompt_hash=prompt.prompt_hash,
        shots=prompt.shots,
        num_tokens=completion.num_tokens,
        cumulative_logprob=completion.cumulative_logprob,
        finish_reason=completion.finish_reason,
        attributes=prompt.attributes,
    )
    index = call.sampling.seed_offset + position - call.first
    return Draw(candidate=candidate, seed=seeds.derive(call.sampling.seed or 0, index, completion.sample_index))
