"""Many trainings over Ray: two logical GPUs, workers and drivers that are killed, jobs that cannot be done."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
import pytest
import ray

from fourshot.engine.errors import InputError
from fourshot.training.jobs import cluster
from fourshot.training.jobs.jobs import CHECKPOINT_FILE, FailedJob, Placement, TrainingJob, finished
from fourshot.training.jobs.ray_jobs import run_jobs_over_ray
from fourshot.training.lora.examples import TrainingExample, TrainingResult
from fourshot.training.lora.settings import LoraSettings
from tests.training import notes
from tests.waiting import wait_for

AUTO = Placement(ray="auto")
NUM_GPUS = 2
NUM_JOBS = 5  # two at once, in processes that import torch first, and three that wait
STEPS = 40


def job(seed: int, **changes: object) -> TrainingJob:
    plain = TrainingJob(
        name="notes",
        model_revision="tiny",
        examples=tuple(notes.examples()),
        labels=notes.WORDS,
        settings=LoraSettings(min_steps=STEPS, max_steps=STEPS, batch_size=4),
        seed=seed,
    )
    return msgspec.structs.replace(plain, **changes)


JOBS = [job(seed) for seed in range(NUM_JOBS)]


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    """A cluster that counts two GPUs, whatever the machine has: where jobs run is decided by the count."""
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    ray.init(
        address="local",
        num_cpus=1,
        num_gpus=NUM_GPUS,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    yield
    ray.shutdown()


def title(process: psutil.Process) -> str:
    """What Ray calls a process now: "ray::_work" while it has a job, "ray::IDLE" between jobs, "" once it ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def workers() -> list[int]:
    """Process ids of this cluster's workers that have a job."""
    return [
        process.pid for process in psutil.Process().children(recursive=True) if title(process).startswith("ray::_work")
    ]


def weights(outcomes: list[TrainingResult | FailedJob]) -> list[str]:
    return [outcome.name for outcome in outcomes if isinstance(outcome, TrainingResult)]


class Observed(NamedTuple):
    """What was seen of a run of all jobs over Ray."""

    names: list[str]  # so the contents, of all adapters
    steps: dict[int, list[int]]  # by job, in the order in which they were told
    most_at_once: int


