"""Data-parallel training of one job on several GPUs, or processes, of this machine.

Used if one GPU is too slow for the base model or the dataset. `do_job_over_processes` starts

    python -m torch.distributed.run --nproc_per_node N -m fourshot.training.jobs.processes MODEL JOB STORE

and accelerate assigns ranks and devices to the processes.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.processes import ChildProcess, ParentLink, child_environment, end_process, run_child
from fourshot.engine.machine.threads import TRAIN_SPINS, available_cores
from fourshot.training.jobs.jobs import TrainingJob, do_job, finished
from fourshot.training.lora.examples import OnStep, TrainingResult
from fourshot.training.lora.share import BatchShare

if TYPE_CHECKING:
    from fourshot.training.lora.train import LoraTrainer


class StepDone(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """Message from the first process after every step."""

    step: int
    planned: int
    loss: float


def training(model: str, store: Path, processes: int) -> Callable[[TrainingJob, OnStep], TrainingResult]:
    """Return a function that trains one job into ``store``, with ``processes`` processes.

    If ``processes`` is 1, it trains in this process, and loads the base model with the first job.
    """

    @cache
    def open_trainer() -> "LoraTrainer":
        from fourshot.training.lora.train import LoraTrainer

        return LoraTrainer(model)

    def train(job: TrainingJob, on_step: OnStep) -> TrainingResult:
        if processes > 1:
            return do_job_over_processes(model, job, store, processes, on_step)
        return do_job(open_trainer(), job, store, on_step)

    return train


def do_job_over_processes(
    model: str, job: TrainingJob, store: Path, processes: int, on_step: OnStep | None = None
) -> TrainingResult:
    """Train ``job`` into ``store`` with one process per GPU, or per equal share of the cores.

    Raises the error of the processes if they report one, and FourshotError if they end without a result.
    """
    environment = child_environment(TRAIN_SPINS)
    environment["PYTHONSAFEPATH"] = "1"  # torchrun starts its processes without `-P`
    environment["OMP_NUM_THREADS"] = str(max(1, available_cores() // processes))  # Ray has set it to all of the job's
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.json"
        file.write_bytes(msgspec.json.encode(job))
        launch = ["--standalone", "--nproc_per_node", str(processes), "-m", "fourshot.training.jobs.processes"]
        arguments = [*launch, model, str(file), str(store)]
        log = Path(folder) / "log"
        with ChildProcess("torch.distributed.run", log, *arguments, environment=environment) as child:
            for done in child.messages(StepDone):
                if on_step:
                    on_step(done.step, done.planned, done.loss)
        if result := finished(store, job):
            return result
        if child.failure:
            raise child.failure.error()
        raise FourshotError(
            f"The processes of a training ended without a result. The end of their log:\n{child.log_tail()}"
        )


def work(parent: ParentLink) -> None:
    """Run in each of the processes: train on this process's share of every batch."""
    import torch
    from accelerate import PartialState

    from fourshot.training.lora.train import LoraTrainer

    model, file, store = sys.argv[1:4]
    state = PartialState(cpu=not torch.cuda.is_available())
    share = BatchShare(rank=state.process_index, world=state.num_processes)
    job = msgspec.json.decode(Path(file).read_bytes(), type=TrainingJob)

    def on_step(step: int, planned: int, loss: float) -> None:
        if share.is_main:
            parent.send(StepDone(step=step, planned=planned, loss=loss))

    try:
        do_job(LoraTrainer(model, share=share), job, Path(store), on_step)
    finally:
        state.destroy_process_group()


if __name__ == "__main__":
    end_process(run_child(work, launched=True))
