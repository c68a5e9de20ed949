"""One training over several GPUs, or processes: each batch is dealt out, and the gradients are added up.

For a base or a data set that one device is too slow for. Every process holds the base and the same adapter weights; the
first one tells and saves. The result is that of one process but for the order in which sums are rounded.

    python -m torch.distributed.run --nproc_per_node N -m fourshot.training.lora.data_parallel MODEL JOB STORE

is what `do_job_over_processes` starts; accelerate finds out who is who, and which device is whose.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import msgspec

from fourshot.engine import errors
from fourshot.engine.errors import FourshotError
from fourshot.training.jobs.jobs import FailedJob, OnStep, TrainingJob, do_job, finished
from fourshot.training.lora.examples import TrainingResult

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of each batch is this process's."""

    rank: int = 0
    world: int = 1

    def of(self, batch: Sequence[T]) -> Sequence[T]:
        return batch[self.rank :: self.world]

    def add_up(self, tensors: "Sequence[torch.Tensor]", numbers: Sequence[float]) -> list[float]:
        """Sum float32 ``tensors`` over all processes, in place, and return the summed ``numbers``."""
        if self.world == 1:
            return list(numbers)
        import torch
        from accelerate.utils import reduce

        device = tensors[0].device
        parts = [*(tensor.flatten() for tensor in tensors), torch.tensor(numbers, dtype=torch.float32, device=device)]
        summed = reduce(torch.cat(parts), reduction="sum")
        *whole, said = summed.split([part.numel() for part in parts])
        for tensor, total in zip(tensors, whole, strict=True):
            tensor.copy_(total.view_as(tensor))
        return [float(number) for number in said]


ALL = Share()


def do_job_over_processes(
    model: str, job: TrainingJob, store: Path, processes: int, on_step: OnStep | None = None
) -> TrainingResult:
    """Train ``job`` into ``store`` with one process per GPU, or per equal part of the cores. Raises what it raised."""
    from fourshot.engine.threads import TRAIN_SPINS, available_cores, waiting_briefly

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.json"
        file.write_bytes(msgspec.json.encode(job))
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, *launch, "-m", "fourshot.training.lora.data_parallel", model, str(file), str(store)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // processes)))
        log = Path(folder) / "log"
        with (
            log.open("wb") as log_file,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log_file, env=waiting_briefly(environment, TRAIN_SPINS)
            ) as child,
        ):
            assert child.stdout
            try:
                failure = _listen(child.stdout, on_step)
            except BaseException:
                child.terminate()
                raise
        result = finished(store, job)
        if result is None:
            raise _error(failure, log.read_text(errors="replace"))
        return result


def _listen(lines: IO[bytes], on_step: OnStep | None) -> FailedJob | None:
    failure: FailedJob | None = None
    for line in lines:
        if not line.startswith(b"{"):
            continue  # a library's
        said = msgspec.json.decode(line)
        if said.get("type") == "step":
            if on_step:
                on_step(said["step"], said["planned"], said["loss"])
        else:
            failure = msgspec.convert(said, FailedJob)
    return failure


def _error(failure: FailedJob | None, log: str) -> FourshotError:
    if failure is None:
        tail = "\n".join(log.splitlines()[-15:])
        return FourshotError(f"The processes of a training ended without a result. The end of their log:\n{tail}")
    kind = getattr(errors, failure.kind, FourshotError)
    return kind(failure.message) if issubclass(kind, FourshotError) else FourshotError(failure.message)


def main() -> int:
    """One of the processes."""
    import torch
    from accelerate import PartialState

    from fourshot.training.lora.train import LoraTrainer

    model, file, store = sys.argv[1:4]
    state = PartialState(cpu=not torch.cuda.is_available())
    job = msgspec.json.decode(Path(file).read_bytes(), type=TrainingJob)

    def tell(line: object) -> None:
        if state.is_main_process:
            os.write(1, msgspec.json.encode(line) + b"\n")

    def on_step(step: int, planned: int, loss: float) -> None:
        tell({"type": "step", "step": step, "planned": planned, "loss": loss})

    try:
        trainer = LoraTrainer(model, share=Share(rank=state.process_index, world=state.num_processes))
        do_job(trainer, job, Path(store), on_step)
    except FourshotError as error:
        tell(FailedJob(key=job.key, kind=type(error).__name__, message=str(error)))
        return error.exit_code
    finally:
        state.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
