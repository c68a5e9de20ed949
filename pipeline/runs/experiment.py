"""An experiment: methods on one task, over one or more seeds. `run` and `compare` are both experiments.

What stages need from it, such as training jobs, is computed once, when its inputs are finished.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.machine.links import check_link
from fourshot.pipeline.cells import trainings
from fourshot.pipeline.cells.calibrating import CalibrationItem, calibration_of
from fourshot.pipeline.cells.calibrators import annotators_calibrate, calibration_cell, committee_for
from fourshot.pipeline.cells.cell import Cells, MethodCell, SeedExamples, writer_names
from fourshot.pipeline.cells.first_classifier import FirstClassifier
from fourshot.pipeline.cells.measuring import Annotators, Evaluation, EvaluationCell, LeftOutCell
from fourshot.pipeline.cells.run_folder import GENERATED_FILE, POOL_FILE, SHOTS_FILE, RunManifest, with_layout
from fourshot.pipeline.cells.training_texts import TrainingTexts, training_texts_of
from fourshot.pipeline.provenance import made_by, value_hash
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.prompt_style import untried_style
from fourshot.pipeline.synthesis.prompts import version_of
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.jobs.jobs import TrainingJob, finished
from fourshot.training.lora.examples import TrainingResult
from fourshot.training.lora.targets import check_trainable
from fourshot.training.students.examples import StudentJob

T = TypeVar("T")


class MethodOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What exists so far of one method on one seed."""

    method: str
    seed: int
    evaluation: Evaluation | None = None
    left_out: str = ""  # why it was not evaluated
    training: TrainingResult | None = None
    real_examples: int = 0
    synthetic_examples: int = 0
    unlabelled_examples: int = 0  # of the user's own


