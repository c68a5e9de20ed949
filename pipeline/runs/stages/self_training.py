"""Self-training: a first classifier annotates the run's texts again; its most confident labels are trained on.

Source: Scudder 1965, "Probability of error of some adaptive pattern-recognition machines"; Yarowsky 1995,
"Unsupervised Word Sense Disambiguation Rivaling Supervised Methods".
"""

import msgspec
import numpy as np

from fourshot.engine.calibration import normalise
from fourshot.engine.core import Adapter, Engine
from fourshot.engine.machine.threads import TRAIN_SPINS
from fourshot.pipeline.cells.self_training import SelfTrainingLabels
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.stage import EngineStage
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.synthesis.windows import label_scores
from fourshot.pipeline.task import Task
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.jobs.jobs import IMPORTS


class SelfTrainingItem(msgspec.Struct, frozen=True, kw_only=True):
    """A first classifier, and the texts that it annotates again."""

    folder: str
    file: str  # in the folder
    task: Task
    form: PromptFormat
    adapter: Adapter
    texts: tuple[Candidate, ...]

    @property
    def key(self) -> str:
        return f"{self.folder}/{self.file}"

    @property
    def is_finished(self) -> bool:
        return WorkFolder(self.folder).has(self.file)


class SelfTrainingStage(EngineStage, frozen=True, kw_only=True, tag="second_reading"):
    """Annotate the texts of each item, and write each text's label and its probability."""

    items: tuple[SelfTrainingItem, ...]

    @property
    def next_imports(self) -> tuple[str, str]:
        return (IMPORTS, TRAIN_SPINS) if self.imports else ("", "")

    def adapters(self) -> set[Adapter]:
        return {item.adapter for item in self.items}

    def do(self, item: SelfTrainingItem, engine: Engine, on_event: OnEvent) -> None:
        if not item.is_finished:
            engine.reset_prefix_cache()  # results must not depend on earlier requests
            labels = _labels(item, engine) if item.texts else {}
            WorkFolder(item.folder).write(item.file, SelfTrainingLabels(labels=labels))
            on_event(Event(stage=self.name, message=f"{item.task.name}: {len(labels)} texts were annotated again"))


def _labels(item: SelfTrainingItem, engine: Engine) -> dict[str, tuple[str, float]]:
    """Return the predicted label of each text and its probability, by the candidate's id."""
    texts, names = [candidate.text for candidate in item.texts], item.task.label_names
    scores = label_scores(engine, item.task, texts, item.form, adapter=item.adapter)
    return {
        candidate.id: (names[int(np.argmax(row))], round(float(row.max()), 6))
        for candidate, row in zip(item.texts, normalise(scores), strict=True)
    }


def predictions(experiment: Experiment) -> SelfTrainingStage:
    """Return the texts to annotate again, for each first classifier that is trained."""
    items = [
        SelfTrainingItem(
            folder=str(cell.folder.path),
            file=first.file,
            task=experiment.task,
            form=cell.form,
            adapter=first.result.adapter,
            texts=first.texts,
        )
        for cell in experiment.cells
        if (first := experiment.first_classifier(cell)) and first.result
    ]
    return SelfTrainingStage(model_path=experiment.model.path, items=tuple(items))
