"""Training jobs of a cell and its texts: annotators, encoders, averages and the classifier."""

import random
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import Adapter
from fourshot.pipeline.cells.cell import MethodCell
from fourshot.pipeline.cells.shot_sequences import sequence_examples
from fourshot.pipeline.cells.training_texts import TrainingTexts
from fourshot.pipeline.loop.rounds import finished_pairs, pool_folds
from fourshot.pipeline.rows.fields import encoder_text
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.encoders import EncoderFiles
from fourshot.pipeline.synthesis.evidence import alignment, learnt_probabilities, leaves_out_shots, shot_folds
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import Example, Task
from fourshot.training.jobs.jobs import TrainingJob
from fourshot.training.lora.averaging import average, can_average
from fourshot.training.lora.examples import TrainingExample
from fourshot.training.students.encoders import resolve_encoder
from fourshot.training.students.examples import StudentJob, TaughtExample
from fourshot.training.students.settings import StudentSettings
from fourshot.training.students.train import finished_student

T = TypeVar("T")
AVERAGED_CLASSES = 16  # from so many, averages annotate first by default: annotation takes most of such a run


def annotator_jobs(task: Task, model: ResolvedModel, writer: MethodCell) -> list[TrainingJob]:
    """Return the trainings of the committee: adapters of the shots alone, then one per fold of the finished pool."""
    settings = writer.settings
    annotate = settings.annotate
    if annotate.annotator != "adapters":
        return []
    as_job = partial(_training_job, task, model.revision, writer)
    left_outs = shots_left_out(writer, annotate.num_adapters)
    of_shots = []
    for number, (left_out, (form, shown)) in enumerate(zip(left_outs, shots_shown(writer), strict=True)):
        own, seed = _without(writer.shots, left_out), writer.seed + 1000 * number
        if shown:
            examples, brief = sequence_examples(task, own, form, settings, model.path, seed)
            of_shots.append(msgspec.structs.replace(as_job(examples, seed=seed), settings=brief))
        else:
            of_shots.append(as_job(classification_examples(task, own, form), seed=seed))
    if not annotate.folds:
        return of_shots
    brief = msgspec.structs.replace(settings.train, num_epochs=annotate.fold_epochs)
    form = writer.worded["task"]
    shots = classification_examples(task, writer.shots, form, weight=settings.shot_weight)
    drawn = [candidate for candidate, _ in finished_pairs(writer.folder.pool)]
    fold_of = pool_folds(writer.folder.pool, annotate.folds)
    of_folds = []
    for fold in range(annotate.folds):
        # Every candidate outside the fold is assumed to be of its intended class.
        believed = [
            Example(text=candidate.text, label=candidate.label)
            for candidate in drawn
            if fold_of.get(candidate.id, fold) != fold
        ]
        job = as_job(shots + classification_examples(task, believed, form))
        of_folds.append(msgspec.structs.replace(job, settings=brief))
    return of_shots + of_folds


def encoder_jobs(task: Task, writer: MethodCell) -> list[StudentJob]:
    """Return the trainings of the committee's encoders. Raises ModelNotFoundError if the bundled one is missing."""
    annotate = writer.settings.annotate
    if annotate.annotator != "adapters" or not annotate.num_encoders:
        return []
    encoder, settings = resolve_encoder(None), StudentSettings()
    shots = taught_shots(task, writer.shots, settings.max_tokens)
    return [
        StudentJob(
            name=task.name,
            title=f"{task.name}, encoder {number + 1} of {annotate.num_encoders}",
            encoder=encoder.path,
            encoder_revision=encoder.revision,
            labels=task.label_names,
            examples=tuple(_without(shots, left_out)),
            settings=settings,
            seed=writer.seed + 1000 * number,
        )
        for number, left_out in enumerate(shots_left_out(writer, annotate.num_encoders))
    ]


def taught_shots(task: Task, shots: Sequence[Example], max_tokens: int) -> list[TaughtExample]:
    """Return the shots as training examples of an encoder, which reads at most ``max_tokens`` of a text."""
    return [
        TaughtExample(
            text=encoder_text(task, shot.text, max_tokens),
            probabilities=tuple(float(name == shot.label) for name in task.label_names),
            is_real=True,
        )
        for shot in shots
    ]


