"""Many trainings at once: one Ray task per job, one GPU each, or two cores where the cluster has no GPU.

Jobs are named by content and written whole into a store that all workers see, so nothing has to be remembered about who
did what: a worker that dies has its job started again elsewhere, from the job's last checkpoint; a driver that dies is
started again and finds what is finished. All jobs are given to Ray at once, and Ray queues them.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import FourshotError
from fourshot.training.jobs.cluster import check_devices, cluster, device_resources, nodes, on_node
from fourshot.training.jobs.jobs import FailedJob, OnJobStep, Placement, TrainingJob, do_job, finished
from fourshot.training.jobs.machines import (
    CheckpointServer,
    MachineSupplies,
    check_machines,
    machine_name,
    provide,
    supplies,
)
from fourshot.training.jobs.processes import do_job_over_processes
from fourshot.training.lora.examples import TrainingResult

RETRIES = 3  # of a job whose worker died, or whose machine cannot; an error of the job itself is not tried again
POLL_S = 0.5
LOOK_S = 5.0  # between two looks for machines that have left
# A network file system may show what another machine wrote only when its cache expires. Source: nfs(5), acdirmax.
SEEN_S = 90.0
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal, in what Ray says

Tell = Callable[[str], None]
_trainers: dict[str, Any] = {}  # model folder -> trainer: a worker opens the base once, for all jobs it is given


class _Failed(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of a job that came to nothing."""

    kind: str  # class name of the error
    message: str
    node: str
    of_machine: bool  # not of the job: another machine may do it


def run_jobs_over_ray(
    model: str,
    jobs: Sequence[TrainingJob],
    store: Path,
    placement: Placement,
    on_step: OnJobStep | None = None,
    tell: Tell = lambda line: None,
) -> list[TrainingResult | FailedJob]:
    """Do what the store does not have yet; one outcome per job, in order. A failed job does not stop the others.

    ``placement.ray``: see `jobs.cluster.cluster`. ``store`` is a folder that every worker sees; ``model`` is given to
    machines that do not have it. ``tell`` hears of machines that could not do what they were given. Raises InputError
    where the cluster cannot be reached, or a machine of it does not see the store or cannot have the model;
    FourshotError where it has neither a GPU nor two cores.
    """
    outcomes: list[TrainingResult | FailedJob | None] = [finished(store, job) for job in jobs]
    open_jobs = [number for number, outcome in enumerate(outcomes) if outcome is None]
    if open_jobs:
        with cluster(placement.ray):
            check_devices(placement.gpus_per_job)
            with supplies(model, store, giver=_Board) as supplied:
                check_machines(supplied, nodes())
                queue = _Queue(jobs, store.resolve(), supplied, placement.gpus_per_job, tell)
                for number, outcome in queue.run(open_jobs, on_step):
                    outcomes[number] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


