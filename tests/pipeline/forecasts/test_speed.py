"""How often a machine is measured, and what its processes measure."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import Adapter, Engine
from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.processes import ChildProcess
from fourshot.pipeline.events import Event
from fourshot.pipeline.forecasts import probe as probes_of
from fourshot.pipeline.forecasts import speed as speeds
from fourshot.pipeline.forecasts.forecast import SIDE_BY_SIDE, SWITCH, StageWork, make_forecast, record_actual_times
from fourshot.pipeline.forecasts.speed import Experience, Speed, known_speed
from tests.pipeline.forecasts.machine_speeds import MODEL, SPEED, forecasts_on


@pytest.fixture(autouse=True)
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forecasts_on(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(speeds, "busy_cores", lambda: 0.0)  # whatever else the machine does


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[ResolvedModel]:
    """Of which models the speed was measured."""
    models = list[ResolvedModel]()

    def measure(model: ResolvedModel, trains: bool) -> Speed:
        models.append(model)
        return SPEED if trains else msgspec.structs.replace(SPEED, trainer_bytes=0, train_token_s=0.0, training_s=0.0)

    monkeypatch.setattr(speeds, "_measured", measure)
    return models


def test_a_machine_is_measured_once_for_each_model_and_anew_where_that_is_asked(
    measured: list[ResolvedModel], tmp_path: Path
) -> None:
    other, probes = msgspec.structs.replace(MODEL, revision="r2"), list[int]()
    for model in (MODEL, MODEL, other):
        assert known_speed(model, lambda: probes.append(1)) == SPEED
    assert measured == [MODEL, other] and len(probes) == 2
    known_speed(MODEL, anew=True)
    assert len(measured) == 3
    for file in (tmp_path / "home" / "speed").iterdir():
        file.write_text("{}")  # of another version
    known_speed(MODEL)
    assert len(measured) == 4


def test_trainings_are_measured_where_some_are_to_come_and_what_is_known_is_told_before(
    measured: list[ResolvedModel],
) -> None:
    draws, trains = StageWork(stage="draw", calls=3, output_tokens=2_000), StageWork(stage="train", opens="trainer")
    events, to_do = list[Event](), [draws]
    for number in (1, 1, 2, 1):
        to_do[:] = [draws, trains][:number]
        assert make_forecast(MODEL, lambda _: to_do, events.append)
    assert len(measured) == 2, "without trainings; with them, once there are some"
    assert events[0].message.startswith("about 3 calls, 2,000 tokens; measuring this machine")


def test_what_its_processes_measure_becomes_a_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {
        name: getattr(SPEED, name) for name in Speed.__struct_fields__ if name.endswith(("token_s", "ing_s", "_bytes"))
    }
    adapter = Adapter(name="a", path="/a")
    of_trainer = {name: fields.pop(name) for name in ("train_token_s", "training_s", "trainer_bytes")}
    answers = [
        (probes_of.SpeedMeasured(fields=of_trainer, adapter=adapter), 5.0),
        (probes_of.SpeedMeasured(fields=fields), 10.0),
    ]
    probes = list[Any]()

    def ask(probe: Any, _: Path) -> Any:
        probes.append(probe)
        measured, opened_s = answers[len(probes) - 1]
        return msgspec.json.decode(msgspec.json.encode(measured), type=probes_of.SpeedMeasured), opened_s

    monkeypatch.setattr(speeds, "_ask", ask)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    speed = known_speed(MODEL)
    assert msgspec.structs.replace(speed, load=0.0, cores=0, took_s=0.0) == SPEED
    assert probes[1].adapter == adapter and known_speed(MODEL) == speed
    assert speed.cores == 64, "the load is of all cores, and not of those alone that this process may use"
    answers = [(probes_of.SpeedMeasured(fields=fields), 10.0)]
    probes.clear()
    alone = known_speed(msgspec.structs.replace(MODEL, revision="r2"), trains=False)
    assert (alone.open_engine_s, alone.open_trainer_s, alone.trainer_bytes, len(probes)) == (10.0, 0.0, 0, 1)


def test_other_work_at_the_time_is_told_of_and_when_it_is_over_it_is_measured_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = msgspec.structs.replace(SPEED, load=1.8, cores=2)
    monkeypatch.setattr(speeds, "_measured", lambda *_: busy)
    for beside in (2.0, 1.5):
        monkeypatch.setattr(speeds, "busy_cores", lambda beside=beside: beside)
        estimate = make_forecast(MODEL, lambda _: [StageWork(stage="draw")], lambda _: None)
        assert estimate and "other work kept 1.8 of 2 cores busy" in str(estimate)
    monkeypatch.setattr(speeds, "_measured", lambda *_: SPEED)
    monkeypatch.setattr(speeds, "busy_cores", lambda: 0.2)
    assert known_speed(MODEL) == known_speed(MODEL) == SPEED


def test_what_cannot_be_measured_stops_nobody_but_who_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Speed:
        raise FourshotError("no memory")

    monkeypatch.setattr(speeds, "_measured", fail)
    events = list[Event]()
    assert make_forecast(MODEL, lambda _: [StageWork(stage="draw")], events.append) is None
    assert events[-1].message == "none, because this machine could not be measured: no memory"
    with pytest.raises(FourshotError, match="no memory"):
        make_forecast(MODEL, lambda _: [StageWork(stage="draw")], events.append, anew=True)


def test_a_process_that_dies_as_it_measures_names_no_log_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def dying(_: str, log: Path, *, keeps_log: bool, **__: object) -> ChildProcess:
        return ChildProcess("tests.engine.child", log, "die", keeps_log=keeps_log)

    monkeypatch.setattr(speeds, "ChildProcess", dying)
    with pytest.raises(FourshotError, match=r"The end of its log:\nTraceback") as caught:
        speeds._ask(probes_of.EngineProbe(model="model", adapter=None), tmp_path / "log.txt")
    assert "log.txt" not in str(caught.value)


def test_nothing_is_measured_where_nothing_is_left_to_do_or_nobody_wants_it(
    measured: list[ResolvedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_forecast(MODEL, lambda _: [], lambda _: None, anew=True) is None
    monkeypatch.setenv(SWITCH, "0")
    assert make_forecast(MODEL, lambda _: [StageWork(stage="draw")], lambda _: None) is None
    assert not measured


def test_a_real_base_is_measured_in_all_its_parts(
    narrow_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer and the engine that tests share, both in this process and on the same narrow base."""
    opened = list[str]()
    base = narrow_engine.settings.model
    trainer = probes_of._trainer(
        probes_of.TrainerProbe(model=base, folder=str(tmp_path)), lambda: opened.append("trainer")
    )
    monkeypatch.setattr("fourshot.engine.opening.open_engine", lambda _: narrow_engine)
    probe = probes_of.EngineProbe(model=base, adapter=trainer.adapter)
    engine = probes_of._engine(probe, lambda: opened.append("engine"))
    fields = trainer.fields | engine.fields
    assert all(value > 0 for name, value in fields.items() if name != "well_formed")
    assert {*fields} == {name for name in Speed.__struct_fields__ if name.endswith(("token_s", "ing_s", "formed"))}
    assert trainer.adapter and Path(trainer.adapter.path).is_dir() and opened == ["trainer", "engine"]