def finished_encoders(store: Path, jobs: Sequence[StudentJob]) -> list[EncoderFiles]:
    """Return the encoders of those ``jobs`` that are finished in ``store``."""
    return [
        EncoderFiles(name=result.name, path=result.path, max_tokens=job.settings.max_tokens)
        for job in jobs
        if (result := finished_student(store, job))
    ]


def committee(
    writer: MethodCell, adapters: Sequence[Adapter], encoders: Sequence[EncoderFiles] = ()
) -> tuple[Annotator, ...]:
    """Return the annotators of a method's texts: adapters of shots, base model in context, encoders, fold adapters.

    ``adapters``: those of `annotator_jobs`, in their order, as far as trained. ``encoders``: the same of
    `encoder_jobs`.
    """
    annotate, learnt = writer.settings.annotate, writer.form.verbalizer

    def annotator(adapter: Adapter, form: PromptFormat, **more: Any) -> Annotator:
        return Annotator(
            adapter=adapter, wording=form.wording, chat=form.chat, filler=form.filler, verbalizer=learnt, **more
        )

    left_outs, prompts = shots_left_out(writer, annotate.num_adapters), shots_shown(writer)
    annotators = [
        annotator(adapter, form, shown=shown, left_out=left_out)
        for adapter, left_out, (form, shown) in zip(adapters, left_outs, prompts, strict=False)
    ]
    if annotate.annotator == "adapters":
        annotators += [
            Annotator(adapter=None, shown=order, chat=writer.form.chat, verbalizer=writer.settings.base_verbalizer)
            for order in shot_orders(len(writer.shots), annotate.in_context, writer.seed)
        ]
    annotators += [
        Annotator(adapter=None, encoder=encoder, left_out=left_out)
        for encoder, left_out in zip(encoders, shots_left_out(writer, annotate.num_encoders), strict=False)
    ]
    annotators += [
        annotator(adapter, writer.worded["task"], fold=fold)
        for fold, adapter in enumerate(adapters[annotate.num_adapters :])
    ]
    return tuple(annotators)


def reads_averages(settings: RunSettings, num_labels: int) -> bool:
    """Return whether averages of adapters annotate first, for a task with ``num_labels`` (``annotate.average``)."""
    by_itself = num_labels >= AVERAGED_CLASSES and not settings.learns_soft
    return settings.annotate.average == "first" or (settings.annotate.average == "auto" and by_itself)


def averaged(annotators: Sequence[Annotator], parent: Path) -> tuple[Annotator, ...]:
    """Return ``annotators`` with an average, stored in ``parent``, in place of adapters with equal prompts."""
    alike: dict[Annotator, list[Annotator]] = {}  # adapters, by their prompts
    for annotator in annotators:
        if annotator.adapter and annotator.fold is None:
            alike.setdefault(msgspec.structs.replace(annotator, adapter=None, left_out=()), []).append(annotator)
    averages = list[Annotator]()
    for form, members in alike.items():
        adapters = [annotator.adapter for annotator in members if annotator.adapter]
        if can_average(adapters):
            averages.append(msgspec.structs.replace(form, adapter=average(adapters, parent), averages=tuple(members)))
    stood_for = {member for annotator in averages for member in annotator.averages}
    return (*averages, *(annotator for annotator in annotators if annotator not in stood_for))


def shots_left_out(writer: MethodCell, count: int) -> list[tuple[int, ...]]:
    """Return the indices of the shots that each of ``count`` models is trained without; see `leaves_out_shots`."""
    labels = [shot.label for shot in writer.shots]
    if not leaves_out_shots(writer.settings, labels):
        return [()] * count
    folds = shot_folds(labels, min(count, writer.settings.k))
    num_folds = len(set(folds) - {None}) or 1
    return [tuple(index for index, fold in enumerate(folds) if fold == number % num_folds) for number in range(count)]


def shots_shown(writer: MethodCell) -> list[tuple[PromptFormat, tuple[int, ...]]]:
    """Return, for each adapter trained on the shots alone, the form of its prompts and the indices of the shots in it.

    It is shown those that it is trained on, in an order of its own, or none. Prompts with shots have no filler in
    training: it would depend on the shots.
    """
    settings, labels = writer.settings, [shot.label for shot in writer.shots]
    left_outs = shots_left_out(writer, settings.annotate.num_adapters)
    prompts = list[tuple[PromptFormat, tuple[int, ...]]]()
    for number, (left_out, wording) in enumerate(zip(left_outs, cycle(settings.annotate.wordings), strict=False)):
        form = writer.worded[wording]
        if settings.shows_shots(wording, _without(labels, left_out)):
            order, left = shot_orders(len(labels), number + 1, writer.seed)[number], frozenset(left_out)
            shown = tuple(index for index in order if index not in left)
            prompts.append((msgspec.structs.replace(form, filler=None), shown))
        else:
            prompts.append((form, ()))
    return prompts


