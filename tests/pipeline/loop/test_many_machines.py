"""A Ray cluster of several nodes on this machine: nodes that die, cannot, or join, and a driver that is killed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import ray

from fourshot.engine.errors import FourshotError
from fourshot.pipeline.distillation.annotating import annotate_table
from fourshot.pipeline.distillation.annotators import PART, annotate_with
from fourshot.pipeline.distillation.teacher import Teacher
from fourshot.pipeline.events import Event
from fourshot.pipeline.loop.ray_workers import RayWorkers
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.training.jobs.jobs import FailedJob
from fourshot.training.jobs.machines import CheckpointServer, machine_setup
from fourshot.training.jobs.ray_jobs import run_jobs_over_ray
from fourshot.training.lora.examples import TrainingResult
from tests.pipeline.corpus.small_corpora import SHOTS, TASK, make, named, rows_of, settings
from tests.pipeline.loop.machines import PLACEMENT, Machines, kill_in_the_middle, two_machines
from tests.pipeline.task_folders import write_jsonl
from tests.training.jobs.fake_trainer import MACHINE, Behaviour, check_each_is_there_once, jobs, seeds_begun
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with two_machines() as group:
        yield group


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


def train(
    checkpoint: str, beside: Path, count: int, work: Behaviour, on_step: Any = None
) -> tuple[list[TrainingResult | FailedJob], list[str]]:
    """Outcomes, and what was told."""
    messages: list[str] = []
    (beside / "work.json").write_bytes(msgspec.json.encode(work))
    store = beside / "store"
    return run_jobs_over_ray(checkpoint, jobs(count), store, PLACEMENT, on_step, messages.append), messages


def test_a_machine_whose_disk_is_full_gives_its_trainings_to_another(
    machines: Machines, checkpoint: str, tmp_path: Path
) -> None:
    outcomes, messages = train(checkpoint, tmp_path, 4, Behaviour(full="b"))
    check_each_is_there_once(outcomes, tmp_path / "store")
    refused = seeds_begun(tmp_path, "b")
    assert refused and sorted(seeds_begun(tmp_path, "a")) == [0, 1, 2, 3]
    assert len(messages) == len(refused) and "No space left" in messages[0] and "another machine" in messages[0]


def test_what_a_library_raises_in_a_training_is_its_reason(machines: Machines, checkpoint: str, tmp_path: Path) -> None:
    outcomes, messages = train(checkpoint, tmp_path, 2, Behaviour(breaks=1))
    assert isinstance(outcomes[0], TrainingResult) and isinstance(outcomes[1], FailedJob) and messages == []
    assert outcomes[1].message == "RuntimeError: no kernel image is available"


class Where(CheckpointServer):
    """Says which machine it is on."""

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


def test_a_checkpoint_is_given_by_the_driver_s_own_machine(machines: Machines, checkpoint: str) -> None:
    with ExitStack() as stack:
        setups = [stack.enter_context(machine_setup(checkpoint, file_server=Where)) for _ in range(4)]
        where = ray.get([setup.file_server.node.remote() for setup in setups])
    assert where == [ray.get_runtime_context().get_node_id()] * 4, "by chance each would be another one, of three"


DRIVER = """
import sys
from pathlib import Path
import ray
from fourshot.training.jobs.ray_jobs import run_jobs_over_ray
from tests.pipeline.loop.machines import PLACEMENT, runtime
from tests.training.jobs.fake_trainer import jobs

