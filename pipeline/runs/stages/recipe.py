"""What is learnt of a text: found once for each folder of texts, from what readers say of shots they have not seen."""

import msgspec

from fourshot.engine.core import Adapter, Engine
from fourshot.engine.machine.threads import TRAIN_SPINS
from fourshot.pipeline.cells.run_folder import RECIPE_FILE, RunFolder
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.stage import EngineStage
from fourshot.pipeline.synthesis.committee import Committee, Reader
from fourshot.pipeline.synthesis.recipe import Recipe, chosen_recipe
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task
from fourshot.training.jobs.jobs import IMPORTS


class RecipeItem(msgspec.Struct, frozen=True, kw_only=True):
    """Readers, the shots that they are asked about, and the folder whose texts they may have to read."""

    folder: str
    task: Task
    shots: tuple[Example, ...]
    settings: RunSettings
    readers: tuple[Reader, ...]

    @property
    def key(self) -> str:
        return self.folder


class RecipeStage(EngineStage, frozen=True, kw_only=True, tag="recipe"):
    """Find what is learnt and write it down."""

    items: tuple[RecipeItem, ...]

    @property
    def next_imports(self) -> tuple[str, str]:
        return (IMPORTS, TRAIN_SPINS) if self.imports else ("", "")

    def is_finished(self, item: RecipeItem) -> bool:
        return RunFolder(item.folder).has(RECIPE_FILE)

    def adapters(self) -> set[Adapter]:
        return {reader.adapter for item in self.items for reader in item.readers if reader.adapter}

    def do(self, item: RecipeItem, engine: Engine, on_event: OnEvent) -> None:
        if not self.is_finished(item):
            engine.reset_prefix_cache()  # what is found must not depend on what was asked before
            recipe = _find_recipe(item, engine)
            RunFolder(item.folder).write(RECIPE_FILE, recipe)
            on_event(Event(stage=self.name, message=f"{item.task.name} {recipe}"))


def _find_recipe(item: RecipeItem, engine: Engine) -> Recipe:
    committee = Committee(engine, item.task, item.readers, item.settings, item.shots)
    if not committee.shows_all_shots:
        return Recipe(targets="agreement", reason="not all shots fit into one prompt of the base")
    committee.ask_about_shots()
    return chosen_recipe(committee.evidence, len(item.task.labels))


def recipes(experiment: Experiment) -> RecipeStage:
    """What has to be found; it stands on the adapters of `train.trials`."""
    items = [
        RecipeItem(
            folder=str(trial.folder.path),
            task=experiment.task,
            shots=trial.shots,
            settings=trial.settings,
            readers=experiment.readers(trial),
        )
        for trial in experiment.trials
    ]
    return RecipeStage(model_path=experiment.model.path, items=tuple(items))
