"""The students of a text generation task: the requested one, and the same on the real pairs alone."""

from collections.abc import Iterable, Sequence
from math import prod

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel, checkpoint_shapes
from fourshot.engine.core import Adapter
from fourshot.engine.errors import InputError
from fourshot.pipeline.distillation.request import TextDistillation
from fourshot.pipeline.runs.stages.text_student import CausalItem, CausalStage, Seq2SeqItem, Seq2SeqStage
from fourshot.pipeline.runs.stages.train import TrainStage
from fourshot.pipeline.runs.stages.write import WriteItem, WriteStage, WrittenAnswer
from fourshot.pipeline.student_card import check_student_unchanged
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.generation import GenerationTask, Pair, writing_prompt
from fourshot.pipeline.text_student import greedy
from fourshot.training.jobs.jobs import TrainingJob, finished
from fourshot.training.lora.examples import TrainingExample, TrainingResult
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.students.seq2seq import Seq2SeqJob, TaughtText, TextStudentResult, finished_seq2seq
from fourshot.training.students.settings import TextStudentSettings
from fourshot.training.students.text_models import TextModel, max_positions

ADAPTERS = "adapters"  # folder of LoRA trainings
OF_LORA = ("num_epochs", "learning_rate", "batch_size")  # student settings that apply to a causal student


class StudentMade(msgspec.Struct, frozen=True, kw_only=True):
    """A trained student with its texts for the test inputs."""

    result: TextStudentResult
    written: list[WrittenAnswer]
    key: str  # of its training


def lora_job(
    task: GenerationTask, role: str, base: ResolvedModel, pairs: Sequence[Pair], settings: RunSettings
) -> TrainingJob:
    """Return a training on the targets of ``pairs``, given their inputs; the loss is on the targets alone."""
    return TrainingJob(
        name=f"{task.name}-{role}",
        model_revision=base.revision,
        examples=tuple(
            TrainingExample(prompt=writing_prompt(task, pair.input), written=f" {pair.target}") for pair in pairs
        ),
        labels=(),
        settings=settings.train,
        seed=settings.seed,
    )


def train_adapters(
    request: TextDistillation, what: str, base: ResolvedModel, jobs: Sequence[TrainingJob]
) -> list[TrainingResult]:
    """Train those adapters of ``base`` that do not exist yet, and return all results, in the order of ``jobs``.

    ``what``: whose adapters they are, for display.
    """
    store = request.folder / ADAPTERS
    request.run(TrainStage(model_path=base.path, items=tuple(jobs), store=str(store), what=what))
    results = [result for job in jobs if (result := finished(store, job))]
    assert len(results) == len(jobs)
    return results


def targets_item(
    request: TextDistillation,
    title: str,
    inputs: Iterable[str],
    most_tokens: int,
    model_revision: str,
    adapter: Adapter | None = None,
) -> WriteItem:
    """Return the item that generates a target for each of ``inputs``, with greedy decoding."""
    return WriteItem(
        title=title,
        folder=str(request.folder / "written"),
        prompts=tuple(writing_prompt(request.task, text) for text in inputs),
        sampling=greedy(most_tokens),
        model_revision=model_revision,
        adapter=adapter,
    )