class Experiment:
    """Methods x seeds in one folder. ``writers`` are the cells whose texts or annotators the ``cells`` need."""

    def __init__(
        self,
        data: TaskData,
        model: ResolvedModel,
        settings: RunSettings,
        methods: Sequence[str],
        seeds: Sequence[SeedExamples],
        root: Path,
        *,
        flat: bool = False,
        store: Path | None = None,
        unlabelled: Sequence[Candidate] = (),
    ) -> None:
        """``flat``: for a single seed, store the texts of the method fourshot in ``root`` itself. ``store``: folder of
        finished trainings, by default ``root``/adapters. ``unlabelled``: the user's own texts to train on. Raises
        InputError where the test split cannot be read, RunFolderError where ``root`` has another prompt layout, or its
        adapters are a link that leads nowhere.
        """
        self.data, self.task, self.model = data, data.task, model
        self.root, self.flat = root, flat
        self._layout, self.settings, self.layout_notes = with_layout(settings, root)
        self.store = store or root / "adapters"
        check_link(self.store)
        self.encoder_store = self.store.with_name("encoders")
        self.average_store = self.store.with_name("averages")
        self.unlabelled = tuple(unlabelled)
        self.seeds = sorted(seeds, key=lambda examples: examples.seed)
        self.test = data.measured(settings.test_limit)
        self._cells = Cells(self.task, model, self.settings, self.seeds, root, flat=flat)
        self._methods = tuple(dict.fromkeys(methods))
        self._writer_names = tuple(writer_names(self._methods))
        self._computed: dict[object, Any] = {}

    @property
    def cells(self) -> list[MethodCell]:
        return self._cells.of(self._methods)

    @property
    def writers(self) -> list[MethodCell]:
        return self._cells.of(self._writer_names)

    def style_file(self, examples: SeedExamples) -> Path:
        """Return the file that stores the prompt style chosen for a seed's shots."""
        return self._cells.style_file(examples)

    def check_trainable(self) -> None:
        """Raise InputError, before any work, where the base model cannot be trained or served with these settings."""
        trained = [cell for cell in self.cells if cell.method.trained]
        trained += [writer for writer in self.writers if writer.settings.annotate.trains_adapters]
        for modules in {cell.settings.train.target_modules for cell in trained}:
            check_trainable(self.model.path, modules)
        for writer in self.writers:
            self.encoder_jobs(writer)

    def claim(self) -> None:
        """Claim the folders. Raises RunFolderError for those of other work, InputError for a missing chat template."""
        self.check_claim()
        WorkFolder(self.root).keep_layout(self._layout)
        for writer, manifest in self._manifests():
            writer.folder.claim(manifest)
            if not writer.folder.has(SHOTS_FILE):
                writer.folder.write(SHOTS_FILE, writer.shots)

    def check_claim(self) -> None:
        """Raise the errors that `claim` would raise; write nothing."""
        if not all(self.style_file(examples).exists() for examples in self.seeds):
            untried_style(self.settings.prompt_style, self.model.path, self.model.name)
        for writer, manifest in self._manifests():
            writer.folder.check_claim(manifest)
            writer.folder.check_shots(writer.shots)

    def _manifests(self) -> Iterator[tuple[MethodCell, RunManifest]]:
        """Yield each writer with the manifest of its folder."""
        for writer in self._cells.of(self._writer_names):
            yield (
                writer,
                RunManifest(
                    task=self.task,
                    prompt_version=version_of(writer.settings.prompt_style),
                    settings=writer.settings,
                    model_name=self.model.name,
                    model_revision=self.model.revision,
                    model_path=self.model.path,
                    versions=made_by(),
                    unlabelled=value_hash(self.unlabelled) if self.unlabelled else "",
                ),
            )

    @property
    def first_cells(self) -> list[MethodCell]:
        """The cells of the first seed."""
        return [cell for cell in self.cells if cell.seed == self.seeds[0].seed]

    def cell(self, method: str) -> MethodCell:
        """Return the cell of ``method`` on the first seed."""
        return next(cell for cell in self.first_cells if cell.name == method)

    def training_texts(self, cell: MethodCell) -> TrainingTexts:
        """Return the training texts of a method's classifier that exist so far, with a person's corrections."""
        if not self._has_texts(cell):
            return training_texts_of(cell, self.task)
        predictions = first.predictions if (first := self.first_classifier(cell)) else None
        return self._once("training texts", cell, lambda: training_texts_of(cell, self.task, predictions))

    def first_classifier(self, cell: MethodCell) -> FirstClassifier | None:
        """Return the first classifier; None without self-training or generated texts, and until all are annotated."""
        if not (cell.self_trains and self._are_annotated(cell) and cell.folder.has(GENERATED_FILE)):
            return None
        return self._once("first", cell, lambda: FirstClassifier(self.task, self.model, cell, self.store))

    def annotator_jobs(self, writer: MethodCell) -> list[TrainingJob]:
        """Return the trainings of the committee, those on shots first; none until the pool, if any, is drawn."""
        if writer.settings.annotate.has_pool and not writer.folder.has(POOL_FILE):
            return []
        return self._once("annotators", writer, lambda: trainings.annotator_jobs(self.task, self.model, writer))

    def annotator_results(self, writer: MethodCell) -> list[TrainingResult]:
        """Return the finished trainings of the adapters that annotate for this method."""
        return [result for job in self.annotator_jobs(writer) if (result := finished(self.store, job))]

    def annotators(self, writer: MethodCell) -> tuple[Annotator, ...]:
        """Return the finished annotators of the committee, each with its prompt format and its fold, if it has one."""
        adapters = [result.adapter for result in self.annotator_results(writer)]
        encoders = trainings.finished_encoders(self.encoder_store, self.encoder_jobs(writer))
        return trainings.committee(writer, adapters, encoders)

    def text_annotators(self, writer: MethodCell) -> tuple[Annotator, ...]:
        """Return `annotators` for texts: with ``annotate.average``, one averaged adapter for all with equal prompts."""
        annotators, averages = self.annotators(writer), trainings.reads_averages(writer.settings, len(self.task.labels))
        return trainings.averaged(annotators, self.average_store) if averages else annotators

    def encoder_jobs(self, writer: MethodCell) -> list[StudentJob]:
        """Return the trainings of the committee's encoders. Raises ModelNotFoundError where no encoder is installed."""
        return self._once("encoders", writer, lambda: trainings.encoder_jobs(self.task, writer))

    def calibrator_jobs(self, cell: MethodCell) -> list[TrainingJob]:
        """Return the trainings of the adapters that calibrate a method's classifier, each without part of the shots."""
        _, calibrators = self._calibrated_by(cell)
        return self.annotator_jobs(calibrators) if calibrators else []

    def _calibrated_by(self, cell: MethodCell) -> tuple[MethodCell | None, MethodCell | None]:
        """Return the cell whose annotators estimate a method's accuracy, and that of adapters that calibrate it."""
        writer = committee_for(cell, self.writers, self.cells)
        return writer, None if writer else calibration_cell(cell, self.training_texts(cell).shots)

    def calibration_item(self, cell: MethodCell) -> CalibrationItem | None:
        """Return how to calibrate a method's finished classifier; None if not at all, or a training is unfinished."""
        trained, (writer, calibrators) = self.result(cell), self._calibrated_by(cell)
        if not trained or not cell.settings.calibrate or (writer and not self._has_texts(writer)):
            return None
        if calibrators and len(self.annotator_results(calibrators)) < len(self.annotator_jobs(calibrators)):
            return None
        return self._once("calibration", cell, lambda: self._calibration(cell, trained, calibrators, writer))

    def _calibration(
        self, cell: MethodCell, trained: TrainingResult, calibrators: MethodCell | None, writer: MethodCell | None
    ) -> CalibrationItem | None:
        texts, is_compared = self.training_texts(writer or cell), annotators_calibrate(cell)
        pairs = texts.annotated if writer else texts.unseen if calibrators or is_compared else []
        shots, members = (calibrators.shots, self.annotators(calibrators)) if calibrators else ((), ())
        uses = {"compared": is_compared or cell.settings.annotate.annotator == "adapters", "estimated": bool(writer)}
        return calibration_of(trained.adapter, self.task, cell.form, shots, members, pairs, **uses)

    def job(self, cell: MethodCell) -> TrainingJob:
        """Return the training of a method's classifier. Synthetic texts that it is trained on must be complete."""
        assert cell.method.trained and self._has_texts(cell), cell.key
        job = trainings.classifier_job
        return self._once("job", cell, lambda: job(self.task, self.model.revision, cell, self.training_texts(cell)))

    def result(self, cell: MethodCell) -> TrainingResult | None:
        """Return the finished training of a method's classifier, or None."""
        if not cell.method.trained or not self._has_texts(cell):
            return None
        return finished(self.store, self.job(cell))

    def evaluation_cell(self, cell: MethodCell) -> EvaluationCell:
        """Return what to evaluate, into a file named after all that determines the predictions: no score is stale."""
        method, trained = cell.method, self.result(cell)
        shots, calibrated = cell.shots if method.shots_in_prompt else (), self.calibration_item(cell)
        annotators = None
        if method.annotators_of:
            annotators = Annotators(members=self.annotators(cell), shots=cell.shots, settings=cell.settings)
        decides = (
            cell.name,
            self.model.revision,
            self.task.instruction,
            self.task.labels,
            shots,
            trained.name if trained else "",
            cell.form,
            cell.form.version,
            cell.settings.aligns,
            method.calibration,
            self.test_hash,
            *(("calibrated", calibrated.basis) if calibrated else ()),
            *(("annotators", annotators.basis) if annotators else ()),
        )
        return EvaluationCell(
            out=str((self.root / "scores" / f"{cell.name}-{value_hash(decides)}.json").resolve()),
            title=f"{method.display_name}, seed {cell.seed}",
            shots=shots,
            adapter=trained.adapter if trained else None,
            form=cell.form,
            align=cell.settings.aligns,
            calibration=method.calibration,
            has_temperature=calibrated is not None,
            annotators=annotators,
        )

    def outcomes(self) -> list[MethodOutcome]:
        """Return the outcome of every cell, by method, then seed, in the methods' order."""
        return [self.outcome(cell) for cell in self.cells]

    def outcome(self, cell: MethodCell) -> MethodOutcome:
        measured = self.evaluation_cell(cell)
        file, left_out, evaluation = Path(measured.out), Path(measured.left_out), None
        if file.exists():
            evaluation = self._once(measured.out, cell, lambda: WorkFolder(file.parent).read(file.name, Evaluation))
        learnt = self.training_texts(cell)
        return MethodOutcome(
            method=cell.name,
            seed=cell.seed,
            evaluation=evaluation,
            left_out=WorkFolder(file.parent).read(left_out.name, LeftOutCell).why if left_out.exists() else "",
            training=self.result(cell),
            real_examples=evaluation.shown if evaluation and evaluation.shown is not None else len(learnt.real),
            synthetic_examples=len(learnt.trained_on(learnt.synthetic)),
            unlabelled_examples=len(learnt.trained_on(learnt.unlabelled)),
        )

    @cached_property
    def test_hash(self) -> str:
        return value_hash(self.test)

    def _are_annotated(self, cell: MethodCell) -> bool:
        return not cell.method.synthetic or cell.folder.has_texts(cell.settings, unlabelled=bool(self.unlabelled))

    def _has_texts(self, cell: MethodCell) -> bool:
        return self._are_annotated(cell) and not ((first := self.first_classifier(cell)) and first.predictions is None)

    def _once(self, what: str, cell: MethodCell, compute: Callable[[], T]) -> T:
        """Return the cached value, or compute it. It must not change later, unless another prompt style is chosen."""
        key = what, *cell.key, cell.form.chat
        if key not in self._computed:
            self._computed[key] = compute()
        return self._computed[key]
