"""The remaining work of an experiment's stages, as `forecast.StageWork`."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from itertools import cycle
from math import prod
from pathlib import Path

import msgspec
from msgspec import UNSET

from fourshot.engine.checkpoints.models import checkpoint_shapes
from fourshot.pipeline.cells.calibrating import FEWEST_UNSEEN, MOST_UNSEEN, other_subjects
from fourshot.pipeline.cells.cell import MethodCell
from fourshot.pipeline.cells.run_folder import GENERATED_FILE, POOL_FILE, UNLABELLED_FILE
from fourshot.pipeline.cells.self_training import FIRST_SHARE
from fourshot.pipeline.cells.trainings import annotator_jobs, reads_averages, shots_shown
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.forecasts.forecast import Forecast, StageWork, make_forecast
from fourshot.pipeline.forecasts.speed import Speed
from fourshot.pipeline.forecasts.work_counts import TokenCounts
from fourshot.pipeline.loop.plan import draws_whole_rounds, first_draws, rounds_for
from fourshot.pipeline.loop.rounds import pool_settings
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages import STAGE_NAMES, StageName, phases_until
from fourshot.pipeline.runs.stages.evaluate import WARM_UP_TEXTS
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.training.jobs.jobs import Placement, TrainingJob, finished
from fourshot.training.lora.examples import PROBE_TEXTS
from fourshot.training.students.train import finished_student

ENCODER_PARAMETERS = 22e6  # of the embedded encoder
UNDECIDED_SHARE = 0.3  # of texts that an averaged adapter leaves undecided, so that each of its members annotates them


def remaining_work(experiments: Sequence[Experiment], until: StageName, speed: Speed) -> list[StageWork]:
    """Return the remaining work of every stage up to ``until``, in the order of the stages."""
    titles = [phase.title for phase in phases_until(until)]
    trains = STAGE_NAMES.index(until) >= STAGE_NAMES.index("train")
    parts = [part for experiment in experiments for part in _Remaining(experiment, speed).work(classifies=trains)]
    return sorted((part for part in parts if part.stage in titles), key=lambda part: titles.index(part.stage))


def forecast_of_runs(
    experiments: Sequence[Experiment], until: StageName, on_event: OnEvent, placement: Placement, *, anew: bool = False
) -> Forecast | None:
    """Forecast and report the remaining work of experiments on one base model. See `forecast.make_forecast`.

    ``anew``: nothing runs after the forecast, so the folders are checked here. Raises RunFolderError where one belongs
    to another configuration.
    """
    if not experiments:
        return None
    for experiment in experiments if anew else ():
        experiment.check_claim()
    work_of, goes_on = partial(remaining_work, experiments, until), any(any(x.store.glob("*")) for x in experiments)
    return make_forecast(experiments[0].model, work_of, on_event, anew=anew, at_once=placement.at_once, goes_on=goes_on)


def teaching_work(experiment: Experiment, texts: Mapping[str, int], speed: Speed, *, writes: bool) -> list[StageWork]:
    """Return the work of a distillation's teacher, which is trained on the shots.

    ``texts``: number of texts that it annotates, by stage. ``writes``: it also generates texts.
    """
    remaining, writer = _Remaining(experiment, speed), experiment.writers[0]
    jobs = {job.key: (job, writer) for job in experiment.annotator_jobs(writer)}
    return [
        *remaining._pool(writer),
        *remaining._trainings(jobs),
        *remaining.encoders(writer),
        *(remaining._texts(writer) if writes else ()),
        *(_at(stage, remaining._annotation(writer, count)) for stage, count in texts.items() if count),
    ]


class _Remaining:
    """Computes the remaining work of one experiment."""

    def __init__(self, experiment: Experiment, speed: Speed) -> None:
        self._experiment, self._speed = experiment, speed
        cells = (*experiment.writers, *experiment.cells)
        task, path = experiment.task, experiment.model.path
        self._counts = {cell.key: TokenCounts(task, cell.shots, cell.settings, path) for cell in cells}

    def work(self, *, classifies: bool) -> list[StageWork]:
        """Return the work of all stages. Unless it ``classifies``, "train the annotators" has annotators alone.

        Otherwise that stage also has classifiers of real texts and the adapters that calibrate.
        """
        writers = self._experiment.writers
        return [
            *(part for writer in writers for part in self._pool(writer)),
            *self._annotators(classifies=classifies),
            *(part for writer in writers for part in self.encoders(writer)),
            *(part for writer in writers if writer.method.synthetic for part in self._texts(writer)),
            *self._classifiers(),
            *self._measuring(),
        ]

    def _pool_rounds(self, writer: MethodCell) -> list[int]:
        """Return the draws per class of each round of the pool; [] without a pool."""
        if not writer.settings.annotate.has_pool:
            return []
        pool = pool_settings(writer.settings, len(self._experiment.task.labels))
        return self._rounds(pool, pool.generate.per_class, self._speed.well_formed)

    def _pool(self, writer: MethodCell) -> list[StageWork]:
        rounds = self._pool_rounds(writer)
        if not rounds or writer.folder.has(POOL_FILE):
            return []
        work = self._counts[writer.key].draws(sum(rounds), chat=writer.form.chat, batches=len(rounds))
        return [_at("draw the pool", work)]

    def encoders(self, writer: MethodCell) -> list[StageWork]:
        """Return the training of the committee's encoders, in tokens scaled so that the base model's speed applies."""
        experiment = self._experiment
        jobs = experiment.encoder_jobs(writer)
        unfinished_jobs = [job for job in jobs if finished_student(experiment.encoder_store, job) is None]
        texts = sum(
            max(round(job.settings.num_epochs) * len(job.examples), job.settings.min_steps * job.settings.batch_size)
            for job in unfinished_jobs
        )
        if not unfinished_jobs:
            return []
        counts = self._counts[writer.key]
        tokens = texts * counts.text_tokens * self._encoder_share
        return [
            StageWork(
                stage="fine-tune the encoders", opens="trainer", trainings=len(unfinished_jobs), train_tokens=tokens
            )
        ]

    @cached_property
    def _encoder_share(self) -> float:
        """Parameters of an encoder over those of the base, at most 1: about the ratio of their times per token."""
        base = sum(prod(shape) for shape in checkpoint_shapes(Path(self._experiment.model.path)).values())
        return min(1.0, ENCODER_PARAMETERS / max(1, base))

    def _annotators(self, *, classifies: bool) -> list[StageWork]:
        """Return the trainings before texts are generated. Those on a pool that is not drawn yet are estimated."""
        experiment, jobs = self._experiment, dict[str, tuple[TrainingJob, MethodCell]]()
        if classifies:
            of_real = [cell for cell in experiment.cells if cell.method.trained and not cell.method.synthetic]
            jobs |= {job.key: (job, cell) for cell in of_real for job in [experiment.job(cell)]}
            jobs |= {job.key: (job, cell) for cell in experiment.cells for job in experiment.calibrator_jobs(cell)}
        work = []
        for writer in experiment.writers:
            annotate = writer.settings.annotate
            if annotate.annotator != "adapters":
                continue
            known_jobs = experiment.annotator_jobs(writer)
            if annotate.has_pool and not known_jobs:
                known_jobs = self._jobs_on_shots(writer)
                work.append(self._fold_trainings(writer))
            jobs |= {job.key: (job, writer) for job in known_jobs}
        return [*work, *self._trainings(jobs)]

    def _jobs_on_shots(self, writer: MethodCell) -> list[TrainingJob]:
        """Return the trainings of a committee with folds that need no pool."""
        annotate = writer.settings.annotate
        if not annotate.num_adapters:
            return []
        settings = msgspec.structs.replace(writer.settings, annotate=msgspec.structs.replace(annotate, folds=0))
        of_shots = msgspec.structs.replace(writer, settings=settings)
        return annotator_jobs(self._experiment.task, self._experiment.model, of_shots)

    def _fold_trainings(self, writer: MethodCell) -> StageWork:
        """Estimate the trainings on the folds of a pool that is not drawn yet."""
        annotate, labels = writer.settings.annotate, len(self._experiment.task.labels)
        pool = sum(self._pool_rounds(writer)) * self._speed.well_formed * labels
        most = writer.settings.pool_per_class(labels) * labels
        examples = len(writer.shots) + round(min(pool, most) * (1 - 1 / annotate.folds))
        brief = msgspec.structs.replace(writer.settings.train, num_epochs=annotate.fold_epochs)
        fold = self._counts[writer.key].training(examples, brief, writer.form)
        return _at("train the annotators", fold * annotate.folds)

    def _trainings(self, jobs: dict[str, tuple[TrainingJob, MethodCell]]) -> list[StageWork]:
        """Return the work of those ``jobs`` that are not finished; each is given, by key, with its cell."""
        work = []
        for job, cell in jobs.values():
            counts = self._counts[cell.key]
            if finished(self._experiment.store, job) is None:
                shown = job.examples[0].shown is not UNSET
                part = counts.sequences(job) if shown else counts.training(len(job.examples), job.settings, cell.form)
                work.append(_at("train the annotators", part))
        return work

    def _texts(self, writer: MethodCell) -> list[StageWork]:
        """Return the work of annotating the user's own texts and the pool, and of generating what the pool lacks."""
        experiment, settings, counts = self._experiment, writer.settings, self._counts[writer.key]
        generate, work = settings.generate, list[StageWork]()
        if experiment.unlabelled and not writer.folder.has(UNLABELLED_FILE):
            work.append(_at("annotate", self._annotation(writer, len(experiment.unlabelled))))
        instead = experiment.unlabelled and settings.unlabelled.mode == "instead"
        if instead or writer.folder.has(GENERATED_FILE):
            return work
        keeps_all = settings.learns_soft or settings.annotate.annotator == "none"
        rate = self._speed.well_formed if keeps_all else self._speed.accepted(counts.num_labels)
        drawn = sum(self._pool_rounds(writer))
        rounds = self._rounds(settings, generate.per_class - drawn * rate, rate)
        part = self._annotation(writer, (drawn + sum(rounds)) * self._speed.well_formed * counts.num_labels)
        if rounds:
            part = counts.draws(sum(rounds), chat=writer.form.chat, batches=len(rounds)) + part
        return [*work, _at("generate", part)]

    def _annotation(self, writer: MethodCell, texts: float, *, averages: bool = True) -> StageWork:
        """Return the work of annotating ``texts`` by the committee, of whose fold adapters one annotates each text.

        Without ``averages``, no averaged adapter stands in for its members.
        """
        annotate, shown = writer.settings.annotate, shots_shown(writer)
        wordings = [wording for wording, seen in zip(cycle(annotate.wordings), shown) if not seen]
        counts, alone = self._counts[writer.key], StageWork(stage="")
        if averages and reads_averages(writer.settings, counts.num_labels):
            for wording in (name for name in wordings if wordings.count(name) > 1):
                form = msgspec.structs.replace(writer.form, wording=wording)
                alone += counts.classification(texts * UNDECIDED_SHARE, form, adapter=True)
            wordings = [*dict.fromkeys(wordings)]
        wordings += ["task"] if annotate.folds else []
        prompts = [(writer.worded[wording], writer.shots[:0]) for wording in wordings]
        prompts += [(writer.worded["task"], tuple(writer.shots[index] for index in seen)) for seen in shown if seen]
        encoded = texts * annotate.num_encoders if annotate.annotator == "adapters" else 0
        tokens = encoded * counts.text_tokens * self._encoder_share if encoded else 0.0  # at the base's speed
        encoder_work = StageWork(stage="", calls=encoded, prompt_tokens=tokens)
        return encoder_work + alone + counts.committee(texts, prompts, writer.shots, writer.form.chat)

    def _classifiers(self) -> list[StageWork]:
        experiment, work = self._experiment, list[StageWork]()
        for cell in experiment.cells:
            if not cell.method.synthetic or experiment.result(cell) is not None:
                continue
            work += self._self_training(cell)
            kept = cell.settings.generate.per_class * len(experiment.task.labels) + len(experiment.unlabelled)
            part = self._counts[cell.key].training(len(cell.shots) + kept, cell.settings.classifier_training, cell.form)
            work.append(_at("train", part))
        return work

    def _self_training(self, cell: MethodCell) -> list[StageWork]:
        """Return the training of a first classifier and its annotation of the texts, as far as they remain."""
        first = self._experiment.first_classifier(cell)
        instead = self._experiment.unlabelled and cell.settings.unlabelled.mode == "instead"
        if not cell.self_trains or instead or (first and first.predictions):
            return []
        counts, per_class = self._counts[cell.key], cell.settings.generate.per_class
        drawn = per_class * counts.num_labels / self._speed.accepted(counts.num_labels)
        texts = len(first.texts) if first else drawn * self._speed.well_formed
        annotation = _at("read the texts again", counts.classification(texts, cell.form, adapter=True))
        if first and first.result:
            return [annotation]
        examples = len(cell.shots) + round(FIRST_SHARE * per_class) * counts.num_labels
        training = counts.training(examples, cell.settings.train, cell.form)
        return [_at("train the first classifier", training), annotation]

    def _measuring(self) -> list[StageWork]:
        experiment, work, answered = self._experiment, list[StageWork](), set[bytes]()
        for cell in experiment.cells:
            evaluation = experiment.evaluation_cell(cell)
            trained = cell.method.trained
            key = evaluation.answers_key + (cell.name.encode() if trained else b"")
            counts, texts = self._counts[cell.key], len(experiment.test)
            has_room = len(counts.fitting(evaluation.shots, cell.form)) >= min(counts.num_labels, len(evaluation.shots))
            is_queried = texts or (
                trained and self._experiment.result(cell) is None
            )  # without a test file: only probes
            if evaluation.is_done or key in answered or not has_room or not is_queried:
                continue
            answered.add(key)
            if cell.method.annotators_of:
                num_annotated = texts + min(WARM_UP_TEXTS, texts) + len(cell.shots)
                work.append(_at("evaluate", self._annotation(cell, num_annotated, averages=False)))
                continue
            work.append(
                _at("evaluate", counts.classification(texts, cell.form, adapter=trained, shots=evaluation.shots))
            )
            more = min(WARM_UP_TEXTS, texts) + (self._probed(cell) if trained else 0)
            work.append(_at("evaluate", counts.classification(more, cell.form, adapter=trained)))
        return work

    def _probed(self, cell: MethodCell) -> int:
        """Return how many texts a classifier scores before its evaluation: for its probe and its calibration."""
        if not cell.settings.calibrate:
            return PROBE_TEXTS
        if not cell.method.synthetic:
            return PROBE_TEXTS + len(cell.shots)
        drawn = (sum(self._pool_rounds(cell)) or first_draws(cell.settings)) * self._speed.well_formed
        unseen = max(0.0, drawn - cell.settings.generate.per_class) * len(self._experiment.task.labels)
        if unseen < FEWEST_UNSEEN:
            return PROBE_TEXTS + len(cell.shots)
        # It scores candidates that it was not trained on, at most as many typical texts, and texts of other subjects.
        return PROBE_TEXTS + len(cell.shots) + 2 * min(MOST_UNSEEN, round(unseen)) + len(other_subjects())

    def _rounds(self, settings: RunSettings, per_class: float, rate: float) -> list[int]:
        equal_rounds = draws_whole_rounds(settings, len(self._experiment.task.labels))
        return rounds_for(
            per_class, rate, first_draws(settings), settings.generate.draws_per_round, equal_rounds=equal_rounds
        )


def _at(stage: str, work: StageWork) -> StageWork:
    return msgspec.structs.replace(work, stage=stage)