def _without(items: Sequence[T], left_out: Collection[int]) -> list[T]:
    """Return the items whose index is not in ``left_out``."""
    left = frozenset(left_out)
    return [item for index, item in enumerate(items) if index not in left]


def shot_orders(num_shots: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """Return ``count`` random orders of the shots' indices, for prompts that show them all."""
    return [
        tuple(random.Random(f"{seed}/in context/{number}").sample(range(num_shots), num_shots))
        for number in range(count)
    ]


def classifier_job(task: Task, model_revision: str, cell: MethodCell, learnt: TrainingTexts) -> TrainingJob:
    """Return the training of a method's classifier."""
    as_job = partial(_training_job, task, model_revision, cell)
    if not cell.method.synthetic:
        return as_job(classification_examples(task, cell.real, cell.form))
    kept = learnt.kept
    if cell.settings.learns_soft:
        synthetic = soft_examples(task, kept, cell.form, cell.settings.annotate)
    else:
        believed = [Example(text=c.text, label=c.label or verdict.predicted) for c, verdict in kept]
        synthetic = classification_examples(task, believed, cell.form)
    trained_on, held_out = hold_out(synthetic, cell.settings.train.held_out)
    real = classification_examples(task, learnt.real, cell.form, weight=cell.settings.shot_weight)
    job = as_job((*real, *trained_on))
    return msgspec.structs.replace(job, held_out=tuple(held_out), settings=cell.settings.classifier_training)


def soft_examples(
    task: Task, kept: Sequence[tuple[Candidate, Verdict]], form: PromptFormat, annotate: AnnotateSettings
) -> tuple[TrainingExample, ...]:
    """Return synthetic texts with probabilities of all labels; those that were not annotated have a single label.

    Source: Schick & Schuetze 2021, "Exploiting Cloze Questions for Few Shot Text Classification", section 3.3 (one
    classifier is trained on the predictions of several for unlabelled texts).
    """
    names = task.label_names
    factors = alignment(kept, names, annotate)
    read_as = [Example(text=c.text, label=v.predicted or c.label) for c, v in kept]
    return tuple(
        msgspec.structs.replace(
            example, soft=learnt_probabilities(candidate, verdict.probabilities, names, annotate, factors)
        )
        if verdict.probabilities
        else example
        for example, (candidate, verdict) in zip(classification_examples(task, read_as, form), kept, strict=True)
    )


def _training_job(
    task: Task, model_revision: str, cell: MethodCell, examples: tuple[TrainingExample, ...], seed: int | None = None
) -> TrainingJob:
    return TrainingJob(
        name=task.name,
        model_revision=model_revision,
        examples=examples,
        labels=task.label_words,
        verbalizer=cell.form.verbalizer,
        settings=cell.settings.train,
        seed=cell.seed if seed is None else seed,
    )


def classification_examples(
    task: Task,
    examples: Sequence[Example],
    form: PromptFormat,
    *,
    weight: float = 1.0,
) -> tuple[TrainingExample, ...]:
    """Return prompts without shots, each with its label as the target, in the ``form`` that is also used in serving."""
    names = task.label_names
    return tuple(
        TrainingExample(
            prompt=classification_prompt(task, example.text, form),
            target=names.index(example.label),
            weight=weight,
        )
        for example in examples
    )


def hold_out(examples: Sequence[TrainingExample], share: float) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """Split off ``share`` of each class, spread over the order drawn. Return (trained on, held out)."""
    trained_on, held_out = list[TrainingExample](), list[TrainingExample]()
    counted: Counter[int] = Counter()
    for example in examples:
        before, counted[example.target] = counted[example.target], counted[example.target] + 1
        is_held = int(counted[example.target] * share) > int(before * share)
        (held_out if is_held else trained_on).append(example)
    return trained_on, held_out
