"""A worker's side: units in, texts with their label scores out, through one engine that always has enough to do.

The requests of a unit are queued when it begins, so while the texts of one are being read those of the next are being
drawn, in the same batches. Requests that share a beginning stand side by side, which the prefix cache rewards: a unit
draws from the shots of one class, in the order of its prompts, and reads with the shots of one task.
"""

import os
import queue
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from fourshot.engine import calibration, seeds
from fourshot.engine.calibration import CONTENT_FREE
from fourshot.engine.core import Completion, Engine
from fourshot.engine.errors import InputError
from fourshot.pipeline.corpus.units import Draw, RowFault, TaskBrief, Unit, UnitResult, all_faulty
from fourshot.pipeline.synthesis.annotate import Committee, InContextAnnotator
from fourshot.pipeline.synthesis.attributes import Attributes, list_attributes
from fourshot.pipeline.synthesis.filters import TextFilter, clean_text
from fourshot.pipeline.synthesis.generate import Asked, Asker, draw_sampling, likeliest
from fourshot.pipeline.synthesis.types import Candidate

Inbox = queue.SimpleQueue[TaskBrief | Unit | None]  # None: nothing more will come


class _Running(NamedTuple):
    """A unit whose requests are in the engine."""

    unit: Unit
    asked: list[tuple[int, Asked]]  # by number of the draw, in the order of the requests
    seed: int
    completions: Generator[Completion, None, None]


def work(engine: Engine, inbox: Inbox, give: Callable[[UnitResult], None]) -> None:
    """Do units as they come, in their order, until None comes."""
    drawer = Drawer(engine)
    is_open = True

    def admit() -> None:
        """Take what lies there; wait for something where there is nothing to do."""
        nonlocal is_open
        while is_open and not (drawer.is_busy and inbox.empty()):
            came = inbox.get()
            if came is None:
                is_open = False
            elif isinstance(came, TaskBrief):
                drawer.introduce(came)
            elif failed := drawer.begin(came):
                give(failed)

    while True:
        admit()
        if not drawer.is_busy:
            return
        give(drawer.finish(admit))


class Drawer:
    """Draws and reads units, several in the engine at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._name = f"{os.uname().nodename}/{os.getpid()}"
        self._desks: dict[str, _Desk] = {}
        self._running: deque[_Running] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    def introduce(self, brief: TaskBrief) -> None:
        """Make a task known."""
        self._desks[brief.task.name] = _Desk(self._engine, brief)

    def begin(self, unit: Unit) -> UnitResult | None:
        """Queue a unit's requests. A result comes back at once where the engine refuses them."""
        desk = self._desks[unit.task]
        settings = desk.brief.settings
        asked = desk.prompts(unit)
        seed = random.Random(f"{settings.seed}/{unit.task}/{unit.label}/{unit.first_draw}").getrandbits(31)
        try:
            sampling = draw_sampling(self._engine, desk.brief.shots, settings, seed)
            sampling = msgspec.structs.replace(sampling, bias=(*sampling.bias, *unit.bias))
            completions = self._engine.sample([one.prompt for _, one in asked], sampling)
        except InputError as error:
            return all_faulty(unit, "sample", str(error))
        self._running.append(_Running(unit, asked, seed, completions))
        return None

    def finish(self, meanwhile: Callable[[], None]) -> UnitResult:
        """Finish the oldest unit; ``meanwhile`` is called whenever one of its texts is there."""
        unit, asked, seed, completions = self._running[0]
        best = likeliest(_each(completions, meanwhile))
        self._running.popleft()
        desk = self._desks[unit.task]
        drawn = [_draw(unit, number, one, seed, best[index]) for index, (number, one) in enumerate(asked)]
        draws, faults = desk.read(unit, sorted(drawn, key=lambda draw: draw.candidate.id))
        is_first = unit.number == 0
        return UnitResult(
            unit=unit,
            draws=draws,
            faults=faults,
            content_free=desk.content_free() if is_first else (),
            attributes=desk.listed if is_first else {},
            engine=self._name,
            stats=self._engine.stats(),
        )