def test_a_forecast_is_corrected_by_what_earlier_commands_took(measured: list[ResolvedModel]) -> None:
    """A machine on which trainings take twice as long as measured, the engine a third less, and draws anything."""
    work = [
        StageWork(stage="train", opens="trainer", trainings=2, train_tokens=100),
        StageWork(stage="draw", output_tokens=500),
        StageWork(stage="read", calls=1_000, prompt_tokens=2_000),
    ]
    real_s = {"train": 2 * 59.0, "draw": 1_000.0, "read": 2 / 3 * 30.0}
    errors = list[list[float]]()
    for _ in range(6):
        estimate = make_forecast(MODEL, lambda _: work, lambda _: None)
        assert estimate
        errors.append([abs(real_s[stage.stage] / stage.seconds - 1) for stage in estimate.stages])
        assert record_actual_times(estimate, real_s).took_s == sum(real_s.values())
    train, _, read = zip(*errors, strict=True)
    assert train[0] == pytest.approx(1.0) and read[0] == pytest.approx(1 / 3)
    assert [*train] == sorted(train, reverse=True) and train[1] < 0.5 and train[-1] < 0.15 and read[-1] < 0.1
    assert len(measured) == 1
    kept = known_speed(MODEL, anew=True)
    assert kept.trainer.factor == pytest.approx(known_speed(MODEL).trainer.factor) and 1.4 < kept.trainer.factor < 2


