"""The speed of a base model on this machine: measured once, and stored in the home folder.

Forecasts are based on it (`pipeline.forecasts.forecast`). The base is trained for a few steps, if that is needed. Then
it is opened in the engine, where it draws and scores texts of a task that comes with fourshot
(`pipeline.forecasts.probe`). The actual times of commands that were forecast correct the speed.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import EngineSettings
from fourshot.engine.fake_engine import DISAGREES, NUM_WORDS, fake_settings, is_fake
from fourshot.engine.machine.files import read_json, write_json
from fourshot.engine.machine.home import home
from fourshot.engine.machine.processes import ChildProcess
from fourshot.engine.machine.temporary import temporary_folder
from fourshot.engine.machine.threads import ENGINE_SPINS, TRAIN_SPINS, available_cores
from fourshot.engine.opening import imports_of
from fourshot.pipeline.forecasts.probe import EngineProbe, ModelOpened, SpeedMeasured, TrainerProbe
from fourshot.pipeline.provenance import describe_hardware, installed_versions, value_hash
from fourshot.training.jobs.jobs import IMPORTS

LOOK_S = 0.5  # for which other load on the machine is measured
BUSY = 0.5  # cores that other work keeps busy, above which it distorts a measurement
OTHER_WORK = "measured while other work kept"  # how the doubt about such a measurement begins
# Share of the draws that is kept: half with up to four classes, less with more. It was 0.5 to 0.9 with two and four
# classes, 0.3 to 0.4 with five and six, 0.3 with 18, 0.15 with 77 (docs/cli.md).
ACCEPTED, FEW_CLASSES, FALLS = 0.5, 4, 0.4
MOST_COMMANDS = 3  # that count equally in the mean; every further command has a fifth of the weight
MOST_WRONG = 4.0  # bounds actual over forecast time: a command may have been paused, or have shared the machine
WELL_FORMED = 0.8  # of the draws, those that pass the text filter


class Experience(msgspec.Struct, frozen=True, kw_only=True):
    """Correction of a measured speed by the actual times of commands that were forecast."""

    factor: float = 1.0  # actual time over the time by the measured speed
    commands: int = 0  # on which it is based

    def with_command(self, took: float) -> "Experience":
        """Return the correction after one more command. ``took``: its actual time over its forecast with this factor.

        The factor is a geometric mean of the measured speed and of the commands; late ones count more than early ones.
        """
        weight = 1 / (min(self.commands, MOST_COMMANDS) + 2)
        took = min(max(took, 1 / MOST_WRONG), MOST_WRONG)
        return Experience(factor=self.factor * took**weight, commands=self.commands + 1)

    def with_measurement(self, measured_before: float, measured_now: float) -> "Experience":
        """Return the correction after the machine was measured again: the new speed counts as much as one command."""
        if not (self.commands and measured_before and measured_now):
            return Experience()
        commands = min(self.commands, MOST_COMMANDS)
        factor = (self.factor * measured_before / measured_now) ** (commands / (commands + 1))
        return Experience(factor=factor, commands=self.commands)


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Speed and memory of a base model, in seconds and bytes. "Computed" tokens are those that no cache has."""

    open_engine_s: float  # once its process has started
    open_trainer_s: float
    prompt_token_s: float  # of a computed prompt token, base model
    shots_token_s: float  # the same behind shots, which are cached and attended to
    adapter_token_s: float  # the same with an adapter
    output_token_s: float  # of a sampled token, in a full batch
    train_token_s: float  # forward and backward
    training_s: float  # of a training besides its steps: slow start, comparison with the base, saving
    engine_bytes: int  # peak of its process
    trainer_bytes: int  # 0: neither training nor an adapter was measured
    well_formed: float = WELL_FORMED  # share of the draws that pass the text filter
    acceptance: float | None = None  # share of the draws that is kept; None: the usual one for the number of classes
    load: float = 0.0  # cores that were busy before the measurement
    cores: int = 0  # of the machine
    took_s: float = 0.0
    engine: Experience = Experience()
    trainer: Experience = Experience()

    @property
    def doubt(self) -> str:
        return doubt_of(self.load, self.cores)

    def accepted(self, classes: int) -> float:
        """Return the share of the draws that is kept in a task with this number of classes."""
        if self.acceptance is not None:
            return self.acceptance
        return ACCEPTED * min(1.0, FEW_CLASSES / max(1, classes)) ** FALLS


# A machine on which nothing takes time: to find out whether any work is left, and for the fake engine.
ANY_SPEED = msgspec.convert({name: 0 for name in Speed.__struct_fields__ if name.endswith(("_s", "_bytes"))}, Speed)


NO_TRAINER = {"train_token_s": 0.0, "training_s": 0.0, "trainer_bytes": 0}