class _Queue:
    """Jobs that Ray has, where each runs, and where it may not be tried again."""

    def __init__(
        self, jobs: Sequence[TrainingJob], store: Path, supplied: MachineSupplies, processes: int, tell: Tell
    ) -> None:
        import ray

        self._jobs, self._store, self._supplied, self._processes, self._tell = jobs, store, supplied, processes, tell
        # max_calls=0: a worker that held a GPU would end after one job otherwise, and the base be opened for each.
        self._task = ray.remote(max_calls=0, max_retries=RETRIES, **device_resources(processes))(_work)
        self._running: dict[Any, int] = {}
        self._nodes: dict[int, str] = {}  # where a job was begun last
        self._unfit: dict[int, set[str]] = {}  # nodes that could not do a job
        self._looked_s = time.monotonic()
        self._alive = set(nodes())

    def run(
        self, open_jobs: Sequence[int], on_step: OnJobStep | None
    ) -> Iterator[tuple[int, TrainingResult | FailedJob]]:
        """Yields the outcome of each open job as it ends."""
        import ray

        for number in open_jobs:
            self._give(number)
        while self._running:
            ended, _ = ray.wait(list(self._running), timeout=POLL_S)
            new_nodes, steps = ray.get(self._supplied.giver.read.remote())
            self._nodes.update(new_nodes)
            unfinished = set(self._running.values())  # what is written late is of no use
            for number, (step, planned, loss) in sorted(steps.items()):
                if on_step and number in unfinished:
                    on_step(number, step, planned, loss)
            for reference in ended:
                number = self._running.pop(reference)
                outcome = self._outcome(reference, number)
                if outcome is None:
                    continue
                if on_step and isinstance(outcome, TrainingResult):
                    on_step(number, outcome.steps, outcome.steps, outcome.losses[-1])  # it may have stopped early
                yield number, outcome
            self._look()

    def _give(self, number: int, node: str = "") -> None:
        options = {"scheduling_strategy": on_node(node, soft=True)} if node else {}
        job, store = self._jobs[number], str(self._store)
        reference = self._task.options(**options).remote(self._supplied, job, store, number, self._processes)
        self._running[reference] = number

    def _look(self) -> None:
        """Give jobs of machines that are gone to others.

        Ray does so itself where the connection broke. Where it fell silent, the network being cut, Ray would wait for
        minutes after it has given the machine up. A job that has not said where it is may be there too.
        """
        import ray

        if time.monotonic() - self._looked_s < LOOK_S:
            return
        self._looked_s = time.monotonic()
        alive = set(nodes())
        is_one_lost, self._alive = bool(self._alive - alive), alive
        for reference, number in list(self._running.items()):
            node = self._nodes.get(number)
            if node in alive or (node is None and not is_one_lost):
                continue
            del self._running[reference]
            self._nodes.pop(number, None)
            ray.cancel(reference)
            self._give(number)

    def _outcome(self, reference: Any, number: int) -> TrainingResult | FailedJob | None:
        """None where it is tried again."""
        import ray

        job = self._jobs[number]
        try:
            failure = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # what a library raised: there was no other try
            message = f"{type(error.cause).__name__}: {error.cause}"
            return FailedJob(key=job.key, kind="FourshotError", message=message)
        except ray.exceptions.RayError as error:
            reason = COLOURS.sub("", str(error)).splitlines()[0]
            failed = f"Its worker died {RETRIES + 1} times: {reason}"
            return FailedJob(key=job.key, kind="FourshotError", message=failed)
        if failure is not None:
            unfit = self._unfit.setdefault(number, set())
            unfit.add(failure.node)
            fit_nodes = [node for node in nodes() if node not in unfit]
            if not failure.of_machine or not fit_nodes or len(unfit) > RETRIES:
                return FailedJob(key=job.key, kind=failure.kind, message=failure.message)
            self._tell(f"{job.name} is tried on another machine: {failure.message}")
            self._give(number, fit_nodes[number % len(fit_nodes)])
            return None
        deadline = time.monotonic() + SEEN_S
        while (result := finished(self._store, job)) is None:
            if time.monotonic() > deadline:
                message = (
                    f"A worker finished it, but {self._store} on this machine does not have it: give a folder that all "
                    "share."
                )
                return FailedJob(key=job.key, kind="FourshotError", message=message)
            os.listdir(self._store)  # has a network file system ask again
            time.sleep(POLL_S)
        return result


class _Board(CheckpointServer):
    """Where workers write where they are and how far; read by the driver, beside which it is."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._nodes: dict[int, str] = {}
        self._steps: dict[int, tuple[int, int, float]] = {}

    def begin(self, number: int, node: str) -> None:
        self._nodes[number] = node

    def write(self, number: int, step: int, planned: int, loss: float) -> None:
        self._steps[number] = (step, planned, loss)

    def read(self) -> tuple[dict[int, str], dict[int, tuple[int, int, float]]]:
        """What was written since the last time."""
        written = self._nodes, self._steps
        self._nodes, self._steps = {}, {}
        return written


def _work(supplied: MachineSupplies, job: TrainingJob, store: str, number: int, processes: int) -> _Failed | None:
    """In a worker: do one job; None, or why it failed. Only the death of the worker is for Ray to try again."""
    import ray

    from fourshot.training.lora.train import LoraTrainer

    node = ray.get_runtime_context().get_node_id()
    supplied.giver.begin.remote(number, node)

    def on_step(step: int, planned: int, loss: float) -> None:
        supplied.giver.write.remote(number, step, planned, loss)

    def failed(error: FourshotError | OSError, *, of_machine: bool) -> _Failed:
        message = f"{machine_name()}: {error}" if of_machine else str(error)
        return _Failed(kind=type(error).__name__, message=message, node=node, of_machine=of_machine)

    try:
        model = provide(supplied)
    except (FourshotError, OSError) as error:
        return failed(error, of_machine=True)
    if finished(Path(store), job) is not None:  # the worker died after the last write, before it could say so
        return None
    try:
        if processes > 1:
            do_job_over_processes(model, job, Path(store), processes, on_step)
            return None
        if model not in _trainers:
            _trainers.clear()
            _trainers[model] = LoraTrainer(model)
        do_job(_trainers[model], job, Path(store), on_step)
    except FourshotError as error:
        return failed(error, of_machine=False)
    except OSError as error:  # its disk is full, or broken
        return failed(error, of_machine=True)
    return None
