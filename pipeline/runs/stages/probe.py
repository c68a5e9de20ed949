"""Probes: a trained adapter, served, is asked what its trainer asked, and has to answer the same."""

import msgspec

from fourshot.engine.core import Adapter, Engine
from fourshot.engine.probe import Probe, check_probe
from fourshot.pipeline.card import PROBED_FILE
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.stage import EngineStage
from fourshot.pipeline.work_folder import WorkFolder


class ProbeItem(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that is to answer as it did in training."""

    adapter: Adapter
    probe: Probe

    @property
    def key(self) -> str:
        return self.adapter.name

    @property
    def is_finished(self) -> bool:
        return WorkFolder(self.adapter.path).has(PROBED_FILE)

    def do(self, engine: Engine) -> None:
        """Ask; `PROBED_FILE` beside the weights says how it went. Raises AdapterError if it answers differently."""
        if not self.is_finished:
            WorkFolder(self.adapter.path).write(PROBED_FILE, check_probe(engine, self.adapter, self.probe))


class ProbeStage(EngineStage, frozen=True, kw_only=True, tag="probe"):
    """Probe adapters where nothing is measured after."""

    items: tuple[ProbeItem, ...]

    def is_finished(self, item: ProbeItem) -> bool:
        return item.is_finished

    def adapters(self) -> set[Adapter]:
        return {item.adapter for item in self.items}

    def do(self, item: ProbeItem, engine: Engine, on_event: OnEvent) -> None:
        item.do(engine)


def probe_items(experiment: Experiment) -> tuple[ProbeItem, ...]:
    """The finished classifiers, each with what its trainer answered."""
    trained = [experiment.result(cell) for cell in experiment.cells]
    return tuple(
        ProbeItem(adapter=Adapter(name=result.name, path=result.path), probe=result.probe)
        for result in trained
        if result and result.probe
    )


def probes(experiment: Experiment) -> ProbeStage:
    return ProbeStage(model_path=experiment.model.path, items=probe_items(experiment))
