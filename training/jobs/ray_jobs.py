"""Many trainings at once: one Ray task per job, one GPU each, or two cores where the cluster has no GPU.

Jobs are named by content and written whole into a store that all workers see, so nothing has to be remembered about who
did what: a worker that dies has its job started again elsewhere, from the job's last checkpoint; a driver that dies is
started again and finds what is finished. All jobs are given to Ray at once, and Ray queues them.
"""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.threads import TRAIN_SPINS, available_cores, waiting_briefly
from fourshot.training.jobs.jobs import FailedJob, OnJobStep, Placement, TrainingJob, do_job, finished
from fourshot.training.jobs.processes import do_job_over_processes
from fourshot.training.lora.examples import TrainingResult

CORES_PER_JOB = 2  # where there is no GPU
RETRIES = 3  # of a job whose worker died; an error that the job itself raised is not tried again
POLL_S = 0.5
CONNECT_S = 10.0
OBJECT_STORE_BYTES = 200 << 20  # jobs are small; Ray would take a third of the memory

_trainers: dict[str, Any] = {}  # model folder -> trainer: a worker opens the base once, for all jobs it is given


def run_jobs_over_ray(
    model: str,
    jobs: Sequence[TrainingJob],
    store: Path,
    placement: Placement,
    on_step: OnJobStep | None = None,
) -> list[TrainingResult | FailedJob]:
    """Do what the store does not have yet; one outcome per job, in order. A failed job does not stop the others.

    ``placement.ray``: "local" starts Ray on this machine for the time of the call, "auto" joins the cluster that this
    machine belongs to, anything else is a cluster's address. ``model`` and ``store`` are folders that every worker
    sees. Raises InputError where the cluster cannot be reached, FourshotError where it has neither a GPU nor two cores.
    """
    open_jobs = [number for number, job in enumerate(jobs) if finished(store, job) is None]
    outcomes: list[TrainingResult | FailedJob | None] = [finished(store, job) for job in jobs]
    if open_jobs:
        with cluster(placement.ray):
            per_job = placement.gpus_per_job
            for number, outcome in _spread(model, jobs, open_jobs, store.resolve(), on_step, per_job):
                outcomes[number] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Be connected to Ray; leaves a connection alone that the caller had."""
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "runtime_env": _runtime_environment()}
    try:
        if address == "local":
            ray.init(
                address="local",
                num_cpus=max(available_cores(), CORES_PER_JOB),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            _probe(address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"There is no Ray cluster at {address!r}: {error}. Give 'local' to start Ray on this machine, 'auto' on a "
            "machine of a cluster (`ray start`), or the address of its head, like 10.0.0.1:6379."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _probe(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for two minutes and then end the process."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _runtime_environment() -> dict[str, Any]:
    """Workers import what the driver imports, wherever that is installed."""
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TOKENIZERS_PARALLELISM": "false"}
    return {"env_vars": waiting_briefly(variables, TRAIN_SPINS)}


def _spread(
    model: str,
    jobs: Sequence[TrainingJob],
    open_jobs: Sequence[int],
    store: Path,
    on_step: OnJobStep | None,
    processes: int,
) -> Iterator[tuple[int, TrainingResult | FailedJob]]:
    """Yields the outcome of each open job as it ends."""
    import ray

    board = ray.remote(num_cpus=0)(_Board).remote()
    # max_calls=0: a worker that held a GPU would end after one job otherwise, and the base be opened for each.
    task = ray.remote(max_calls=0, max_retries=RETRIES, **_resources(processes))(_work)
    running = {
        task.remote(model, msgspec.json.encode(jobs[number]), str(store), number, board, processes): number
        for number in open_jobs
    }
    while running:
        ended, _ = ray.wait(list(running), timeout=POLL_S)
        if on_step:
            left = set(running.values())  # what is written late is of no use
            for number, (step, planned, loss) in sorted(ray.get(board.read.remote()).items()):
                if number in left:
                    on_step(number, step, planned, loss)
        for reference in ended:
            number = running.pop(reference)
            outcome = _outcome(reference, jobs[number], store)
            if on_step and isinstance(outcome, TrainingResult):
                on_step(number, outcome.steps, outcome.steps, outcome.losses[-1])  # it may have stopped early
            yield number, outcome


def _outcome(reference: Any, job: TrainingJob, store: Path) -> TrainingResult | FailedJob:
    import ray

    try:
        failure = ray.get(reference)
    except ray.exceptions.RayError as error:
        failed = f"Its worker died {RETRIES + 1} times: {str(error).splitlines()[0]}"
        return FailedJob(key=job.key, kind="FourshotError", message=failed)
    if failure is not None:
        return msgspec.json.decode(failure, type=FailedJob)
    result = finished(store, job)
    if result is None:
        message = f"A worker finished it, but {store} on this machine does not have it: give a folder that all share."
        return FailedJob(key=job.key, kind="FourshotError", message=message)
    return result


def _resources(processes: int) -> dict[str, float]:
    """Of one job, which has to find them on one machine. Raises FourshotError where none has as much."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cores = (int(max(machine.get(kind, 0) for machine in machines)) for kind in ("GPU", "CPU"))
    if gpus >= processes:
        return {"num_gpus": processes, "num_cpus": 0}
    if not gpus and cores >= CORES_PER_JOB * processes:
        return {"num_cpus": CORES_PER_JOB * processes}
    raise FourshotError(
        f"No machine of the Ray cluster has enough: at most {gpus} GPUs and {cores} cores, and a training needs "
        f"{processes} GPU{'s' if processes > 1 else ''}, or {CORES_PER_JOB * processes} cores where there is no GPU."
    )


class _Board:
    """Where workers write how far they are; an actor, read by the driver."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[int, int, float]] = {}

    def write(self, number: int, step: int, planned: int, loss: float) -> None:
        self._steps[number] = (step, planned, loss)

    def read(self) -> dict[int, tuple[int, int, float]]:
        """What was written since the last time."""
        steps, self._steps = self._steps, {}
        return steps


def _work(model: str, encoded: bytes, store: str, number: int, board: Any, processes: int) -> bytes | None:
    """In a worker: do one job; None, or why it failed. Only the death of the worker is for Ray to try again."""
    from fourshot.training.lora.train import LoraTrainer

    job = msgspec.json.decode(encoded, type=TrainingJob)
    if finished(Path(store), job) is not None:  # the worker died after the last write, before it could say so
        return None

    def on_step(step: int, planned: int, loss: float) -> None:
        board.write.remote(number, step, planned, loss)

    try:
        if processes > 1:
            do_job_over_processes(model, job, Path(store), processes, on_step)
            return None
        if model not in _trainers:
            _trainers.clear()
            _trainers[model] = LoraTrainer(model)
        do_job(_trainers[model], job, Path(store), on_step)
    except (FourshotError, OSError) as error:
        return msgspec.json.encode(FailedJob(key=job.key, kind=type(error).__name__, message=str(error)))
    return None