address, checkpoint, store = sys.argv[1:]
ray.init(address, log_to_driver=False, runtime_env=runtime())
run_jobs_over_ray(checkpoint, jobs(4), Path(store), PLACEMENT)
"""


def test_a_driver_killed_leaves_what_was_finished_and_the_next_one_does_the_rest(
    machines: Machines, checkpoint: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    (tmp_path / "work.json").write_bytes(msgspec.json.encode(Behaviour(hold="a")))
    command = [sys.executable, "-c", DRIVER, machines.cluster.address, checkpoint, str(store)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env=environment) as driver:

        def three_are_finished_and_one_is_at_work() -> bool:
            assert driver.poll() is None
            return len([*store.glob("*/result.json")]) == 3 and bool(seeds_begun(tmp_path, "a"))

        wait_for(three_are_finished_and_one_is_at_work, "three trainings", 120)
        driver.kill()
    before = {path: path.stat().st_mtime_ns for path in store.glob("*/result.json")}
    outcomes, _ = train(checkpoint, tmp_path, 4, Behaviour())
    check_each_is_there_once(outcomes, store)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    begun = sorted([*seeds_begun(tmp_path, "a"), *seeds_begun(tmp_path, "b")])
    assert len(begun) == 5 and sorted({*begun}) == [0, 1, 2, 3], "what was finished was done again"


def test_a_machine_where_no_engine_opens_is_done_without_and_that_is_told(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.pipeline.loop.ray_workers.LOOK_S", 0.0)
    monkeypatch.setattr("fourshot.pipeline.loop.ray_workers.MOST_DEATHS", 2)  # a start takes seconds
    events: list[Event] = []
    has_room = RayWorkers.has_room
    # No unit is handed out before: the other machine would have done them all.
    monkeypatch.setattr(RayWorkers, "has_room", lambda workers: bool(messages()) and has_room(workers))

    def messages() -> list[str]:
        return [event.message for event in events if "is excluded" in event.message]

    make(tmp_path / "alone")
    make(tmp_path / "spread", ray="auto", model=f"fake:fails_where={MACHINE}=b", on_event=events.append)
    assert rows_of(tmp_path / "spread") == rows_of(tmp_path / "alone")
    assert len(messages()) == 1 and "has no driver" in messages()[0]


def test_a_machine_that_cannot_open_its_engine_ends_no_corpus(machines: Machines, tmp_path: Path) -> None:
    model = f"fake:delay_s=0.005;first_fails={tmp_path / 'bad'}"
    summary = make(tmp_path / "spread", run_settings=settings(per_class=60), ray="auto", model=model)
    assert (tmp_path / "bad").exists(), "no engine was refused"
    assert {outcome.state for outcome in summary.classes} == {"finished"}


def test_machines_none_of_which_can_open_an_engine_end_it_with_their_reason(machines: Machines, tmp_path: Path) -> None:
    with pytest.raises(FourshotError, match="this machine has no driver"):
        make(tmp_path, ray="auto", model="fake:fails_on_opening=true")


def test_a_machine_killed_in_a_training_costs_only_time(machines: Machines, checkpoint: str, tmp_path: Path) -> None:
    def kill_b(number: int, step: int, planned: int, loss: float) -> None:
        if "b" in machines.nodes and number in seeds_begun(tmp_path, "b"):
            machines.kill("b")
            (tmp_path / "go").touch()

    outcomes, _ = train(checkpoint, tmp_path, 4, Behaviour(hold="b"), kill_b)
    assert "b" not in machines.nodes, "no training was begun there"
    check_each_is_there_once(outcomes, tmp_path / "store")
    assert sorted(seeds_begun(tmp_path, "a")) == [0, 1, 2, 3]


def test_a_machine_killed_in_a_corpus_costs_no_row(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.add("c")
    run_settings, tasks = settings(per_class=40), named("one", "two")
    make(tmp_path / "alone", tasks, run_settings)
    kill_in_the_middle(machines, "a", monkeypatch)
    make(tmp_path / "spread", tasks, run_settings, ray="auto", model="fake:delay_s=0.02")
    assert "a" not in machines.nodes, "only one machine did anything"
    assert rows_of(tmp_path / "spread") == rows_of(tmp_path / "alone")


def test_a_machine_killed_in_an_annotation_costs_no_row(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is there once, in its place, with the answers of one engine."""
    machines.add("d")
    table = tmp_path / "inbox.jsonl"
    write_jsonl(table, [{"id": number, "text": f"ticket {number} of my order"} for number in range(20 * PART + 7)])

    def annotate(name: str, model: str, ray: str) -> bytes:
        in_context = RunSettings(annotate=AnnotateSettings(annotator="icl"))
        teacher = Teacher(name="in context", task=TASK, model_path=model, settings=in_context, shots=SHOTS)
        annotator = annotate_with(teacher, tmp_path / f"{name}.log", ray)
        summary = annotate_table(
            open_texts(table), tmp_path / f"{name}.jsonl", TASK.label_names, teacher.name, annotator
        )
        assert (summary.rows, summary.why_unreadable) == (20 * PART + 7, "")
        return (tmp_path / f"{name}.jsonl").read_bytes()

    alone = annotate("alone", "fake", "")
    kill_in_the_middle(machines, "c", monkeypatch)
    assert annotate("spread", "fake:delay_s=0.02", "auto") == alone
    assert "c" not in machines.nodes, "only one machine did anything"
