"""Who teaches a text generation task: an adapter that is trained here, or somebody who is asked.

Each writes targets for inputs, and pairs of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from fourshot.engine.core import Adapter, Sampling
from fourshot.engine.files import append_lines, read_lines
from fourshot.engine.models import ResolvedModel
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.runs.annotating_text import PART, NamedWriter, count_lines, foretell_writing, write_lines
from fourshot.pipeline.runs.stage_driver import LOG_FILE
from fourshot.pipeline.runs.stage_process import run_stage
from fourshot.pipeline.runs.stages.train import TrainStage
from fourshot.pipeline.runs.stages.write import WriteItem, WriteStage, Written
from fourshot.pipeline.runs.text_pairs import written_pairs
from fourshot.pipeline.runs.text_students import lora_job, trained
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.generation import GenerationTask, Pair, between, drawing_prompt, writing_prompt
from fourshot.pipeline.tasks.pairs import Inputs
from fourshot.pipeline.text_student import greedy
from fourshot.training.jobs.jobs import Placement, TrainingJob
from fourshot.training.lora.examples import TrainingExample

SPARE = 2  # pairs drawn for each that is wanted, at most


class TrainedTeacher:
    """A base with an adapter that learnt the real pairs, and with another one where it is to write inputs, too."""

    def __init__(
        self,
        task: GenerationTask,
        base: ResolvedModel,
        settings: RunSettings,
        folder: Path,
        on_event: OnEvent,
        placement: Placement,
        most_tokens: int,
    ) -> None:
        self._task, self._base, self._settings, self._folder = task, base, settings, folder
        self._on_event, self._placement, self._most_tokens = on_event, placement, most_tokens
        self.name = ""

    def work(
        self, learnt: Sequence[Pair], test: Sequence[Pair], given: Inputs | None, generate: int
    ) -> tuple[list[Written], list[Written], list[Written]]:
        """Learn, then write: for the test inputs, for the user's that are not blank, and pairs of its own."""
        jobs = [lora_job(self._task, "teacher", self._base, learnt, self._settings)]
        if generate:
            jobs.append(self._drawing_job(learnt))
        store, log = self._folder / "adapters", str(self._folder / LOG_FILE)
        stage = TrainStage(
            model_path=self._base.path,
            items=tuple(jobs),
            store=str(store),
            what="teacher",
            log=log,
            placement=self._placement,
        )
        run_stage(stage, self._on_event)
        adapters = [trained(store, job)[0] for job in jobs]
        self.name = adapters[0].name
        items = [
            self._item("the teacher on the test inputs", [pair.input for pair in test], adapters[0]),
            self._item("the teacher on the inputs given", filter(None, given.inputs) if given else (), adapters[0]),
        ]
        if generate:
            sampling = Sampling(
                **msgspec.structs.asdict(self._settings.sampling),
                max_tokens=3 * self._most_tokens,
                seed=self._settings.seed,
            )
            prompts = (drawing_prompt(self._task),) * (SPARE * generate)
            items.append(
                msgspec.structs.replace(
                    self._item("pairs of the teacher's own", [], adapters[1]), prompts=prompts, sampling=sampling
                )
            )
        run_stage(WriteStage(model_path=self._base.path, items=tuple(items), log=log), self._on_event)
        lines = [item.lines() for item in items]
        return lines[0], lines[1], lines[2] if generate else []

    def _item(self, title: str, inputs: Iterable[str], adapter: Adapter) -> WriteItem:
        return WriteItem(
            title=title,
            folder=str(self._folder / "written"),
            prompts=tuple(writing_prompt(self._task, text) for text in inputs),
            sampling=greedy(self._most_tokens),
            model_revision=self._base.revision,
            adapter=adapter,
        )

    def _drawing_job(self, learnt: Sequence[Pair]) -> TrainingJob:
        """Learns inputs with their targets, from the instruction alone."""
        prompt = drawing_prompt(self._task)
        examples = [
            TrainingExample(prompt=prompt, written=f"{pair.input}{between(self._task)} {pair.target}")
            for pair in learnt
        ]
        job = lora_job(self._task, "generator", self._base, learnt, self._settings)
        return msgspec.structs.replace(job, examples=tuple(examples))


def ask_teacher(
    by: NamedWriter,
    folder: Path,
    learnt: Sequence[Pair],
    test: Sequence[Pair],
    given: Inputs | None,
    generate: int,
    settings: RunSettings,
    on_event: OnEvent,
    *,
    forecast: bool,
) -> tuple[list[Written], list[Written], list[Written]]:
    """What ``by`` writes: for the test inputs, for the user's that are not blank, and pairs of its own."""
    inputs = [[text for text in given.inputs if text] if given else [], [pair.input for pair in test]]
    files = [folder / "written" / f"{value_hash((by.name, one))}.jsonl" for one in inputs]
    left = [one[count_lines(file) :] for one, file in zip(inputs, files, strict=True)]
    known = [*learnt, *(Pair(input=text, target="") for text in inputs[0])]
    pairs = _Pairs(by, folder, learnt, known, test, generate, settings, on_event) if generate else None
    if forecast:
        foretell_writing(by, left[0], on_event, tested=left[1], pairs=pairs.missing if pairs else 0)
    for one, file, what in zip(inputs, files, ("the inputs given", "the test inputs"), strict=True):
        write_lines(by, one, file, on_event, f"the teacher on {what}")
    annotated, tested = (read_lines(file, Written) if file.exists() else [] for file in files)
    return tested, annotated, pairs.drawn() if pairs else []


class _Pairs:
    """Pairs that a teacher who is asked writes, on the disk part by part; each is paid for, so no more than needed."""

    def __init__(
        self,
        by: NamedWriter,
        folder: Path,
        learnt: Sequence[Pair],
        known: Sequence[Pair],
        test: Sequence[Pair],
        wanted: int,
        settings: RunSettings,
        on_event: OnEvent,
    ) -> None:
        """Raises InputError for a setting that ``by`` cannot be told."""
        assert by.draw
        self._task, self._known, self._test, self._wanted, self._on_event = by.task, known, test, wanted, on_event
        what = (by.name, "pairs", learnt, settings.sampling, settings.seed)
        self._file = folder / "written" / f"{value_hash(what)}.jsonl"
        self._draw = by.draw(self._file.with_name("log.txt"), on_event, learnt, settings)
        self._said = read_lines(self._file, Written) if count_lines(self._file) else []

    @property
    def missing(self) -> int:
        """How many are to be asked for at least; 0 too where as many were drawn as may be."""
        usable, _ = written_pairs(self._task, self._said, self._wanted, self._known, self._test)
        return min(self._wanted - len(usable), SPARE * self._wanted - len(self._said))

    def drawn(self) -> list[Written]:
        """All, once there are enough that can be learnt, or `SPARE` for each that is wanted."""
        for answers in self._draw(self._parts()):
            append_lines(self._file, answers)
            self._said += answers
            message, done = "the teacher's own pairs", self._wanted - self.missing
            self._on_event(Event(stage="generate", message=message, done=done, total=self._wanted, unit="pairs"))
        return self._said

    def _parts(self) -> Iterator[range]:
        """Each as what became of those before leaves it open."""
        while missing := self.missing:
            yield range(len(self._said), len(self._said) + min(missing, PART))