def known_speed(
    model: ResolvedModel, on_probe: Callable[[], object] = lambda: None, *, anew: bool = False, trains: bool = True
) -> Speed:
    """Return the speed of ``model`` here. Measures it if ``anew``, if none is stored, or if the stored one is doubtful.

    ``on_probe`` is called before a measurement. ``trains``: the speed of trainings and adapters is needed, too. Raises
    FourshotError where it cannot be measured.
    """
    if is_fake(model.path):
        seconds = fake_settings(model.path).delay_s / NUM_WORDS
        acceptance = 1 - 1 / DISAGREES
        return msgspec.structs.replace(ANY_SPEED, output_token_s=seconds, well_formed=1.0, acceptance=acceptance)
    before = _kept(model.revision)
    if before and not anew and (before.trainer_bytes or not trains) and still_holds(before.load):
        return before
    on_probe()
    speed = _measured(model, trains)
    if before:
        if not trains:  # keep what was measured of trainings before
            of_trainer = ("open_trainer_s", "train_token_s", "training_s", "trainer_bytes")
            speed = msgspec.structs.replace(speed, **{name: getattr(before, name) for name in of_trainer})
        engine = before.engine.with_measurement(before.prompt_token_s, speed.prompt_token_s)
        trainer = (
            before.trainer.with_measurement(before.train_token_s, speed.train_token_s) if trains else before.trainer
        )
        speed = msgspec.structs.replace(speed, engine=engine, trainer=trainer)
    _keep(model.revision, speed)
    return speed


def learn_from(revision: str, *, engine: float | None, trainer: float | None) -> None:
    """Correct the stored speed of a base by a command's actual over forecast times; None: nothing to correct."""
    if speed := _kept(revision):
        changes = {
            kind: getattr(speed, kind).with_command(took)
            for kind, took in (("engine", engine), ("trainer", trainer))
            if took is not None
        }
        _keep(revision, msgspec.structs.replace(speed, **changes))


def _kept(revision: str) -> Speed | None:
    """Return the stored speed, or None."""
    file = speed_file(revision)
    if file.exists():
        with contextlib.suppress(msgspec.DecodeError, OSError):  # of another version
            return read_json(file, Speed)
    return None


def _keep(revision: str, speed: Speed) -> None:
    with contextlib.suppress(OSError):  # a read-only home: the speed is measured again next time
        write_json(speed_file(revision), speed)


def _measured(model: ResolvedModel, trains: bool) -> Speed:
    began, load = time.perf_counter(), busy_cores()
    with temporary_folder("fourshot-speed-") as scratch:
        log = scratch / "log.txt"
        trainer, open_trainer_s = SpeedMeasured(fields=NO_TRAINER), 0.0
        if trains:
            trainer, open_trainer_s = _ask(TrainerProbe(model=model.path, folder=str(scratch)), log)
        engine, open_engine_s = _ask(EngineProbe(model=model.path, adapter=trainer.adapter), log)
    fields = {
        **trainer.fields,
        **engine.fields,
        "open_trainer_s": open_trainer_s,
        "open_engine_s": open_engine_s,
        "load": round(load, 2),
        "cores": machine_cores(),
        "took_s": round(time.perf_counter() - began, 1),
    }
    return msgspec.convert(fields, Speed)


def speed_file(revision: str) -> Path:
    """Return the file that stores the speed of a checkpoint on this machine, its cores and these versions."""
    machine = value_hash((describe_hardware(), available_cores(), installed_versions()))
    return home() / "speed" / f"{revision}-{machine}.json"


def still_holds(load: float) -> bool:
    """Whether a speed measured at ``load`` busy cores is still valid: not if that load was high and has dropped."""
    return load <= BUSY or busy_cores() > load - BUSY


def doubt_of(load: float, cores: int) -> str:
    """Return why a speed is doubtful; "" where it is not."""
    return f"{OTHER_WORK} {load:.1f} of {cores} cores busy" if load > BUSY else ""


def busy_cores() -> float:
    import psutil

    return psutil.cpu_percent(LOOK_S) / 100 * machine_cores()


def machine_cores() -> int:
    """Return the number of all cores: other work may run on those that this process may not use, too."""
    return os.cpu_count() or 1


def _ask(probe: TrainerProbe | EngineProbe, log: Path) -> tuple[SpeedMeasured, float]:
    """Return what a child process measured, and the seconds until it had opened the model."""
    trains = isinstance(probe, TrainerProbe)
    spins = TRAIN_SPINS if trains else ENGINE_SPINS
    imports = IMPORTS if trains else imports_of(EngineSettings(model=probe.model))
    with ChildProcess("fourshot.pipeline.forecasts.probe", log, spins=spins, imports=imports, keeps_log=False) as child:
        # Timed from here: imports of a forked process are paid once per run, not at each opening.
        began = time.perf_counter()
        child.send(probe)
        opened_s = 0.0
        for message in child.messages(ModelOpened | SpeedMeasured):
            if isinstance(message, SpeedMeasured):
                return message, opened_s
            opened_s = round(time.perf_counter() - began, 2)
        raise child.error("The process that measures this machine")