def test_a_command_that_was_stopped_for_hours_and_stages_of_seconds_say_little(measured: list[ResolvedModel]) -> None:
    brief, long = StageWork(stage="brief", opens="trainer"), StageWork(stage="long", calls=9, prompt_tokens=9_000)
    estimate = make_forecast(MODEL, lambda _: [brief, long], lambda _: None)
    assert estimate and estimate.stages[0].seconds < 10 < estimate.stages[1].seconds
    record_actual_times(estimate, {"brief": 50.0, "long": 40_000.0})
    speed = known_speed(MODEL)
    assert speed.trainer == Experience() and speed.engine == Experience(factor=2.0, commands=1)
    record_actual_times(estimate.with_actual_times({}), {"long": 1.0})
    assert known_speed(MODEL).engine.commands == 2
    record_actual_times(msgspec.structs.replace(estimate, revision="never measured"), {"long": 1.0})
    assert len(measured) == 1


def test_work_that_was_begun_before_or_that_failed_says_nothing_of_the_speed(measured: list[ResolvedModel]) -> None:
    work = [StageWork(stage="read", calls=1_000, prompt_tokens=9_000)]
    resumed = make_forecast(MODEL, lambda _: work, lambda _: None, goes_on=True)
    whole = make_forecast(MODEL, lambda _: work, lambda _: None)
    assert resumed and whole and resumed.seconds == whole.seconds
    record_actual_times(resumed, {"read": 1.0})
    record_actual_times(whole, {"read": 1.0}, failed=True)
    assert known_speed(MODEL, trains=False).engine == Experience()
    record_actual_times(whole, {"read": 1.0})
    assert known_speed(MODEL, trains=False).engine.commands == 1 and len(measured) == 1


def test_as_many_trainings_side_by_side_are_forecast_as_are_asked_for(measured: list[ResolvedModel]) -> None:
    work = [StageWork(stage="train", opens="trainer", trainings=2, train_tokens=100)]
    alone, pair = (make_forecast(MODEL, lambda _: work, lambda _: None, at_once=number) for number in (1, 2))
    assert alone and pair and alone.memory_bytes * 2 == pair.memory_bytes
    assert alone.seconds - 5 == pytest.approx(SIDE_BY_SIDE * (pair.seconds - 5), abs=0.2)


def test_what_is_known_of_trainings_stays_where_the_engine_alone_is_measured_again(
    measured: list[ResolvedModel],
) -> None:
    work = [StageWork(stage="train", opens="trainer", trainings=2, train_tokens=100)]
    estimate = make_forecast(MODEL, lambda _: work, lambda _: None)
    assert estimate
    record_actual_times(estimate, {"train": 2 * estimate.seconds})
    before, again = known_speed(MODEL), known_speed(MODEL, anew=True, trains=False)
    assert again == before and again.trainer_bytes and again.trainer.commands == 1
    assert known_speed(MODEL) == before and len(measured) == 2