@pytest.fixture(scope="module")
def undisturbed(two_gpus: None, tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    steps: dict[int, list[int]] = {}
    most = 0

    def on_step(number: int, step: int, planned: int, loss: float) -> None:
        nonlocal most
        assert planned == STEPS and loss > 0
        steps.setdefault(number, []).append(step)
        most = max(most, len(workers()))

    names = weights(run_jobs_over_ray(tiny_model, JOBS, tmp_path_factory.mktemp("undisturbed"), AUTO, on_step))
    return Observed(names, steps, most)


def test_two_jobs_run_at_once_and_tell_how_far_they_are(undisturbed: Observed) -> None:
    assert len(set(undisturbed.names)) == NUM_JOBS
    assert undisturbed.most_at_once == NUM_GPUS
    assert undisturbed.steps and all(steps == sorted(steps) for steps in undisturbed.steps.values())


def test_two_workers_killed_cost_nothing_but_time(
    undisturbed: Observed, two_gpus: None, tiny_model: str, tmp_path: Path
) -> None:
    killed: list[int] = []

    def on_step(number: int, step: int, planned: int, loss: float) -> None:
        alive = [pid for pid in workers() if pid not in killed]
        if len(killed) < 2 and alive:
            os.kill(alive[0], signal.SIGKILL)
            killed.append(alive[0])

    outcomes = run_jobs_over_ray(tiny_model, JOBS, tmp_path, AUTO, on_step)
    assert len(killed) == 2
    assert weights(outcomes) == undisturbed.names
    assert_each_is_there_once(tmp_path)


def assert_each_is_there_once(store: Path) -> None:
    assert sorted(folder.name for folder in store.iterdir()) == sorted(job.key for job in JOBS)
    for job in JOBS:
        entries = sorted(entry.name for entry in (store / job.key).iterdir() if not entry.name.startswith("."))
        result = finished(store, job)
        assert result is not None and entries == sorted([result.name, "result.json"])
        assert not (store / job.key / CHECKPOINT_FILE).exists()


DRIVER = """
import sys
from pathlib import Path
import msgspec
from fourshot.training.jobs.jobs import Placement, TrainingJob
from fourshot.training.jobs.ray_jobs import run_jobs_over_ray

model, jobs, store = sys.argv[1:]
decoded = msgspec.json.decode(Path(jobs).read_bytes(), type=list[TrainingJob])
run_jobs_over_ray(model, decoded, Path(store), Placement(ray="local"), lambda number, *_: print(number, flush=True))
"""


def test_a_driver_killed_and_started_again_finds_what_was_finished(tiny_model: str, tmp_path: Path) -> None:
    """Its Ray ends with it; what the workers had finished is there, and is not done again."""
    jobs, store = tmp_path / "jobs.json", tmp_path / "store"
    jobs.write_bytes(msgspec.json.encode(JOBS))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", DRIVER, tiny_model, str(jobs), str(store)]

    family: list[psutil.Process] = []
    workers_of_it: list[psutil.Process] = []

    def two_are_finished_and_one_is_at_work() -> bool:
        if sum(finished(store, job) is not None for job in JOBS) < 2:
            return False
        family[:] = psutil.Process(driver.pid).children(recursive=True)
        workers_of_it[:] = [process for process in family if title(process).startswith("ray::_work")]
        return bool(workers_of_it)

    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    wait_for(lambda: driver.poll() is not None or two_are_finished_and_one_is_at_work(), "two trainings", 120)
    assert driver.poll() is None
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(workers_of_it, timeout=30)
    assert not alive
    end(family)  # two of Ray's agents notice late that their Ray is gone
    before = {path: path.stat().st_mtime_ns for path in store.glob("*/result.json")}
    assert 2 <= len(before) < NUM_JOBS

    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=300)
    assert_each_is_there_once(store)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def end(family: list[psutil.Process]) -> None:
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=10)


def test_a_job_that_fails_says_why_and_the_others_go_on(two_gpus: None, tiny_model: str, tmp_path: Path) -> None:
    not_a_number = job(0, settings=LoraSettings(min_steps=9, max_steps=9, learning_rate=1e30))
    one_class = job(0, labels=("warm",), examples=(TrainingExample(prompt="Label:", target=0),))
    outcomes = run_jobs_over_ray(tiny_model, [not_a_number, JOBS[0], one_class], tmp_path, AUTO)
    first, good, last = outcomes
    assert isinstance(first, FailedJob) and "not a number" in first.message and first.key == not_a_number.key
    assert isinstance(good, TrainingResult)
    assert isinstance(last, FailedJob) and last.kind == "InputError" and "at least two labels" in last.message


def test_a_store_that_has_everything_needs_no_cluster(tiny_model: str, tmp_path: Path) -> None:
    assert run_jobs_over_ray(tiny_model, [], tmp_path, Placement(ray="no-such-host:1")) == []


@pytest.mark.usefixtures("two_gpus")
def test_a_cluster_that_is_there_is_seen_to_answer() -> None:
    cluster._check_answering(ray.get_runtime_context().gcs_address)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "no-such-host.invalid:6379"])
def test_a_cluster_that_is_not_there_is_bad_input_at_once(tiny_model: str, tmp_path: Path, address: str) -> None:
    ray.shutdown()  # else the test's own cluster would be used
    with pytest.raises(InputError, match=f"There is no Ray cluster at '{address}'.*Give 'local'"):
        run_jobs_over_ray(tiny_model, JOBS[:1], tmp_path, Placement(ray=address))
