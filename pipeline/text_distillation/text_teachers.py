"""Teachers of a text generation task: an adapter that is trained here, or an existing model that is queried.

Both generate targets for inputs, and new pairs.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import Adapter, Sampling
from fourshot.engine.machine.files import append_lines, read_lines
from fourshot.pipeline.distillation.annotating_text import PART, NamedWriter, forecast_of_writing, write_lines
from fourshot.pipeline.distillation.request import TextDistillation
from fourshot.pipeline.distillation.text_pairs import written_pairs
from fourshot.pipeline.events import Event
from fourshot.pipeline.forecasts.forecast import Forecast, make_forecast
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.remote_teacher import accounted
from fourshot.pipeline.runs.stages.write import WriteItem, WriteStage, WrittenAnswer
from fourshot.pipeline.student_card import STUDENT_LINK
from fourshot.pipeline.tasks.generation import Pair, between, drawing_prompt
from fourshot.pipeline.text_distillation.text_plan import Teaching, TextCounts
from fourshot.pipeline.text_distillation.text_students import (
    ADAPTERS,
    TextStudents,
    lora_job,
    targets_item,
    train_adapters,
)
from fourshot.training.jobs.jobs import TrainingJob, finished
from fourshot.training.lora.examples import TrainingExample

SPARE = 2  # at most this many pairs are generated for each requested one
Answers = list[WrittenAnswer]
Taught = tuple[Answers, Answers, Answers]  # targets of test inputs, targets of the user's inputs, and new pairs


class TrainedTeacher:
    """A base model with an adapter trained on the real pairs, and a second adapter if it also generates pairs."""

    def __init__(self, request: TextDistillation, base: ResolvedModel, teaching: Teaching, most_tokens: int) -> None:
        self._request, self._task, self._settings = request, request.task, request.settings
        self._base, self._teaching, self._most_tokens = base, teaching, most_tokens
        self._jobs = [lora_job(self._task, "teacher", base, teaching.learnt, self._settings)]
        if teaching.generate:
            self._jobs.append(self._drawing_job())
        self.name = ""

    def work(self) -> Taught:
        """Train the adapters, then generate; return the texts."""
        results = train_adapters(self._request, "teacher", self._base, self._jobs)
        self.name = results[0].name
        items = self._items([result.adapter for result in results])
        self._request.run(WriteStage(model_path=self._base.path, items=tuple(items)))
        tested, annotated, *drawn = (item.lines() for item in items)
        return tested, annotated, drawn[0] if drawn else []

    def forecast(self, students: TextStudents, *, anew: bool = False) -> Forecast | None:
        """Forecast the remaining work, and report it. See `forecast.make_forecast`.

        The students are included if they have the same base model, because its speed is known.
        """
        results = [finished(self._request.folder / ADAPTERS, job) for job in self._jobs]
        adapters = [result.adapter if result else Adapter(name="", path="") for result in results]
        tested, annotated, *drawn = (len(item.prompts) - len(item.lines()) for item in self._items(adapters))
        counts = TextCounts(self._task, self._teaching, self._base.path)
        learnt, test, inputs, generate = self._teaching
        work = [
            counts.training("train the teacher", len(learnt), self._settings.train) for result in results if not result
        ]
        work.append(counts.targets("annotate", tested + annotated))
        if drawn:
            pairs = counts.pairs("generate", drawn[0])
            work.append(msgspec.structs.replace(pairs, opens="nothing" if work[-1].calls else "engine"))
        if (train := students.lora_of(self._base)) and not (self._request.folder / STUDENT_LINK).exists():
            work.append(counts.training("train the student", len(learnt) + len(inputs) + generate, train))
            work.append(counts.targets("evaluate", len(test), adapter=False))
        remaining_work = [part for part in work if part.calls or part.trainings]
        return make_forecast(self._base, lambda _: remaining_work, self._request.on_event, anew=anew)

    def _items(self, adapters: Sequence[Adapter]) -> list[WriteItem]:
        """Return the items for the test inputs, for the user's inputs, and for new pairs if they are requested."""
        _, test, inputs, generate = self._teaching
        items = [
            self._item("the teacher on the test inputs", [pair.input for pair in test], adapters[0]),
            self._item("the teacher on the inputs given", inputs, adapters[0]),
        ]
        if generate:
            sampling = Sampling(
                **msgspec.structs.asdict(self._settings.sampling),
                max_tokens=3 * self._most_tokens,
                seed=self._settings.seed,
            )
            prompts = (drawing_prompt(self._task),) * (SPARE * generate)
            item = self._item("pairs of the teacher's own", [], adapters[1])
            items.append(msgspec.structs.replace(item, prompts=prompts, sampling=sampling))
        return items

    def _item(self, title: str, inputs: Iterable[str], adapter: Adapter) -> WriteItem:
        return targets_item(self._request, title, inputs, self._most_tokens, self._base.revision, adapter)

    def _drawing_job(self) -> TrainingJob:
        """Return a training on inputs together with their targets, given the instruction alone."""
        prompt, learnt = drawing_prompt(self._task), self._teaching.learnt
        examples = [
            TrainingExample(prompt=prompt, written=f"{pair.input}{between(self._task)} {pair.target}")
            for pair in learnt
        ]
        job = lora_job(self._task, "generator", self._base, learnt, self._settings)
        return msgspec.structs.replace(job, examples=tuple(examples))


