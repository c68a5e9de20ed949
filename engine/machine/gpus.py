"""GPUs of this machine. The driver is asked: no CUDA context is made, and torch is loaded by `torch_device` alone."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.memory import free_bytes

MIB = 1 << 20
NO_MEMORY = ("N/A", "Not Supported")  # of its own: GB10, Jetson
SPARED = 0.97  # of what is free: the driver counts what a process's context takes only when there is one


def gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """GPUs that vLLM may use here, as CUDA_VISIBLE_DEVICES names them; none for the CPU build of vLLM."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return []
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index, _ in enumerate(devices.glob("nvidia[0-9]*"))]
    return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]


def ask_driver(fields: str, names: Sequence[str] = ()) -> list[str]:
    """What nvidia-smi says of ``fields``, a line for each of the GPUs ``names``; without names, of all.

    Raises OSError or subprocess.SubprocessError where there is no driver, or none that answers.
    """
    query = [
        "nvidia-smi",
        f"--query-gpu={fields}",
        "--format=csv,noheader",
        *([f"--id={','.join(names)}"] if names else []),
    ]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    return answer.stdout.strip().splitlines()


def free_gpu_bytes(names: list[str]) -> int:
    """Memory that is free on the fullest of the GPUs ``names``. Raises FourshotError where the driver does not say."""
    try:
        return min(_bytes_in(line, free_bytes()) for line in ask_driver("memory.free", names))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise FourshotError(
            f"nvidia-smi does not say how much memory is free on GPU {', '.join(names)}: {error}. Check the driver, "
            "and CUDA_VISIBLE_DEVICES."
        ) from error


def free_share(names: Sequence[str]) -> float:
    """Of the memory of the fullest of the GPUs ``names``, what an engine may take: nearly all that is free, 0 to 1.

    1 where the driver does not say.
    """
    own_free, own_total = free_bytes(), psutil.virtual_memory().total
    try:
        answers = [line.split(",") for line in ask_driver("memory.free,memory.total", names)]
        shares = [_bytes_in(free, own_free) / _bytes_in(total, own_total) for free, total in answers]
        return round(SPARED * min(shares), 3)
    except (OSError, ValueError, ZeroDivisionError, subprocess.SubprocessError):
        return 1.0


def _bytes_in(answer: str, of_machine: int) -> int:
    """A size that the driver tells, such as "81920 MiB"; ``of_machine`` for a GPU whose memory is the machine's.

    Raises ValueError for another answer. vLLM counts such a GPU's memory so, too (vllm/utils/mem_utils.py).
    """
    if answer.strip(" []") in NO_MEMORY:
        return of_machine
    return int(answer.replace("MiB", "")) * MIB


def are_shared(names: Sequence[str]) -> bool:
    """Whether several processes may use each of the GPUs ``names``; no where the driver does not say so.

    Source: nvidia-smi(1), compute mode: in "Exclusive_Process" a GPU has one process at a time.
    """
    try:
        return {line.strip() for line in ask_driver("compute_mode", names)} == {"Default"}
    except (OSError, subprocess.SubprocessError):
        return False


def check_gpus(number: int) -> None:
    """Raise InputError where there are fewer than the ``number`` GPUs that one engine is to be divided over."""
    if number > 1 and number > len(names := gpus(os.environ)):
        raise InputError(
            f"{number} GPUs are to share one engine (--gpus-per-engine), and there are {len(names)} here that vLLM may "
            "use. Give at most that, look at CUDA_VISIBLE_DEVICES, or leave the option out."
        )


def torch_device() -> Literal["cpu", "cuda"]:
    """Where torch computes.

    Raises FourshotError for a GPU that torch cannot use: the CPU would take its place, and nobody would be told.
    """
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.version.cuda and gpus(os.environ):
        raise FourshotError(
            f"There is an NVIDIA GPU here, and torch {torch.__version__}, made for CUDA {torch.version.cuda}, cannot "
            "use it. Most often the driver is too old: `nvidia-smi` names the CUDA version that it can do. Update it, "
            "or set CUDA_VISIBLE_DEVICES= (empty) to compute on the CPU."
        )
    return "cpu"
