"""Probe trained adapters: the engine must reproduce the trainer's predictions. Then calibrate them."""

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
    """An adapter whose predictions in the engine must be those of its trainer."""

    adapter: Adapter
    probe: Probe | None
    calibration: CalibrationItem | None = None  # done after the probe

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
        """All adapters that are queried: this one, and those that calibrate it."""
        return {self.adapter} | (self.calibration.adapters if self.calibration else set())

    def do(self, engine: Engine) -> None:
        """Probe, write the result to `PROBED_FILE` beside the weights, and calibrate, each unless it is done.

        Raises AdapterError if the predictions differ from the trainer's.
        """
        if self.probe and not self._is_probed:
            WorkFolder(self.adapter.path).write(PROBED_FILE, check_probe(engine, self.adapter, self.probe))
        if self.calibration:
            self.calibration.do(engine)


class ProbeStage(EngineStage, frozen=True, kw_only=True, tag="probe"):
    """Probe adapters that are not evaluated afterwards."""

    items: tuple[ProbeItem, ...]

    def adapters(self) -> set[Adapter]:
        return {adapter for item in self.items for adapter in item.adapters}

    def do(self, item: ProbeItem, engine: Engine, on_event: OnEvent) -> None:
        item.do(engine)


def probe_items(experiment: Experiment) -> tuple[ProbeItem, ...]:
    """Return the finished classifiers, each with its trainer's predictions and its calibration."""
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
