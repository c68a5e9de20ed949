"""The first classifier of a method: its training texts, its training, and its predictions for the run's texts."""

from functools import cached_property
from pathlib import Path

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.pipeline.cells.cell import MethodCell
from fourshot.pipeline.cells.self_training import SelfTrainingLabels, surest
from fourshot.pipeline.cells.training_texts import TrainingTexts, training_texts_of
from fourshot.pipeline.cells.trainings import classifier_job
from fourshot.pipeline.loop.rounds import REASONS_AFTER_ANNOTATION, finished_pairs
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.task import Task
from fourshot.training.jobs.jobs import TrainingJob, finished
from fourshot.training.lora.examples import TrainingResult


class FirstClassifier:
    """The first classifier of a cell whose texts are annotated; see `pipeline.cells.self_training`."""

    def __init__(self, task: Task, model: ResolvedModel, cell: MethodCell, store: Path) -> None:
        self._task, self._model, self._cell, self._store = task, model, cell, store

    @cached_property
    def training_texts(self) -> TrainingTexts:
        """Training texts: of the generated ones, only those of which the annotators are most confident."""
        learnt = training_texts_of(self._cell, self._task)
        synthetic = surest(learnt.synthetic, self._cell.settings.generate.per_class)
        return msgspec.structs.replace(learnt, synthetic=synthetic)

    @cached_property
    def job(self) -> TrainingJob:
        return classifier_job(self._task, self._model.revision, self._cell, self.training_texts)

    @property
    def result(self) -> TrainingResult | None:
        """Result of the training; None if it is not finished."""
        return finished(self._store, self.job)

    @cached_property
    def texts(self) -> tuple[Candidate, ...]:
        """Texts to annotate: all that reached the annotators, whatever they predicted."""
        return tuple(c for c, v in finished_pairs(self._cell.folder) if v.reason in REASONS_AFTER_ANNOTATION)

    @property
    def file(self) -> str:
        """Name of the file with its predictions, in the folder of the texts."""
        return f"second_reading-{self.job.key}.json"

    @property
    def predictions(self) -> SelfTrainingLabels | None:
        """Its predictions; None before they have been made."""
        return self._cell.folder.find(self.file, SelfTrainingLabels)
