"""Many trainings at once: one Ray task per job, one GPU each, or two cores where the cluster has no GPU.

Jobs are named by content and written whole into a store that all workers see, so nothing has to be remembered about who
did what: a worker that dies has its job started again elsewhere, from the job's last checkpoint; a driver that dies is
started again and finds what is finished. All jobs are given to Ray at once, and Ray queues them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import FourshotError
from fourshot.training.jobs.cluster import check_devices, cluster, device_resources
from fourshot.training.jobs.jobs import FailedJob, OnJobStep, Placement, TrainingJob, do_job, finished
from fourshot.training.jobs.processes import do_job_over_processes
from fourshot.training.lora.examples import TrainingResult

RETRIES = 3  # of a job whose worker died; an error that the job itself raised is not tried again
POLL_S = 0.5

_trainers: dict[str, Any] = {}  # model folder -> trainer: a worker opens the base once, for all jobs it is given


def run_jobs_over_ray(
    model: str,
    jobs: Sequence[TrainingJob],
    store: Path,
    placement: Placement,
    on_step: OnJobStep | None = None,
) -> list[TrainingResult | FailedJob]:
    """Do what the store does not have yet; one outcome per job, in order. A failed job does not stop the others.

    ``placement.ray``: see `jobs.cluster.cluster`. ``model`` and ``store`` are folders that every worker sees. Raises
    InputError where the cluster cannot be reached, FourshotError where it has neither a GPU nor two cores.
    """
    open_jobs = [number for number, job in enumerate(jobs) if finished(store, job) is None]
    outcomes: list[TrainingResult | FailedJob | None] = [finished(store, job) for job in jobs]
    if open_jobs:
        with cluster(placement.ray):
            per_job = placement.gpus_per_job
            for number, outcome in _spread(model, jobs, open_jobs, store.resolve(), on_step, per_job):
                outcomes[number] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


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

    check_devices(processes)
    board = ray.remote(num_cpus=0)(_Board).remote()
    # max_calls=0: a worker that held a GPU would end after one job otherwise, and the base be opened for each.
    task = ray.remote(max_calls=0, max_retries=RETRIES, **device_resources(processes))(_work)
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
