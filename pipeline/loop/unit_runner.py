"""The worker's side: turns units into texts and label scores, with one engine that always has enough to do.

The requests of a draw unit are queued when it begins. So while the texts of one unit are annotated, those of the next
are generated, in the same batches. Requests with the same beginning are adjacent, for more hits in the prefix cache.
"""

import os
import queue
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np

from fourshot.engine import seeds
from fourshot.engine.core import Completion, Engine, Sampling
from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.processes import ChildFailure
from fourshot.pipeline.loop.units import (
    AnnotationUnit,
    Draw,
    DrawFault,
    DrawSlice,
    DrawUnit,
    TaskBrief,
    Unit,
    UnitProgress,
    UnitResult,
    all_faulty,
)
from fourshot.pipeline.synthesis.annotate import InContextAnnotator
from fourshot.pipeline.synthesis.attributes import Attributes, list_attributes
from fourshot.pipeline.synthesis.committee import Committee
from fourshot.pipeline.synthesis.drawing import DrawPrompt, PromptSource, draw_sampling, likeliest, most_tokens
from fourshot.pipeline.synthesis.evidence import KindEvidence
from fourshot.pipeline.synthesis.filters import TextFilter, clean_completion
from fourshot.pipeline.synthesis.fitting import prompt_fits
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.task import Task

Inbox = queue.SimpleQueue[TaskBrief | Unit | None]  # None: nothing more will come


class _Sampled(NamedTuple):
    """A slice whose requests are queued in the engine."""

    part: DrawSlice
    prompts: Sequence[tuple[int, DrawPrompt]]  # (number of the text, prompt), in the order of the requests
    sampling: Sampling
    completions: Generator[Completion, None, None]


def run_units(engine: Engine, inbox: Inbox, give: Callable[[UnitResult | UnitProgress], None]) -> None:
    """Process the units of ``inbox`` in order until it has None; ``give`` is called with results and progress."""
    runner = UnitRunner(engine, give)
    is_open = True

    def admit() -> None:
        """Begin all units in the inbox; wait for a message only if there is nothing to do."""
        nonlocal is_open
        while is_open and not (runner.is_busy and inbox.empty()):
            message = inbox.get()
            if message is None:
                is_open = False
            elif isinstance(message, TaskBrief):
                runner.introduce(message)
            elif refused := runner.begin(message):
                give(refused)

    while True:
        admit()
        if not runner.is_busy:
            return
        give(runner.finish(admit))


