"""Many trainings over Ray: one Ray task per job, with one GPU each, or two cores if the cluster has no GPU.

Jobs are named after their content and written atomically into a store that all workers see, so no record of workers is
needed. If a worker dies, its job is restarted elsewhere, from the job's last checkpoint. If the driver dies, the
repeated command finds the finished jobs. All jobs are submitted to Ray at once, and Ray queues them.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import FourshotError
from fourshot.training.jobs.cluster import (
    NOTICE_S,
    alive,
    check_devices,
    cluster,
    device_resources,
    nodes,
    on_node,
    reason_of,
)
from fourshot.training.jobs.jobs import FailedJob, OnJobStep, Placement, TrainingJob, do_job, finished
from fourshot.training.jobs.machines import (
    CheckpointServer,
    MachineSetup,
    check_machines,
    machine_name,
    machine_setup,
    prepare_machine,
)
from fourshot.training.jobs.processes import do_job_over_processes
from fourshot.training.lora.examples import TrainingResult

RETRIES = 3  # of a job whose worker died, or whose machine cannot run it; an error of the job itself is not retried
POLL_S = 0.5
CHECK_INTERVAL_S = 5.0  # between two checks for machines that have left
# A network file system may show another machine's files only after its cache expires. Source: nfs(5), acdirmax.
SEEN_S = 90.0

Tell = Callable[[str], None]
_trainers: dict[str, Any] = {}  # model folder -> trainer, so that a worker loads the base model once for all its jobs


class _Failed(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's report of a failed job."""

    kind: str  # class name of the error
    message: str
    node: str
    of_machine: bool  # the fault is the machine's, not the job's: another machine may succeed


def run_jobs_over_ray(
    model: str,
    jobs: Sequence[TrainingJob],
    store: Path,
    placement: Placement,
    on_step: OnJobStep | None = None,
    tell: Tell = lambda line: None,
) -> list[TrainingResult | FailedJob]:
    """Train the jobs that the store does not have yet, and return one outcome per job, in order.

    A failed job does not stop the others. ``placement.ray``: see `jobs.cluster.cluster`. ``store`` is a folder that
    every worker sees. Machines without ``model`` fetch it. ``tell`` is called with a line for each job that moves to
    another machine because its own could not run it. Raises InputError if the cluster cannot be reached, or if one of
    its machines does not see the store or cannot get the model. Raises FourshotError if no machine has the devices
    for one training.
    """
    outcomes: list[TrainingResult | FailedJob | None] = [finished(store, job) for job in jobs]
    open_jobs = [number for number, outcome in enumerate(outcomes) if outcome is None]
    if open_jobs:
        with cluster(placement.ray):
            check_devices(placement.gpus_per_job)
            with machine_setup(model, store, file_server=_ProgressServer) as setup:
                check_machines(setup, nodes())
                queue = _Queue(jobs, store.resolve(), setup, placement.gpus_per_job, tell)
                for number, outcome in queue.run(open_jobs, on_step):
                    outcomes[number] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