class _Desk:
    """What is made once for all units of a task."""

    def __init__(self, engine: Engine, brief: TaskBrief) -> None:
        self.brief, self._engine = brief, engine
        self._filter = TextFilter(brief.shots, brief.settings.filter, task=brief.task)
        self._askers: dict[str, Asker] = {}
        self.listed: dict[str, Attributes] = {}  # by class, from the first prompt on
        self._in_context: InContextAnnotator | None = None
        self._committee: Committee | None = None
        if brief.settings.annotate.annotator == "icl":
            self._in_context = InContextAnnotator(engine, brief.task, brief.shots, brief.settings, calibration.NONE)
        elif brief.settings.annotate.annotator == "adapters":
            self._committee = Committee(engine, brief.task, brief.readers, brief.settings)

    def prompts(self, unit: Unit) -> list[tuple[int, Asked]]:
        """One per draw, those that begin alike side by side."""
        numbers = random.Random(f"{self.brief.settings.seed}/{unit.task}/{unit.label}/{unit.first_draw}/shots")
        asker = self._asker(unit.label)
        asked = [(draw, asker.ask(numbers)) for draw in range(unit.first_draw, unit.first_draw + unit.draws)]
        return sorted(asked, key=lambda one: one[1].shots)

    def _asker(self, label: str) -> Asker:
        if not self._askers:
            brief = self.brief
            # Every worker lists them for itself: what they are follows from the task, its shots and the seed.
            if brief.settings.variety.attributes:
                self.listed = list_attributes(self._engine, brief.task, brief.shots, brief.settings)
            self._askers = {
                one.name: Asker(brief.task, one, brief.shots, brief.settings, self.listed.get(one.name))
                for one in brief.task.labels
            }
        return self._askers[label]

    def read(self, unit: Unit, drawn: Sequence[Draw]) -> tuple[tuple[Draw, ...], tuple[RowFault, ...]]:
        """The draws with what is wrong with their form, or with scores; and those that could not be read."""
        checked = [(draw, self._filter.alone(draw.candidate)) for draw in drawn]
        well_formed = [draw.candidate for draw, reason in checked if reason is None]
        scores = dict(zip((one.id for one in well_formed), self._scores(well_formed), strict=True))
        draws, faults = [], []
        for draw, reason in checked:
            said = () if reason else scores[draw.candidate.id]
            if isinstance(said, str):
                number = draw_number(draw.candidate)
                faults.append(RowFault(task=unit.task, label=unit.label, draw=number, step="score", message=said))
            else:
                draws.append(Draw(candidate=draw.candidate, seed=draw.seed, reason=reason, scores=said))
        return tuple(draws), tuple(faults)

    def content_free(self) -> tuple[tuple[float, ...], ...]:
        """Scores of texts that say nothing, where they calibrate the annotator."""
        if self._in_context is None or self.brief.settings.annotate.calibration != "contextual":
            return ()
        try:
            return _rows(self._in_context.scores(list(CONTENT_FREE)))
        except InputError:  # as it will refuse all others, each of which is told
            return ()

    def _scores(self, candidates: Sequence[Candidate]) -> "Sequence[tuple[float, ...] | str]":
        """Label scores of each candidate, or why the engine refuses it: one bad text must not take others with it."""
        if not candidates:
            return []
        try:
            return self._ask(candidates)
        except InputError as error:
            if len(candidates) == 1:
                return [str(error)]
            return [said for candidate in candidates for said in self._scores([candidate])]

    def _ask(self, candidates: Sequence[Candidate]) -> tuple[tuple[float, ...], ...]:
        if self._in_context:
            return _rows(self._in_context.scores([candidate.text for candidate in candidates]))
        if self._committee:
            return _rows(np.log(self._committee.probabilities(candidates)))
        return ((),) * len(candidates)


def draw_number(candidate: Candidate) -> int:
    """Position of a text among the draws for its class."""
    return int(candidate.id.rpartition("-")[2])


def _draw(unit: Unit, number: int, asked: Asked, seed: int, completion: Completion) -> Draw:
    candidate = Candidate(
        id=f"{unit.label}-{number:08d}",
        text=clean_text(completion.text),
        label=unit.label,
        round=unit.number,
        prompt_hash=asked.prompt_hash,
        shots=asked.shots,
        num_tokens=completion.num_tokens,
        cumulative_logprob=completion.cumulative_logprob,
        finish_reason=completion.finish_reason,
        attributes=asked.attributes,
    )
    return Draw(candidate=candidate, seed=seeds.derive(seed, completion.prompt_index, completion.sample_index))


def _rows(scores: "np.ndarray") -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, np.round(scores.astype(np.float64), 6).tolist()))


def _each(completions: Iterable[Completion], meanwhile: Callable[[], None]) -> Iterator[Completion]:
    for completion in completions:
        meanwhile()
        yield completion