class QueriedTeacher:
    """An existing model that is queried: a student, a service, or a remote teacher."""

    def __init__(self, request: TextDistillation, by: NamedWriter, teaching: Teaching) -> None:
        """Raises InputError for a setting that ``by`` does not support."""
        self._by, self._folder, self._on_event, self.name = by, request.folder, request.on_event, by.name
        self._inputs = list(teaching.inputs), [pair.input for pair in teaching.test]
        self._files = [self._folder / "written" / f"{value_hash((by.name, texts))}.jsonl" for texts in self._inputs]
        self._pairs = _Pairs(request, by, teaching) if teaching.generate else None

    def forecast(self, students: TextStudents, *, anew: bool = False) -> Forecast | None:
        """Forecast the remaining requests to a remote teacher, and report them; None for other teachers."""
        remaining_inputs, tested = (
            texts[len(read_lines(file, WrittenAnswer)) :] for texts, file in zip(self._inputs, self._files, strict=True)
        )
        pairs = self._pairs.missing if self._pairs else 0
        return forecast_of_writing(self._by, remaining_inputs, self._on_event, tested=tested, pairs=pairs)

    def work(self) -> Taught:
        """Request what is missing; return all texts."""
        for texts, file, description in zip(
            self._inputs, self._files, ("the inputs given", "the test inputs"), strict=True
        ):
            message = f"the teacher on {description}"
            write_lines(self._by, texts, file, self._on_event, message, account_in=self._folder)
        annotated, tested = (read_lines(file, WrittenAnswer) for file in self._files)
        return tested, annotated, self._pairs.drawn() if self._pairs else []


class _Pairs:
    """New pairs by a queried teacher, stored in parts. Each one costs money, so no more are requested than needed."""

    def __init__(self, request: TextDistillation, by: NamedWriter, teaching: Teaching) -> None:
        """Raises InputError for a setting that ``by`` does not support."""
        assert by.draw
        learnt, self._test, inputs, self._count = teaching
        self._task, self._on_event, settings = by.task, request.on_event, request.settings
        self._known_pairs = [*learnt, *(Pair(input=text, target="") for text in inputs)]
        identity = (by.name, "pairs", learnt, settings.sampling, settings.seed)
        self._file = request.folder / "written" / f"{value_hash(identity)}.jsonl"
        draw = by.draw(self._file.with_name("log.txt"), request.on_event, learnt, settings)
        self._draw = accounted(draw, by.account, request.folder)
        self._written = read_lines(self._file, WrittenAnswer)

    @property
    def missing(self) -> int:
        """The number of pairs to request next; 0 if there are enough, or if the limit of requests is reached."""
        usable, _ = written_pairs(self._task, self._written, self._count, self._known_pairs, self._test)
        return min(self._count - len(usable), SPARE * self._count - len(self._written))

    def drawn(self) -> list[WrittenAnswer]:
        """Request pairs until enough are usable, or `SPARE` for each requested one exist; return all of them."""
        for answers in self._draw(self._parts()):
            append_lines(self._file, answers)
            self._written += answers
            message, done = "the teacher's own pairs", self._count - self.missing
            self._on_event(Event(stage="generate", message=message, done=done, total=self._count, unit="pairs"))
        return self._written

    def _parts(self) -> Iterator[range]:
        """Yield the numbers of the next pairs, as many as are still missing, up to `PART` at a time."""
        while missing := self.missing:
            yield range(len(self._written), len(self._written) + min(missing, PART))
