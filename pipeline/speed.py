"""How fast a base model is on this machine: measured once, in seconds, and kept in the home folder.

Forecasts stand on it (`pipeline.forecast`). The base is trained for a few steps, where that is asked for, and then
opened in the engine, each in a process of its own as in a run; there it draws texts of the task that comes with
fourshot, and reads some.
"""

import contextlib
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import Adapter, EngineSettings
from fourshot.engine.errors import FourshotError
from fourshot.engine.fake_engine import DISAGREES, NUM_WORDS, fake_settings, is_fake
from fourshot.engine.machine.files import read_json, write_json
from fourshot.engine.machine.home import home
from fourshot.engine.machine.processes import ChildProcess, ParentLink, end_process, run_child
from fourshot.engine.machine.temporary import lent_folder
from fourshot.engine.machine.threads import ENGINE_SPINS, TRAIN_SPINS, available_cores
from fourshot.engine.opening import imports_of
from fourshot.pipeline.provenance import describe_hardware, installed_versions, value_hash
from fourshot.training.jobs.jobs import IMPORTS

TASK = "support_tickets"
STEPS = 3  # of training; the time between the first and the last one counts
READ_S = 1.0  # that reading is to take, within bounds: a large base is slow
READ_TEXTS = (8, 48)  # least and most
DRAWS_PER_CLASS = 26  # 130 at once: the engine's batches have to be as large as in a run, where a token costs least
WARM_UP_TEXTS, WARM_UP_DRAWS = 4, 2  # the latter per class
LOOK_S = 0.5  # at what else the machine does
BUSY = 0.5  # cores that other work has, from which on it makes a difference
# Of all draws, those that are kept: half of them with up to four classes, fewer with more. It was 0.5 to 0.9 with two
# and four classes, 0.3 to 0.4 with five and six, 0.3 with 18, 0.15 with 77 (docs/cli.md).
ACCEPTED, FEW_CLASSES, FALLS = 0.5, 4, 0.4
WELL_FORMED = 0.8  # of the draws, those that pass the text filter


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds and bytes. "Computed" tokens are those that no cache has."""

    open_engine_s: float  # from the start of its process
    open_trainer_s: float
    prompt_token_s: float  # of a computed prompt token, base model
    shots_token_s: float  # the same behind shots, which are cached and attended to
    adapter_token_s: float  # the same with an adapter
    output_token_s: float  # of a sampled token, in a full batch
    train_token_s: float  # forward and backward
    training_s: float  # of a training beside its steps: it begins slowly, is compared with the base, and saved
    engine_bytes: int  # the most that its process had
    trainer_bytes: int  # 0: neither training nor an adapter was measured
    well_formed: float = WELL_FORMED  # share of the draws
    acceptance: float | None = None  # share of the draws that is kept; None: as usual with so many classes
    load: float = 0.0  # cores that were busy when nothing was measured yet
    cores: int = 0
    took_s: float = 0.0

    @property
    def doubt(self) -> str:
        return doubt_of(self.load, self.cores)

    def accepted(self, classes: int) -> float:
        """Share of the draws that is kept, of a task with so many classes."""
        if self.acceptance is not None:
            return self.acceptance
        return ACCEPTED * min(1.0, FEW_CLASSES / max(1, classes)) ** FALLS


# A machine on which nothing takes time: to see whether there is any work, and for the engine without a model.
ANY_SPEED = msgspec.convert({name: 0 for name in Speed.__struct_fields__ if name.endswith(("_s", "_bytes"))}, Speed)


class TrainerProbe(msgspec.Struct, frozen=True, kw_only=True, tag="trainer"):
    """Train for some steps, into ``folder``."""

    model: str
    folder: str


class EngineProbe(msgspec.Struct, frozen=True, kw_only=True, tag="engine"):
    """Draw and read, also with the adapter where there is one."""

    model: str
    adapter: Adapter | None


class ModelOpened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """The model is open."""


class SpeedMeasured(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    """Fields of `Speed`; of the trainer also its adapter."""

    fields: dict[str, int | float]
    adapter: Adapter | None = None


NO_TRAINER = {"train_token_s": 0.0, "training_s": 0.0, "trainer_bytes": 0}


def known_speed(
    model: ResolvedModel, on_probe: Callable[[], object] = lambda: None, *, anew: bool = False, trains: bool = True
) -> Speed:
    """The speed of ``model`` here, measured now where it is not known yet, or ``anew``; ``on_probe`` is called before.

    ``trains``: of trainings and adapters, too. Raises FourshotError where it cannot be measured.
    """
    if is_fake(model.path):
        seconds = fake_settings(model.path).delay_s / NUM_WORDS
        acceptance = 1 - 1 / DISAGREES
        return msgspec.structs.replace(ANY_SPEED, output_token_s=seconds, well_formed=1.0, acceptance=acceptance)
    file = speed_file(model.revision)
    if file.exists() and not anew:
        with contextlib.suppress(msgspec.DecodeError):  # of another version
            speed = read_json(file, Speed)
            if (speed.trainer_bytes or not trains) and still_holds(speed.load):
                return speed
    on_probe()
    speed = _measured(model, trains)
    with contextlib.suppress(OSError):  # a home that only its owner may change: it is measured again next time
        write_json(file, speed)
    return speed


def _measured(model: ResolvedModel, trains: bool) -> Speed:
    began, load = time.perf_counter(), busy_cores()
    with lent_folder("fourshot-speed-") as scratch:
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
        "cores": available_cores(),
        "took_s": round(time.perf_counter() - began, 1),
    }
    return msgspec.convert(fields, Speed)


def speed_file(revision: str) -> Path:
    """Where the speed of a checkpoint on this machine is kept."""
    machine = value_hash((describe_hardware(), available_cores(), installed_versions()))
    return home() / "speed" / f"{revision}-{machine}.json"


def still_holds(load: float) -> bool:
    """Whether a speed needs no other: what was measured beside other work is measured again, once that is over."""
    return load <= BUSY or busy_cores() > load - BUSY


def doubt_of(load: float, cores: int) -> str:
    """Why not to believe a speed, "" where there is no reason."""
    return f"measured while other work kept {load:.1f} of {cores} cores busy" if load > BUSY else ""


def busy_cores() -> float:
    import psutil

    return psutil.cpu_percent(LOOK_S) / 100 * (os.cpu_count() or 1)


def _ask(probe: TrainerProbe | EngineProbe, log: Path) -> tuple[SpeedMeasured, float]:
    """What a child measured, and the seconds until it had the model open."""
    trains = isinstance(probe, TrainerProbe)
    spins = TRAIN_SPINS if trains else ENGINE_SPINS
    imports = IMPORTS if trains else imports_of(EngineSettings(model=probe.model))
    with ChildProcess("fourshot.pipeline.speed", log, spins=spins, imports=imports, keeps_log=False) as child:
        # From here on: what a copied process has imported is paid once a run, not at each opening.
        began = time.perf_counter()
        child.send(probe)
        opened_s = 0.0
        for message in child.messages(ModelOpened | SpeedMeasured):
            if isinstance(message, SpeedMeasured):
                return message, opened_s
            opened_s = round(time.perf_counter() - began, 2)
        raise child.error("The process that measures this machine")


def _work(parent: ParentLink) -> None:
    either: Any = TrainerProbe | EngineProbe
    probe = parent.receive(either)
    trains = isinstance(probe, TrainerProbe)
    measured = (_trainer if trains else _engine)(probe, lambda: parent.send(ModelOpened()))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    fields = {**measured.fields, "trainer_bytes" if trains else "engine_bytes": most}
    parent.send(msgspec.structs.replace(measured, fields=fields))


def _trainer(probe: TrainerProbe, opened: Callable[[], object]) -> SpeedMeasured:
    from fourshot.pipeline.synthesis.prompts import PromptFormat, reading_prompt
    from fourshot.pipeline.tasks.shots import take_shots
    from fourshot.pipeline.tasks.task_file import load_task, shipped_tasks
    from fourshot.training.lora.examples import TrainingExample, TrainingResult
    from fourshot.training.lora.settings import LoraSettings
    from fourshot.training.lora.train import LoraTrainer

    trainer, task, times = LoraTrainer(probe.model), load_task(shipped_tasks()[TASK]), list[float]()
    examples = [
        TrainingExample(
            prompt=reading_prompt(task, shot.text, PromptFormat()), target=task.label_names.index(shot.label)
        )
        for shot in take_shots(task, 4, 0)
    ]

    def train(steps: int) -> TrainingResult:
        times.append(time.perf_counter())
        return trainer.train(
            examples,
            task.label_words,
            LoraSettings(min_steps=steps, max_steps=steps),
            probe.folder,
            on_step=lambda *_: times.append(time.perf_counter()),
            verbalizer="token",
        )

    train(1)  # the first training of a process loads more, and builds kernels
    opened()
    times.clear()
    result = train(STEPS)
    began, first, *_, last = times
    steps_s = (last - first) / (STEPS - 1) * result.steps
    beside_s = max(0.0, time.perf_counter() - began - steps_s)
    return SpeedMeasured(
        fields={"train_token_s": steps_s / result.tokens, "training_s": beside_s},
        adapter=result.adapter,
    )


def _engine(probe: EngineProbe, opened: Callable[[], object]) -> SpeedMeasured:
    from fourshot.engine.opening import open_engine
    from fourshot.pipeline.loop.rounds import draw_round
    from fourshot.pipeline.rows.examples import load_split
    from fourshot.pipeline.synthesis.filters import TextFilter
    from fourshot.pipeline.synthesis.prompts import PromptFormat, reading_prompt
    from fourshot.pipeline.synthesis.settings import GenerateSettings, RunSettings
    from fourshot.pipeline.tasks.shots import take_shots
    from fourshot.pipeline.tasks.task_file import load_task, shipped_tasks

    engine = open_engine(EngineSettings(model=probe.model, max_loras=1, compile=False))
    opened()
    task = load_task(shipped_tasks()[TASK])
    shots = take_shots(task, 4, 0)
    texts = [example.text for example in load_split(task, "test").examples[: READ_TEXTS[1]]]

    def seconds_per_token(count: int, *, shown: bool = False, adapter: Adapter | None = None) -> float:
        """Seconds for a computed prompt token."""
        form = PromptFormat(verbalizer="token" if adapter else "word")
        prompts = [reading_prompt(task, text, form, shots if shown else ()) for text in texts[:count]]
        engine.reset_prefix_cache()
        before = engine.stats()
        engine.score(prompts, task.label_words, adapter, form.verbalizer)
        ran = engine.stats().since(before)
        return ran.busy_s / max(1, ran.computed_tokens)

    def draw(per_class: int, number: int) -> tuple[float, int, float]:
        """Seconds beside those for prompts, tokens, and the share of texts that are well-formed."""
        settings = RunSettings(generate=GenerateSettings(draws_per_round=per_class))
        engine.reset_prefix_cache()
        before = engine.stats()
        drawn = draw_round(engine, task, shots, settings, number, task.label_names)
        ran = engine.stats().since(before)
        check = TextFilter(shots, settings.filter, task=task)
        good = sum(check.alone(candidate) is None for candidate in drawn)
        # On a busy machine prompts may have been quicker this time than when they were timed.
        seconds = max(ran.busy_s - ran.computed_tokens * prompt_token_s, ran.busy_s / 10)
        return seconds, ran.output_tokens, good / len(drawn)

    seconds_per_token(WARM_UP_TEXTS)  # an engine's first answers take longer
    if probe.adapter:
        seconds_per_token(WARM_UP_TEXTS, adapter=probe.adapter)
    began, prompt_token_s = time.perf_counter(), seconds_per_token(WARM_UP_TEXTS)
    least, most = READ_TEXTS
    count = max(least, min(most, round(WARM_UP_TEXTS * READ_S / (time.perf_counter() - began))))
    prompt_token_s = seconds_per_token(count)
    draw(WARM_UP_DRAWS, 0)
    seconds, tokens, well_formed = draw(DRAWS_PER_CLASS, 1)
    return SpeedMeasured(
        fields={
            "prompt_token_s": prompt_token_s,
            "shots_token_s": seconds_per_token(count // 2, shown=True),
            "adapter_token_s": seconds_per_token(count, adapter=probe.adapter) if probe.adapter else prompt_token_s,
            "output_token_s": max(seconds, 0.0) / tokens,
            "well_formed": well_formed,
        }
    )


if __name__ == "__main__":
    end_process(run_child(_work, reported=(FourshotError, OSError)))