class _Queue:
    """The jobs submitted to Ray, the node that each runs on, and the nodes where it must not be retried."""

    def __init__(
        self, jobs: Sequence[TrainingJob], store: Path, setup: MachineSetup, processes: int, tell: Tell
    ) -> None:
        import ray

        self._jobs, self._store, self._setup, self._processes, self._tell = jobs, store, setup, processes, tell
        # max_calls=0: otherwise a worker with a GPU would exit after one job, and load the base model for each.
        self._task = ray.remote(max_calls=0, max_retries=RETRIES, **device_resources(processes))(_work)
        self._running: dict[Any, int] = {}
        self._nodes: dict[int, str] = {}  # job number -> node on which it last started
        self._unfit: dict[int, set[str]] = {}  # job number -> nodes that could not run it
        self._checked_s = time.monotonic()
        self._alive = alive()

    def run(
        self, open_jobs: Sequence[int], on_step: OnJobStep | None
    ) -> Iterator[tuple[int, TrainingResult | FailedJob]]:
        """Yield (number, outcome) of each open job as it ends."""
        import ray

        for number in open_jobs:
            self._submit(number)
        notice_s = time.monotonic() + NOTICE_S
        while self._running:
            ended, _ = ray.wait(list(self._running), timeout=POLL_S)
            new_nodes, steps = ray.get(self._setup.file_server.read.remote())
            self._nodes.update(new_nodes)
            if any(number in self._nodes for number in self._running.values()):
                notice_s = time.monotonic() + NOTICE_S
            elif time.monotonic() > notice_s:
                notice_s = float("inf")
                self._tell(
                    f"no training has begun on the Ray cluster for {NOTICE_S:.0f} s. Its machines may have other work "
                    "(`ray status`). The command waits."
                )
            unfinished = set(self._running.values())  # late steps of finished jobs are ignored
            for number, (step, planned, loss) in sorted(steps.items()):
                if on_step and number in unfinished:
                    on_step(number, step, planned, loss)
            for reference in ended:
                number = self._running.pop(reference)
                outcome = self._outcome(reference, number)
                if outcome is None:
                    continue
                if on_step and isinstance(outcome, TrainingResult):
                    on_step(number, outcome.steps, outcome.steps, outcome.losses[-1])  # training may have stopped early
                yield number, outcome
            self._resubmit_lost()

    def _submit(self, number: int, node: str = "") -> None:
        options = {"scheduling_strategy": on_node(node, soft=True)} if node else {}
        job, store = self._jobs[number], str(self._store)
        reference = self._task.options(**options).remote(self._setup, job, store, number, self._processes)
        self._running[reference] = number

    def _resubmit_lost(self) -> None:
        """Resubmit the jobs of machines that have left the cluster.

        Ray does so itself if the connection broke. If the network was cut, the connection is silent, and Ray would wait
        for minutes after it has declared the machine dead. A job that has not reported its node may have been there
        too, so it is also resubmitted.
        """
        import ray

        if time.monotonic() - self._checked_s < CHECK_INTERVAL_S:
            return
        self._checked_s = time.monotonic()
        before, self._alive = self._alive, alive()
        is_one_lost = bool(before - self._alive)
        for reference, number in list(self._running.items()):
            node = self._nodes.get(number)
            if node in self._alive or (node is None and not is_one_lost):
                continue
            del self._running[reference]
            self._nodes.pop(number, None)
            ray.cancel(reference)
            self._submit(number)

    def _outcome(self, reference: Any, number: int) -> TrainingResult | FailedJob | None:
        """Return the outcome of an ended job, or None if it was resubmitted."""
        import ray

        job = self._jobs[number]
        try:
            failure = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # raised by a library, and not retried by Ray
            message = f"{type(error.cause).__name__}: {error.cause}"
            return FailedJob(key=job.key, kind="FourshotError", message=message)
        except ray.exceptions.RayError as error:
            failed = f"Its worker died {RETRIES + 1} times: {reason_of(error)}"
            return FailedJob(key=job.key, kind="FourshotError", message=failed)
        if failure is not None:
            unfit = self._unfit.setdefault(number, set())
            unfit.add(failure.node)
            fit_nodes = [node for node in nodes() if node not in unfit]
            if not failure.of_machine or not fit_nodes or len(unfit) > RETRIES:
                return FailedJob(key=job.key, kind=failure.kind, message=failure.message)
            self._tell(f"{job.name} is tried again on another machine: {failure.message}")
            self._submit(number, fit_nodes[number % len(fit_nodes)])
            return None
        deadline = time.monotonic() + SEEN_S
        while (result := finished(self._store, job)) is None:
            if time.monotonic() > deadline:
                message = (
                    f"A worker finished it, but {self._store} on this machine does not have it: give a folder that all "
                    "share."
                )
                return FailedJob(key=job.key, kind="FourshotError", message=message)
            os.listdir(self._store)  # makes a network file system refresh its cache
            time.sleep(POLL_S)
        return result


class _ProgressServer(CheckpointServer):
    """Actor on the driver's machine: workers report the node and progress of their jobs, and the driver polls them."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._nodes: dict[int, str] = {}
        self._steps: dict[int, tuple[int, int, float]] = {}

    def begin(self, number: int, node: str) -> None:
        self._nodes[number] = node

    def write(self, number: int, step: int, planned: int, loss: float) -> None:
        self._steps[number] = (step, planned, loss)

    def read(self) -> tuple[dict[int, str], dict[int, tuple[int, int, float]]]:
        """Return (nodes, steps) reported since the last call, by job number; a step is (step, planned, loss)."""
        written = self._nodes, self._steps
        self._nodes, self._steps = {}, {}
        return written


def _work(setup: MachineSetup, job: TrainingJob, store: str, number: int, processes: int) -> _Failed | None:
    """Run in a worker: train one job; return None, or why it failed. Ray retries only if the worker itself dies."""
    import ray

    from fourshot.training.lora.train import LoraTrainer

    node = ray.get_runtime_context().get_node_id()
    setup.file_server.begin.remote(number, node)

    def on_step(step: int, planned: int, loss: float) -> None:
        setup.file_server.write.remote(number, step, planned, loss)

    def failed(error: FourshotError | OSError, *, of_machine: bool) -> _Failed:
        message = f"{machine_name()}: {error}" if of_machine else str(error)
        return _Failed(kind=type(error).__name__, message=message, node=node, of_machine=of_machine)

    try:
        model = prepare_machine(setup)
    except (FourshotError, OSError) as error:
        return failed(error, of_machine=True)
    if finished(Path(store), job) is not None:  # an earlier worker died after writing the result
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
    except OSError as error:  # the machine's disk is full or faulty
        return failed(error, of_machine=True)
    return None
