"""Probes: a trained adapter, served, is asked what its trainer asked, and has to answer the same; then calibrated."""

import msgspec

from fourshot.engine.core import Adapter, Engine
from fourshot.engine.probe import Probe, check_probe
from fourshot.pipeline.card import PROBED_FILE
from fourshot.pipeline.cells.calibrating import CalibrationItem
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.stage import EngineStage
from fourshot.pipeline.work_folder import WorkFolder


class ProbeItem(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that is to answer as it did in training."""

    adapter: Adapter
    probe: Probe | None
    calibration: CalibrationItem | None = None  # is done after

    @property
    def key(self) -> str:
        return self.adapter.name

    @property
    def is_finished(self) -> bool:
        return self._is_probed and (self.calibration is None or self.calibration.is_finished)

    @property
    def _is_probed(self) -> bool:
        return self.probe is None or WorkFolder(self.adapter.path).has(PROBED_FILE)

    @property
    def adapters(self) -> set[Adapter]:
        """All that answer."""
        return {self.adapter} | (self.calibration.adapters if self.calibration else set())

    def do(self, engine: Engine) -> None:
        """Ask; `PROBED_FILE` beside the weights says how it went. Raises AdapterError if it answers differently."""
        if self.probe and not self._is_probed:
            WorkFolder(self.adapter.path).write(PROBED_FILE, check_probe(engine, self.adapter, self.probe))
        if self.calibration:
            self.calibration.do(engine)


class ProbeStage(EngineStage, frozen=True, kw_only=True, tag="probe"):
    """Probe adapters where nothing is measured after."""

    items: tuple[ProbeItem, ...]

    def adapters(self) -> set[Adapter]:
        return {adapter for item in self.items for adapter in item.adapters}

    def do(self, item: ProbeItem, engine: Engine, on_event: OnEvent) -> None:
        item.do(engine)


def probe_items(experiment: Experiment) -> tuple[ProbeItem, ...]:
    """The finished classifiers, each with what its trainer answered, and what calibrates it."""
    trained = [
        (result, experiment.calibration_item(cell)) for cell in experiment.cells if (result := experiment.result(cell))
    ]
    return tuple(
        ProbeItem(adapter=result.adapter, probe=result.probe, calibration=calibration)
        for result, calibration in trained
        if result.probe or calibration
    )


def probes(experiment: Experiment) -> ProbeStage:
    return ProbeStage(model_path=experiment.model.path, items=probe_items(experiment))
