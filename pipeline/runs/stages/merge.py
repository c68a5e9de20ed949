"""Merge an adapter and its base into one checkpoint, which must reproduce the trainer's predictions."""

from pathlib import Path

import msgspec

from fourshot.engine.checkpoints.models import broken_shards
from fourshot.engine.core import Adapter, EngineSettings
from fourshot.engine.opening import open_engine
from fourshot.engine.probe import Probe, check_probe
from fourshot.pipeline.card import PROBED_FILE
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.lora.merging import merge

CONFIG_FILE = "config.json"  # of the checkpoint


class MergeItem(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter, and the folder of the checkpoint to write."""

    adapter: Adapter
    out: str
    probe: Probe | None = None

    @property
    def key(self) -> str:
        return self.adapter.name


class MergeStage(Stage, frozen=True, kw_only=True, tag="merge"):
    """Write checkpoints and probe them."""

    items: tuple[MergeItem, ...]

    def is_finished(self, item: MergeItem) -> bool:
        out = Path(item.out)
        has_weights = any(out.glob("*.safetensors")) and not broken_shards(out)  # a copy may lack large files
        return has_weights and WorkFolder(out).has(PROBED_FILE if item.probe else CONFIG_FILE)

    def _do(self, item: MergeItem, on_event: OnEvent) -> None:
        on_event(Event(stage=self.name, message=f"writing {item.out}"))
        out = merge(self.model_path, item.adapter.path, item.out)
        if item.probe:
            engine = open_engine(EngineSettings(model=str(out), kind="transformers"))
            try:
                WorkFolder(out).write(PROBED_FILE, check_probe(engine, None, item.probe))
            finally:
                engine.close()


def synthetic_classifiers(experiment: Experiment) -> MergeStage:
    """Return the merging of all finished classifiers that were trained on synthetic texts."""
    trained = [experiment.result(cell) for cell in experiment.cells if cell.method.synthetic]
    items = [
        MergeItem(
            adapter=result.adapter,
            out=str(merged_folder(experiment.root, result.name)),
            probe=result.probe,
        )
        for result in trained
        if result
    ]
    return MergeStage(model_path=experiment.model.path, items=tuple(items))


def merged_folder(root: Path, adapter_name: str) -> Path:
    return root / "merged" / adapter_name
