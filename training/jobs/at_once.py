"""Parallel trainings on one machine, each in a process of its own with an equal share of the cores.

A small training does not saturate a machine. On two cores, two parallel trainings with one thread each take 0.68 to
0.78 of the time of sequential training. A GPU waits for the one thread that launches its kernels (docs/training.md).
The number of threads per training depends on the total number of trainings and on the cores. It does not depend on the
remaining work or the free memory, because another number would give other bytes.
"""

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import msgspec

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.gpus import are_shared, free_gpu_bytes, gpus
from fourshot.engine.machine.memory import free_bytes
from fourshot.engine.machine.processes import ChildProcess, ParentLink, child_environment, end_process, run_child
from fourshot.engine.machine.threads import TRAIN_SPINS, available_cores
from fourshot.training.jobs.jobs import IMPORTS, FailedJob, OnJobStep, TrainingJob, do_job
from fourshot.training.jobs.processes import StepDone
from fourshot.training.lora.examples import OnStep
from fourshot.training.lora.memory import base_bytes, text_bytes

SWITCH = "FOURSHOT_TRAIN_AT_ONCE"  # environment variable: number of parallel trainings if `Placement.at_once` is 0
MOST_AT_ONCE = 8
WEIGHTS_TIMES, BESIDE_BYTES = 2, 2 << 30  # memory of one training: the base's weights times this, plus this
LONG_TOKENS = 512  # texts up to this length fit into these bytes
SHARE = 0.8  # of the free memory, for all parallel trainings together


class ParallelWidth(msgspec.Struct, frozen=True, kw_only=True):
    """How parallel trainings share a machine."""

    at_once: int
    threads: int  # per training
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them; each training gets one


class WorkerSetup(msgspec.Struct, frozen=True, kw_only=True, tag="hired"):
    """The first message to a worker."""

    model: str
    store: str


class JobDone(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """Message from a worker: its current job is finished."""

    steps: int
    loss: float


class JobFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """Message from a worker: its current job failed, for a reason that is the job's own."""

    kind: str  # class name of the error
    message: str


def width(model: str, jobs: int, requested: int = 0, longest: int = 0) -> ParallelWidth:
    """Return how many of ``jobs`` trainings of ``model``, a checkpoint folder, run in parallel, and with what.

    ``requested``: number of parallel trainings; 0: the number in the environment variable `SWITCH`, else as many as
    cores and memory allow. ``longest``: tokens of the longest text, if it is known. Raises InputError if that variable
    is not a number.
    """
    cores, devices = available_cores(), tuple(gpus(os.environ))
    limit = requested or _from_environment()
    at_once = min(jobs, limit or min(cores, MOST_AT_ONCE))
    threads = max(1, cores // max(1, at_once))
    if at_once > 1 and not limit:
        at_once = min(at_once, _num_that_fit(model, devices, longest))
    return ParallelWidth(at_once=max(1, at_once), threads=threads, gpus=devices)


def _from_environment() -> int:
    setting = os.environ.get(SWITCH, "")
    if setting and not setting.isdecimal():
        raise InputError(f"{SWITCH} is {setting!r}. Give a number of trainings, or 0 for as many as fit.")
    return int(setting or 0)


def _num_that_fit(model: str, devices: Sequence[str], longest: int) -> int:
    bytes_beside = BESIDE_BYTES
    if longest > LONG_TOKENS:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
        bytes_beside = max(bytes_beside, text_bytes(config, longest))
    bytes_each = WEIGHTS_TIMES * base_bytes(model) + bytes_beside
    if not devices:
        return int(SHARE * free_bytes() / bytes_each)
    if not are_shared(devices):
        return len(devices)
    return int(SHARE * free_gpu_bytes(list(devices)) / bytes_each) * len(devices)


def do_jobs_at_once(
    model: str,
    jobs: Sequence[tuple[int, TrainingJob]],
    store: Path,
    among: ParallelWidth,
    log: Path,
    on_step: OnJobStep,
) -> list[FailedJob]:
    """Train ``jobs``, pairs of number and job, into ``store``, and return the failed ones.

    A failed job does not stop the others. ``on_step`` is called from several threads. Raises FourshotError if a process
    ends without a result, for example because the disk is full. The other processes are then ended, too. Their jobs
    continue from their checkpoints when the command is repeated.
    """
    waiting, failed = deque(_longest_first(jobs)), list[FailedJob]()
    children: list[ChildProcess] = []

    def work(place: int) -> None:
        environment = child_environment(TRAIN_SPINS) | {"OMP_NUM_THREADS": str(among.threads)}
        if among.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = among.gpus[place % len(among.gpus)]
        with ChildProcess("fourshot.training.jobs.at_once", log, environment=environment, imports=IMPORTS) as child:
            children.append(child)
            child.send(WorkerSetup(model=model, store=str(store)))
            while (numbered_job := _next_job(waiting)) is not None:
                number, job = numbered_job
                child.send(job)
                if failure := _follow_job(child, job, partial(on_step, number)):
                    failed.append(failure)

    with ThreadPoolExecutor(among.at_once) as pool:
        futures = [pool.submit(work, place) for place in range(min(among.at_once, len(jobs)))]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            waiting.clear()
            for child in children:
                child.end()
            raise
    return failed


def _longest_first(jobs: Sequence[tuple[int, TrainingJob]]) -> list[tuple[int, TrainingJob]]:
    """Sort jobs by planned steps, descending: a long job at the end would leave the other processes idle."""

    def steps(numbered_job: tuple[int, TrainingJob]) -> int:
        job = numbered_job[1]
        return job.settings.planned_steps(len(job.examples), len(job.labels))

    return sorted(jobs, key=steps, reverse=True)


def _next_job(waiting: "deque[tuple[int, TrainingJob]]") -> tuple[int, TrainingJob] | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _follow_job(child: ChildProcess, job: TrainingJob, on_step: OnStep) -> FailedJob | None:
    """Report the steps of ``job`` until it ends; return its failure, or None if it succeeded.

    Raises the child's error if the process ends without a result.
    """
    for message in child.messages(StepDone | JobDone | JobFailed):
        if isinstance(message, JobFailed):
            return FailedJob(key=job.key, kind=message.kind, message=message.message)
        if isinstance(message, JobDone):
            on_step(message.steps, message.steps, message.loss)  # training may have stopped before the planned step
            return None
        on_step(message.step, message.planned, message.loss)
    raise child.error(f"The process that trained {job.name}")


def work(parent: ParentLink) -> None:
    """Run in each worker process: train the jobs that ``parent`` sends; the base model is loaded once for all."""
    hired = parent.receive(WorkerSetup)
    trainer = None

    def on_step(step: int, planned: int, loss: float) -> None:
        parent.send(StepDone(step=step, planned=planned, loss=loss))

    for job in parent.messages(TrainingJob):
        try:
            if trainer is None:
                from fourshot.training.lora.train import LoraTrainer

                trainer = LoraTrainer(hired.model)
            result = do_job(trainer, job, Path(hired.store), on_step)
            parent.send(JobDone(steps=result.steps, loss=result.losses[-1]))
        except FourshotError as error:
            parent.send(JobFailed(kind=type(error).__name__, message=str(error)))


if __name__ == "__main__":
    end_process(run_child(work))
