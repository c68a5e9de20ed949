"""From a cell and its texts to trainings."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import cycle

import msgspec

from fourshot.pipeline.loop.rounds import finished_pairs, pool_folds
from fourshot.pipeline.runs.cells import MethodCell
from fourshot.pipeline.synthesis.prompts import PromptFormat, reading_prompt
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.tasks.types import Example, Task
from fourshot.training.jobs.jobs import TrainingJob
from fourshot.training.lora.examples import TrainingExample


def annotator_jobs(task: Task, model_revision: str, writer: MethodCell) -> list[TrainingJob]:
    """The committee: adapters of the shots alone, then one per fold of the pool, which has to be drawn."""
    settings = writer.settings
    annotate = settings.annotate
    if annotate.annotator != "adapters":
        return []
    as_job = partial(_training_job, task, model_revision, writer)
    of_shots = [
        as_job(
            classification_examples(task, writer.shots, msgspec.structs.replace(writer.form, wording=wording)),
            seed=writer.seed + 1000 * number,
        )
        for number, wording in zip(range(annotate.num_adapters), cycle(annotate.wordings), strict=False)
    ]
    if not annotate.folds:
        return of_shots
    brief = msgspec.structs.replace(settings.train, num_epochs=annotate.fold_epochs)
    form = msgspec.structs.replace(writer.form, wording="task")
    drawn = [candidate for candidate, _ in finished_pairs(writer.folder.pool)]
    fold_of = pool_folds(writer.folder.pool, annotate.folds)
    of_folds = []
    for fold in range(annotate.folds):
        # Every candidate outside the fold is believed to be what it was drawn for.
        believed = [
            Example(text=candidate.text, label=candidate.label)
            for candidate in drawn
            if fold_of.get(candidate.id, fold) != fold
        ]
        job = as_job(_shots_and(task, writer, believed, form))
        of_folds.append(msgspec.structs.replace(job, settings=brief))
    return of_shots + of_folds


def classifier_job(
    task: Task, model_revision: str, cell: MethodCell, pairs: Sequence[tuple[Candidate, Verdict]]
) -> TrainingJob:
    """The training of a method's classifier; ``pairs`` are its synthetic texts."""
    as_job = partial(_training_job, task, model_revision, cell)
    if not cell.method.synthetic:
        return as_job(classification_examples(task, cell.real, cell.form))
    kept = [Example(text=c.text, label=c.label) for c, v in pairs if v.kept]
    seen, held = hold_out(kept, cell.settings.train.held_out)
    job = as_job(_shots_and(task, cell, seen, cell.form))
    return msgspec.structs.replace(job, held_out=classification_examples(task, held, cell.form))


def _shots_and(
    task: Task, cell: MethodCell, synthetic: Sequence[Example], form: PromptFormat
) -> tuple[TrainingExample, ...]:
    shots = classification_examples(task, cell.shots, form, weight=cell.settings.shot_weight)
    return shots + classification_examples(task, synthetic, form)


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
    """Prompts without shots, each with the label to be said. They are served in the same ``form`` later."""
    names = task.label_names
    return tuple(
        TrainingExample(
            prompt=reading_prompt(task, example.text, form),
            target=names.index(example.label),
            weight=weight,
        )
        for example in examples
    )


def hold_out(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Split off ``share`` of each class, spread over the order drawn: what is seen, and what is held out."""
    seen, held = list[Example](), list[Example]()
    counted: Counter[str] = Counter()
    for example in examples:
        before, counted[example.label] = counted[example.label], counted[example.label] + 1
        is_held = int(counted[example.label] * share) > int(before * share)
        (held if is_held else seen).append(example)
    return seen, held
