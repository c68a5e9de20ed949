"""The students of a text generation task: the one that is wanted, and the same on the real pairs alone."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel, checkpoint_shapes
from fourshot.engine.core import Adapter
from fourshot.engine.errors import InputError
from fourshot.pipeline.distillation.request import TextDistillation
from fourshot.pipeline.runs.stage_process import run_stage
from fourshot.pipeline.runs.stages.text_student import CausalItem, CausalStage, Seq2SeqItem, Seq2SeqStage
from fourshot.pipeline.runs.stages.train import TrainStage
from fourshot.pipeline.runs.stages.write import WriteItem, WriteStage, WrittenAnswer
from fourshot.pipeline.student_card import check_kept
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.generation import GenerationTask, Pair, writing_prompt
from fourshot.pipeline.text_student import greedy
from fourshot.training.jobs.jobs import TrainingJob, finished
from fourshot.training.lora.examples import TrainingExample, TrainingResult
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.students.seq2seq import Seq2SeqJob, TaughtText, TextStudentResult, finished_seq2seq
from fourshot.training.students.settings import TextStudentSettings
from fourshot.training.students.text_models import TextModel, places_of

OF_LORA = ("num_epochs", "learning_rate", "batch_size")  # student settings that a causal student takes


class StudentMade(msgspec.Struct, frozen=True, kw_only=True):
    """A student, and what it wrote for the test inputs."""

    result: TextStudentResult
    written: list[WrittenAnswer]
    key: str  # of its training


def lora_job(
    task: GenerationTask, role: str, base: ResolvedModel, pairs: Sequence[Pair], settings: RunSettings
) -> TrainingJob:
    """Learns what is to be written for the inputs of ``pairs``; the loss is on that alone."""
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


def trained(store: Path, job: TrainingJob) -> tuple[Adapter, TrainingResult]:
    """What became of a finished training."""
    result = finished(store, job)
    assert result
    return result.adapter, result


class TextStudents:
    """Makes students of one model."""

    def __init__(self, request: TextDistillation, made_of: TextModel) -> None:
        """Raises InputError for a student's setting that a model of this kind does not have."""
        self._request, self._task, self._folder, self.made_of = request, request.task, request.folder, made_of
        self.student_settings, self.notes = _within(request.student_settings, places_of(made_of))
        self.settings = request.settings
        if made_of.kind == "causal":
            train = _with(request.settings, request.student_settings)
            self.settings = msgspec.structs.replace(request.settings, train=train)

    def lora_of(self, base: ResolvedModel) -> LoraSettings | None:
        """How students learn through LoRA of ``base``; None for those of another model."""
        same = self.made_of.kind == "causal" and self.made_of.model.revision == base.revision
        return self.settings.train if same else None

    def make(self, real: Sequence[Pair], taught: Sequence[Pair], test: Sequence[Pair]) -> list[StudentMade]:
        """The student on ``real`` and ``taught``, then the one on ``real`` alone; each writes for ``test``."""
        if self.made_of.kind == "seq2seq":
            return self._seq2seq(real, taught, test)
        base = self.made_of.model
        store = self._folder / "adapters"
        jobs = [lora_job(self._task, "student", base, [*real, *taught], self.settings)]
        # Named as the teacher: where both are of one base and learn the same, it is the same training.
        jobs.append(lora_job(self._task, "teacher", base, real, self.settings))
        self._run(TrainStage(model_path=base.path, items=tuple(jobs), store=str(store), what="student"))
        (adapter, result), (alone, alone_result) = (trained(store, job) for job in jobs)
        checkpoint = self._folder / "students" / jobs[0].key / adapter.name
        check_kept(checkpoint)
        self._run(CausalStage(model_path=base.path, items=(CausalItem(adapter=adapter, out=str(checkpoint)),)))
        prompts = tuple(writing_prompt(self._task, pair.input) for pair in test)
        item = WriteItem(
            title="the student on the test inputs",
            folder=str(self._folder / "written"),
            prompts=prompts,
            sampling=greedy(self.student_settings.max_target_tokens),
            model_revision=f"merged {adapter.name}",
        )
        baseline = msgspec.structs.replace(
            item, title="the student on the real pairs alone", model_revision=base.revision, adapter=alone
        )
        self._run(WriteStage(model_path=str(checkpoint), items=(item,)))
        self._run(WriteStage(model_path=base.path, items=(baseline,)))
        parameters = sum(prod(shape) for shape in checkpoint_shapes(checkpoint).values())
        return [
            StudentMade(
                result=TextStudentResult(
                    name=trained_as.name,
                    path=str(path),
                    parameters=parameters,
                    steps=trained_as.steps,
                    seconds=trained_as.seconds,
                    losses=trained_as.losses,
                ),
                written=written.lines(),
                key=job.key,
            )
            for job, trained_as, written, path in (
                (jobs[0], result, item, checkpoint),
                (jobs[1], alone_result, baseline, alone.path),
            )
        ]

    def _seq2seq(self, real: Sequence[Pair], taught: Sequence[Pair], test: Sequence[Pair]) -> list[StudentMade]:
        real_texts = [TaughtText(text=pair.input, target=pair.target, is_real=True) for pair in real]
        more = [TaughtText(text=pair.input, target=pair.target, is_real=pair.is_corrected) for pair in taught]
        store, model = self._folder / "students", self.made_of.model
        items = [
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
                folder=str(self._folder / "written"),
            )
            for title, examples in (("student", real_texts + more), ("student on the real pairs alone", real_texts))
        ]
        self._run(Seq2SeqStage(model_path=model.path, items=tuple(items), store=str(store)))
        results = []
        for item in items:
            result = finished_seq2seq(store, item.job)
            assert result
            results.append(StudentMade(result=result, written=item.lines(), key=item.key))
        return results

    def _run(self, stage: TrainStage | CausalStage | WriteStage | Seq2SeqStage) -> None:
        placed = msgspec.structs.replace(stage, log=str(self._request.log), placement=self._request.placement)
        run_stage(placed, self._request.on_event)


def _within(settings: TextStudentSettings, places: int | None) -> tuple[TextStudentSettings, list[str]]:
    """Settings that a model with so many places for tokens can keep to, and what is to be told."""
    if places is None or max(settings.max_tokens, settings.max_target_tokens) <= places:
        return settings, []
    shorter = {name: min(getattr(settings, name), places) for name in ("max_tokens", "max_target_tokens")}
    note = f"the student has room for {places} tokens: longer inputs and targets are cut there"
    return msgspec.structs.replace(settings, **shorter), [note]


def _with(settings: RunSettings, student: TextStudentSettings) -> LoraSettings:
    """The LoRA settings of a causal student. Raises InputError for what only the other kind has."""
    usual = TextStudentSettings()
    if names := [name for name in ("held_out", "max_tokens") if getattr(student, name) != getattr(usual, name)]:
        raise InputError(
            f"{' and '.join(names)} of a student are for sequence-to-sequence models, and this one is causal. Leave "
            "them out."
        )
    return msgspec.structs.replace(
        settings.train, **{name: value for name in OF_LORA if (value := getattr(student, name))}
    )
