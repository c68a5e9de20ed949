"""A first classifier of a method: what it learns, its training, and what it says of the run's texts."""

from functools import cached_property
from pathlib import Path

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.pipeline.cells.cell import MethodCell
from fourshot.pipeline.cells.learnt import LearntTexts, learnt_texts
from fourshot.pipeline.cells.second_reading import SecondReading, surest
from fourshot.pipeline.cells.trainings import classifier_job
from fourshot.pipeline.loop.rounds import READ_BY_ANNOTATOR, finished_pairs
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.task import Task
from fourshot.training.jobs.jobs import TrainingJob, finished
from fourshot.training.lora.examples import TrainingResult


class FirstClassifier:
    """Of a cell whose texts are there; see `pipeline.cells.second_reading`."""

    def __init__(self, task: Task, model: ResolvedModel, cell: MethodCell, store: Path) -> None:
        self._task, self._model, self._cell, self._store = task, model, cell, store

    @cached_property
    def learnt(self) -> LearntTexts:
        """Of the texts that the model wrote those of which the annotators are surest."""
        learnt = learnt_texts(self._cell, self._task)
        synthetic = surest(learnt.synthetic, self._cell.settings.generate.per_class)
        return msgspec.structs.replace(learnt, synthetic=synthetic)

    @cached_property
    def job(self) -> TrainingJob:
        return classifier_job(self._task, self._model.revision, self._cell, self.learnt)

    @property
    def result(self) -> TrainingResult | None:
        """The finished training."""
        return finished(self._store, self.job)

    @cached_property
    def texts(self) -> tuple[Candidate, ...]:
        """What it reads: what the annotators read, whatever they said."""
        return tuple(c for c, v in finished_pairs(self._cell.folder) if v.reason in READ_BY_ANNOTATOR)

    @property
    def file(self) -> str:
        """In the folder of the texts: what it says of them."""
        return f"second_reading-{self.job.key}.json"

    @property
    def reading(self) -> SecondReading | None:
        """What it said, once it did."""
        return self._cell.folder.find(self.file, SecondReading)