class TextStudents:
    """Trains students from one model."""

    def __init__(self, request: TextDistillation, made_of: TextModel) -> None:
        """Raises InputError for a student setting that does not apply to this kind of model."""
        self._request, self._task, self.made_of = request, request.task, made_of
        self.student_settings, self.notes = _within(request.student_settings, max_positions(made_of))
        self.settings = request.settings
        if made_of.kind == "causal":
            train = _with(request.settings, request.student_settings)
            self.settings = msgspec.structs.replace(request.settings, train=train)

    def lora_of(self, base: ResolvedModel) -> LoraSettings | None:
        """Return the LoRA settings of students of ``base``; None if the students are of another model or kind."""
        same = self.made_of.kind == "causal" and self.made_of.model.revision == base.revision
        return self.settings.train if same else None

    def make(
        self, real: Sequence[Pair], taught: Sequence[Pair], test: Sequence[Pair]
    ) -> tuple[StudentMade, list[WrittenAnswer]]:
        """Train the student on ``real`` and ``taught`` pairs, and the same on ``real`` alone.

        Returns the student, and what the one on ``real`` alone generates for ``test``.
        """
        make = self._seq2seq if self.made_of.kind == "seq2seq" else self._causal
        return make(real, taught, test)

    def _causal(
        self, real: Sequence[Pair], taught: Sequence[Pair], test: Sequence[Pair]
    ) -> tuple[StudentMade, list[WrittenAnswer]]:
        request, base = self._request, self.made_of.model
        job = lora_job(self._task, "student", base, [*real, *taught], self.settings)
        # Named like the teacher's job: with the same base and pairs, both are a single training.
        job_alone = lora_job(self._task, "teacher", base, real, self.settings)
        result, alone = train_adapters(request, "student", base, [job, job_alone])
        checkpoint = request.folder / "students" / job.key / result.name
        check_student_unchanged(checkpoint)
        item = CausalItem(adapter=result.adapter, out=str(checkpoint))
        request.run(CausalStage(model_path=base.path, items=(item,)))
        inputs, most = [pair.input for pair in test], self.student_settings.max_target_tokens
        written = targets_item(request, "the student on the test inputs", inputs, most, f"merged {result.name}")
        title = "the student on the real pairs alone"
        written_alone = targets_item(request, title, inputs, most, base.revision, alone.adapter)
        request.run(WriteStage(model_path=str(checkpoint), items=(written,)))
        request.run(WriteStage(model_path=base.path, items=(written_alone,)))
        student = TextStudentResult(
            name=result.name,
            path=str(checkpoint),
            parameters=sum(prod(shape) for shape in checkpoint_shapes(checkpoint).values()),
            steps=result.steps,
            seconds=result.seconds,
            losses=result.losses,
        )
        return StudentMade(result=student, written=written.lines(), key=job.key), written_alone.lines()

    def _seq2seq(
        self, real: Sequence[Pair], taught: Sequence[Pair], test: Sequence[Pair]
    ) -> tuple[StudentMade, list[WrittenAnswer]]:
        real_texts = [TaughtText(text=pair.input, target=pair.target, is_real=True) for pair in real]
        more = [TaughtText(text=pair.input, target=pair.target, is_real=pair.is_corrected) for pair in taught]
        store, model = self._request.folder / "students", self.made_of.model
        item, alone = (
            Seq2SeqItem(
                job=Seq2SeqJob(
                    name=self._task.name,
                    title=f"{self._task.name}, {title}",
                    model=model.path,
                    model_revision=model.revision,
                    examples=tuple(examples),
                    settings=self.student_settings,
                    seed=self.settings.seed,
                ),
                texts=tuple(pair.input for pair in test),
                folder=str(self._request.folder / "written"),
            )
            for title, examples in (("student", real_texts + more), ("student on the real pairs alone", real_texts))
        )
        self._request.run(Seq2SeqStage(model_path=model.path, items=(item, alone), store=str(store)))
        result = finished_seq2seq(store, item.job)
        assert result
        return StudentMade(result=result, written=item.lines(), key=item.key), alone.lines()


def _within(settings: TextStudentSettings, places: int | None) -> tuple[TextStudentSettings, list[str]]:
    """Limit the token settings to the ``places`` of a model; return them and notes. None: no limit."""
    if places is None or max(settings.max_tokens, settings.max_target_tokens) <= places:
        return settings, []
    shorter = {name: min(getattr(settings, name), places) for name in ("max_tokens", "max_target_tokens")}
    note = f"the student has room for {places} tokens: longer inputs and targets are cut"
    return msgspec.structs.replace(settings, **shorter), [note]


def _with(settings: RunSettings, student: TextStudentSettings) -> LoraSettings:
    """Return the LoRA settings of a causal student. Raises InputError for settings that only the other kind has."""
    usual = TextStudentSettings()
    if names := [name for name in ("held_out", "max_tokens") if getattr(student, name) != getattr(usual, name)]:
        raise InputError(
            f"{' and '.join(names)} of a student are for sequence-to-sequence models, but this one is causal. Leave "
            "them out."
        )
    return msgspec.structs.replace(
        settings.train, **{name: value for name in OF_LORA if (value := getattr(student, name))}
    )