class UnitRunner:
    """Processes units on one engine, several of them at once."""

    def __init__(self, engine: Engine, on_progress: Callable[[UnitProgress], None] = lambda progress: None) -> None:
        self._engine, self._on_progress = engine, on_progress
        self._name = f"{os.uname().nodename}/{os.getpid()}"
        self._tasks: dict[str, _Task] = {}
        self._running: deque[tuple[Unit, Sequence[_Sampled]]] = deque()  # units that have begun, oldest first

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    def introduce(self, brief: TaskBrief) -> None:
        """Make a task known, before its first unit."""
        self._tasks[brief.key] = _Task(self._engine, brief)

    def begin(self, unit: Unit) -> UnitResult | None:
        """Queue a unit's requests. Return None, or a result if the unit cannot be processed."""
        task = self._tasks[unit.brief]
        try:
            if isinstance(unit, DrawUnit):
                task.prepare()
            if unit.fresh:
                self._engine.reset_prefix_cache()
            slices = [task.sample(part, unit.by_shots) for part in unit.slices] if isinstance(unit, DrawUnit) else ()
        except InputError as error:
            return all_faulty(unit, task.brief.task.name, "sample", str(error))
        except FourshotError as error:
            return self._failed(unit, error)
        self._running.append((unit, slices))
        return None

    def finish(self, meanwhile: Callable[[], None] = lambda: None) -> UnitResult:
        """Finish the oldest unit and return its result; ``meanwhile`` is called after each of its texts."""
        unit, slices = self._running[0]
        task = self._tasks[unit.brief]
        try:
            if isinstance(unit, AnnotationUnit):
                scores, agreement = task.annotate(unit.texts, unit.folds, unit.intended)
                result = UnitResult(unit=unit, scores=scores, agreement=agreement, evidence=task.take_evidence())
            else:
                result = self._drawn(unit, slices, task, meanwhile)
        except FourshotError as error:
            return self._failed(unit, error)
        finally:
            self._running.popleft()
        return msgspec.structs.replace(result, engine=self._name, stats=self._engine.stats())

    def _drawn(
        self, unit: DrawUnit, slices: Sequence[_Sampled], task: "_Task", meanwhile: Callable[[], None]
    ) -> UnitResult:
        draws: list[Draw] = []
        done = tokens = 0
        interval = max(1, unit.size // unit.reports) if unit.reports else 0
        for sampled in slices:
            completions = []
            for completion in sampled.completions:
                meanwhile()
                completions.append(completion)
                tokens += completion.num_tokens
                finished, more = divmod(done + len(completions), sampled.sampling.n)
                if interval and not more and (finished % interval == 0 or finished == unit.size):
                    self._on_progress(UnitProgress(unit=unit.key, done=finished))
            done += len(completions)
            draws += _draws(task.brief.task, unit, sampled, likeliest(completions))
        annotated_draws, faults = task.annotate_in_place(draws) if unit.annotates else (draws, [])
        return UnitResult(
            unit=unit,
            draws=tuple(annotated_draws),
            faults=tuple(faults),
            output_tokens=tokens,
            attributes=task.take_listed(),
        )

    def _failed(self, unit: Unit, error: FourshotError) -> UnitResult:
        return UnitResult(unit=unit, failure=ChildFailure.of(error), engine=self._name, stats=self._engine.stats())


class _Task:
    """Prompts, filter and annotator of a task, created once for all of its units."""

    def __init__(self, engine: Engine, brief: TaskBrief) -> None:
        self.brief, self._engine = brief, engine
        self._sources: dict[str, PromptSource] = {}  # by class; empty before the first draw unit
        self._listed: dict[str, Attributes] = {}  # by this worker, and not sent to the driver yet
        self._has_told_evidence = False

    @cached_property
    def _filter(self) -> TextFilter:
        """Filter of generated texts; a task whose texts are only annotated needs none, and may have no shots."""
        brief = self.brief
        words = brief.settings.max_text_words
        return TextFilter(brief.shots, brief.settings.filter, task=brief.task, max_text_words=words)

    @cached_property
    def _annotator(self) -> InContextAnnotator | Committee:
        """The annotator. Raises InputError if the settings request none, or if its adapters are missing."""
        brief, kind = self.brief, self.brief.settings.annotate.annotator
        if kind == "icl":
            return InContextAnnotator(self._engine, brief.task, brief.shots, brief.settings, brief.chat)
        if kind == "adapters":
            return Committee(self._engine, brief.task, brief.annotators, brief.settings, brief.shots)
        raise InputError("annotate.annotator is 'none', so there is no annotator to label texts. Set another.")

    def prepare(self) -> None:
        """Create the prompts of every class once; list attributes if wanted and not in the brief."""
        if self._sources:
            return
        brief = self.brief
        attributes = brief.attributes
        if brief.settings.variety.attributes and not attributes:
            # Every worker lists them itself: the task, its shots and the seed determine them.
            attributes = self._listed = list_attributes(
                self._engine, brief.task, brief.shots, brief.settings, brief.chat
            )
        answer = most_tokens(brief.task, brief.shots, brief.settings, self._engine.count_tokens)
        self._sources = {
            label.name: PromptSource(
                brief.task,
                label,
                brief.shots,
                brief.settings,
                attributes.get(label.name),
                brief.chat,
                fits=lambda prompt: prompt_fits(self._engine, prompt, answer),
            )
            for label in brief.task.labels
        }

    def take_listed(self) -> dict[str, Attributes]:
        """Return the listed attributes by class, if the driver has not been sent them yet."""
        listed, self._listed = self._listed, {}
        return listed

    def take_evidence(self) -> dict[str, KindEvidence]:
        """Return the committee's weights by kind, if the driver has not been sent them yet."""
        if self._has_told_evidence or not isinstance(self._annotator, Committee):
            return {}
        self._has_told_evidence = True
        return self._annotator.evidence

    def sample(self, part: DrawSlice, by_shots: bool) -> _Sampled:
        """Queue the requests of a slice."""
        numbers, source = random.Random(part.stream), self._sources[part.label]
        prompts = [source.draw(numbers) for _ in range(part.stream_draws)]
        seed = numbers.getrandbits(31) if part.seed is None else part.seed
        numbered = list(enumerate(prompts[part.skip : part.skip + part.draws], start=part.first_id))
        if by_shots:
            numbered.sort(key=lambda item: item[1].shots)
        task, shots, settings = self.brief.task, self.brief.shots, self.brief.settings
        sampling = draw_sampling(self._engine, task, shots, settings, seed, part.seed_offset, part.bias)
        completions = self._engine.sample([prompt.prompt for _, prompt in numbered], sampling)
        return _Sampled(part, numbered, sampling, completions)

    def annotate_in_place(self, draws: Sequence[Draw]) -> tuple[list[Draw], list[DrawFault]]:
        """Return draws by id, rejected by their form or with scores, and the faults of those that scoring failed on."""
        draws = sorted(draws, key=lambda draw: draw.candidate.id)
        reasons = [self._filter.alone(draw.candidate) for draw in draws]
        well_formed = [draw.candidate for draw, reason in zip(draws, reasons, strict=True) if reason is None]
        answers = iter(self._scores_or_errors(well_formed))
        annotated_draws, faults = list[Draw](), list[DrawFault]()
        for draw, reason in zip(draws, reasons, strict=True):
            answer = () if reason else next(answers)
            if isinstance(answer, str):
                task, label = self.brief.task.name, draw.candidate.label
                number = int(draw.candidate.id.rpartition("-")[2])  # among the draws that are numbered with it
                faults.append(DrawFault(task=task, label=label, draw=number, step="score", message=answer))
            else:
                annotated_draws.append(msgspec.structs.replace(draw, reason=reason, scores=answer))
        return annotated_draws, faults

    def _scores_or_errors(self, candidates: Sequence[Candidate]) -> "Sequence[tuple[float, ...] | str]":
        """Return label scores of each text, or why the engine rejects it: one bad text must not affect others."""
        if not candidates:
            return []
        if self.brief.settings.annotate.annotator == "none":
            return [()] * len(candidates)
        try:
            scores, _ = self.annotate([c.text for c in candidates], intended=[c.label for c in candidates])
            return [tuple(round(score, 6) for score in row) for row in scores]
        except InputError as error:
            if len(candidates) == 1:
                return [str(error)]
            return [answer for candidate in candidates for answer in self._scores_or_errors([candidate])]

    def annotate(
        self, texts: Sequence[str], folds: Sequence[int | None] = (), intended: Sequence[str] = ()
    ) -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
        """Return (scores, agreement): nats [num_texts, num_labels], uncalibrated; agreement only for a committee."""
        if not isinstance(self._annotator, Committee):
            return tuple(map(tuple, self._annotator.scores(texts).astype(np.float64).tolist())), ()
        probabilities, agreement = self._annotator.annotate(texts, folds, intended)
        return tuple(map(tuple, np.log(probabilities).tolist())), tuple(agreement.tolist())


def _draws(task: Task, unit: DrawUnit, sampled: _Sampled, best: Mapping[int, Completion]) -> Iterator[Draw]:
    """Yield the texts of a slice with their lineage, in the order of its requests."""
    part, sampling = sampled.part, sampled.sampling
    for index, (number, prompt) in enumerate(sampled.prompts):
        completion = best[index]
        candidate = Candidate(
            id=f"{part.id_prefix}{number:0{part.id_digits}d}",
            text=clean_completion(task, completion.text),
            label=part.label,
            round=unit.batch,
            prompt_hash=prompt.prompt_hash,
            mixed=prompt.mixed,
            shots=prompt.shots,
            num_tokens=completion.num_tokens,
            cumulative_logprob=completion.cumulative_logprob,
            finish_reason=completion.finish_reason,
            attributes=prompt.attributes,
        )
        seed = seeds.derive(sampling.seed or 0, sampling.seed_offset + index, completion.sample_index)
        yield Draw(candidate=candidate, seed=seed)
