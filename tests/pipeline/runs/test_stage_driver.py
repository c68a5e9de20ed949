"""The driver: one stage for all experiments at a time, and who needed what failed drops out."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stage_driver import StageDriver
from fourshot.pipeline.runs.stages import PHASES, STAGE_NAMES, StageName, StagePlan, train
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.synthesis.settings import PRESETS, AnnotateSettings, RunSettings
from fourshot.training.jobs.jobs import FailedJob, Placement
from tests.pipeline.runs.prepared_experiments import experiment_with_texts


class NotedItem(msgspec.Struct, frozen=True):
    key: str


class NoteStage(Stage, frozen=True, kw_only=True, tag="note"):
    """Tells its items, and fails at those called "bad"."""

    items: tuple[NotedItem, ...]

    def is_finished(self, item: NotedItem) -> bool:
        return False

    def run(self, on_event: OnEvent) -> list[FailedJob]:
        def note(item: NotedItem) -> None:
            on_event(Event(stage=self.name, message=f"{item.key} {self.placement.ray} {self.log}"))
            if item.key == "bad":
                raise InputError("it is\nbad")

        return self._each(note)


def needs(experiment: Experiment) -> NoteStage:
    """Of the experiment in the folder "a-b": the items "a" and "b"."""
    items = tuple(NotedItem(key) for key in experiment.root.parent.name.split("-"))
    return NoteStage(model_path="base", items=items)


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[StageDriver, list[Event]]]:
    def run_here(stage: Stage, on_event: OnEvent) -> list[FailedJob]:
        return stage.run(on_event)

    monkeypatch.setattr("fourshot.pipeline.runs.stage_driver.run_stage", run_here)

    def driver(*folders: str, keep_going: bool) -> tuple[StageDriver, list[Event]]:
        events = list[Event]()
        stages = StageDriver(Path("log"), events.append, Placement(ray="local"), keep_going=keep_going)
        for folder in folders:
            stages.add(folder, experiment_with_texts(tmp_path / folder, "lora"))
        return stages, events

    return driver


def test_what_several_need_is_done_once_and_who_needs_what_fails_drops_out(
    drive: Callable[..., tuple[StageDriver, list[Event]]],
) -> None:
    driver, events = drive("x-y", "y-bad", "bad-z", "z", keep_going=True)
    driver.do(needs)
    assert [event.message for event in events] == [
        *("x local log", "y local log", "bad local log", "z local log"),
        *("y-bad: it is bad", "bad-z: it is bad"),
    ]
    assert list(driver.experiments) == ["x-y", "z"]
    assert {(name, failed.kind, failed.message) for name, failed in driver.failed.items()} == {
        ("y-bad", "InputError", "it is\nbad"),
        ("bad-z", "InputError", "it is\nbad"),
    }
    driver.do(needs)
    assert [event.message for event in events[6:]] == ["x local log", "y local log", "z local log"]


def test_an_experiment_alone_raises_what_failed(drive: Callable[..., tuple[StageDriver, list[Event]]]) -> None:
    driver, events = drive("x-bad-z", keep_going=False)
    with pytest.raises(InputError, match="it is\nbad"):
        driver.do(needs)
    assert [event.message[:3] for event in events] == ["x l", "bad"]


@pytest.mark.parametrize("until", STAGE_NAMES)
def test_a_run_stops_after_the_stage_that_is_named(
    drive: Callable[..., tuple[StageDriver, list[Event]]], monkeypatch: pytest.MonkeyPatch, until: StageName
) -> None:
    driver, _ = drive("x", keep_going=False)
    done = list[StagePlan]()
    monkeypatch.setattr(driver, "do", done.append)
    driver.run(until)
    expected = [phase.plan for phase in PHASES if STAGE_NAMES.index(phase.name) <= STAGE_NAMES.index(until)]
    if STAGE_NAMES.index(until) < STAGE_NAMES.index("train"):  # what needs no classifier trains annotators alone
        expected = [train.annotators if plan is train.on_real_texts else plan for plan in expected]
    assert done == expected
    counts = {"shots": 1, "annotators": 4, "annotate": 5, "generate": 6, "train": 9, "evaluate": 10, "report": 10}
    assert len(done) == counts[until]


def test_machines_of_a_cluster_are_checked_once_before_the_first_work(
    drive: Callable[..., tuple[StageDriver, list[Event]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[tuple[str, Path]] = []
    module = "fourshot.pipeline.runs.stage_driver"
    monkeypatch.setattr(f"{module}.cluster", lambda address: nullcontext())
    monkeypatch.setattr(f"{module}.nodes", dict)
    monkeypatch.setattr(f"{module}.machine_setup", lambda model, store: nullcontext((model, store)))
    monkeypatch.setattr(f"{module}.check_machines", lambda setup, nodes: checked.append(setup))
    driver, events = drive("x-y", keep_going=True)
    driver.do(needs)
    assert not checked, "all is on this machine"
    driver._placement = Placement(ray="10.0.0.1:6379")
    driver.do(needs)
    driver.do(needs)
    experiment = driver.experiments["x-y"]
    assert checked == [(experiment.model.path, experiment.store)]
    driver._is_checked = False

    def refuse(setup: object, nodes: object) -> None:
        raise InputError("a machine does not see the folder")

    monkeypatch.setattr(f"{module}.check_machines", refuse)
    done = len(events)
    with pytest.raises(InputError, match="does not see"):
        driver.do(needs)
    assert len(events) == done, "work was begun"


def test_a_setting_that_one_of_the_methods_uses_is_not_called_idle(
    drive: Callable[..., tuple[StageDriver, list[Event]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, events = drive(keep_going=False)
    monkeypatch.setattr(driver, "do", lambda plan: None)
    experiment = experiment_with_texts(tmp_path / "folds", "fourshot", "folds_filter")
    experiment._cells._settings = RunSettings(annotate=AnnotateSettings(fold_weight=1.0))
    driver.experiments["folds"] = experiment
    driver.run("generate")
    assert not events


def test_passes_that_are_not_those_of_a_classifier_are_told(
    drive: Callable[..., tuple[StageDriver, list[Event]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, events = drive(keep_going=False)
    monkeypatch.setattr(driver, "do", lambda plan: None)
    for name, preset in {"labels": "default", "probabilities": "soft"}.items():
        experiment = experiment_with_texts(tmp_path / name, "lora", "fourshot")
        train = msgspec.structs.replace(PRESETS[preset].train, num_epochs=7)
        settings = msgspec.structs.replace(PRESETS[preset], train=train)
        experiment._cells._settings = settings
        driver.experiments[name] = experiment
    driver.run("generate")
    assert not events, "no classifier is trained"
    driver.run("train")
    (message,) = [event.message for event in events]
    assert message.startswith("probabilities: train.num_epochs = 7") and "annotate.soft_epochs = 2" in message
