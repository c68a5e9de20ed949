"""The stage that trains: what is finished is left alone, and a failure stops the others only where it is to."""

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.events import Event
from fourshot.pipeline.runs.stages.train import TrainStage
from fourshot.training.jobs.at_once import SWITCH
from fourshot.training.jobs.jobs import TrainingJob, finished
from fourshot.training.lora.adapter_files import ADAPTER_WEIGHTS
from tests.pipeline.runs.test_trainings import TASK, job


def stage(model: str, store: Path, *jobs: TrainingJob, keep_going: bool = False) -> TrainStage:
    return TrainStage(model_path=model, store=str(store), items=jobs, keep_going=keep_going)


def test_a_finished_job_is_not_trained_again_not_even_in_a_store_that_was_moved(
    tiny_model: str, tmp_path: Path
) -> None:
    store, moved, events = tmp_path / "store", tmp_path / "moved", list[Event]()
    assert stage(tiny_model, store, job()).run(events.append) == []
    trained = finished(store, job())
    assert trained and events[-1].done == trained.steps == 2 and len(trained.losses) == 2
    assert (Path(trained.path) / "adapter_model.safetensors").is_file()
    shutil.move(store, moved)
    again = stage("/no/such/model", moved, job())
    assert again.is_done
    assert again.run(events.append) == []  # would fail if it opened the model
    assert finished(moved, job()) == msgspec.structs.replace(trained, path=str(moved / job().key / trained.name))
    assert finished(moved, job(model_revision="abd")) is None


@pytest.mark.parametrize("side_by_side", ["1", "2"])
def test_a_finished_job_whose_weights_are_gone_is_trained_again_to_the_same(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side_by_side: str
) -> None:
    """Some programs that copy or clean up leave out large files, and what lies beside them stays."""
    monkeypatch.setenv(SWITCH, side_by_side)
    jobs = [job(seed=seed) for seed in range(2)]
    stage(tiny_model, tmp_path, *jobs).run(lambda _: None)
    trained = [finished(tmp_path, job) for job in jobs]
    gone, cut = (Path(result.path) / ADAPTER_WEIGHTS for result in trained if result)
    content = gone.read_bytes(), cut.read_bytes()
    gone.unlink()
    os.truncate(cut, len(content[1]) // 2)
    assert not stage(tiny_model, tmp_path, *jobs).is_done
    events = list[Event]()
    stage(tiny_model, tmp_path, *jobs).run(events.append)
    told = [event.message for event in events if event.notice]
    assert told == [
        f"the weights in {file.parents[1]} are missing or incomplete, so this adapter is trained again"
        for file in (gone, cut)
    ]
    assert (gone.read_bytes(), cut.read_bytes()) == content
    assert [result and result.path for result in trained] == [str(file.parent) for file in (gone, cut)]
    assert stage(tiny_model, tmp_path, *jobs).is_done


def test_a_job_that_fails_stops_the_others_only_where_it_is_to(tiny_model: str, tmp_path: Path) -> None:
    one_label = job(labels=TASK.label_words[:1], examples=job().examples[:1])
    events = list[Event]()
    (failed,) = stage(tiny_model, tmp_path, one_label, job(), keep_going=True).run(events.append)
    assert (failed.key, failed.kind) == (one_label.key, "InputError")
    assert "at least two labels" in failed.message
    assert finished(tmp_path, job()) and events[-1].message == "tickets, adapter 2 of 2"
    other = job(model_revision="other")
    with pytest.raises(InputError, match="at least two labels"):
        stage(tiny_model, tmp_path, one_label, other).run(events.append)
    assert finished(tmp_path, other) is None


def test_progress_calls_each_training_what_it_is_among_its_kind(tmp_path: Path) -> None:
    jobs, events = [job(seed=seed) for seed in range(6)], list[Event]()
    kinds = dict(zip((job.key for job in jobs), [*["annotator"] * 2, "LoRA on the shots"] * 2, strict=True))
    halves = [msgspec.structs.replace(stage("m", tmp_path, *part), kinds=kinds) for part in (jobs[:3], jobs[3:])]
    joined = halves[0].joined(halves)
    for number in range(6):
        joined._report(events.append, number, 1, 9, 0.5)
    halves[0]._report(events.append, 2, 1, 9, 0.5)
    assert [event.message.removeprefix("tickets, ") for event in events] == [
        *("annotator 1 of 4", "annotator 2 of 4", "LoRA on the shots 1 of 2"),
        *("annotator 3 of 4", "annotator 4 of 4", "LoRA on the shots 2 of 2"),
        "LoRA on the shots",
    ]


def test_several_are_trained_side_by_side(tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "2")
    jobs = [job(seed=seed) for seed in range(3)]
    events = list[Event]()
    failing = job(labels=TASK.label_words[:1], examples=job().examples[:1])
    with pytest.raises(InputError, match="1 of 4 trainings failed, the others are kept"):
        stage(tiny_model, tmp_path, failing, *jobs).run(events.append)
    assert all(finished(tmp_path, job) for job in jobs)
    assert events[0].message == "loading the base model", "it is a while until the first step"
    assert {event.message for event in events[1:]} == {f"tickets, adapter {number} of 4" for number in (2, 3, 4)}
    assert stage(tiny_model, tmp_path, *jobs).run(events.append) == []
