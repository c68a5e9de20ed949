"""The GPUs of this machine, as reported by the driver.

No CUDA context is created, and only `torch_device` imports torch.
"""

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
NO_MEMORY = ("N/A", "Not Supported")  # of GPUs without memory of their own: GB10, Jetson
SPARED = 0.97  # of the free memory: the driver does not yet count the memory for a process's CUDA context


def gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """Return the GPUs that vLLM may use, as named in CUDA_VISIBLE_DEVICES; none for the CPU build of vLLM."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return []
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index, _ in enumerate(devices.glob("nvidia[0-9]*"))]
    return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]


def ask_driver(fields: str, names: Sequence[str] = ()) -> list[str]:
    """Return nvidia-smi's output for ``fields``: one line for each of the GPUs ``names``, or for all if empty.

    Raises OSError or subprocess.SubprocessError if there is no driver, or it does not answer.
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
    """Return the free bytes on the fullest of the GPUs ``names``. Raises FourshotError if they are unknown."""
    try:
        return min(_bytes_in(line, free_bytes()) for line in ask_driver("memory.free", names))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise FourshotError(
            f"nvidia-smi does not report the free memory of GPU {', '.join(names)}: {error}. Check the driver, and "
            "CUDA_VISIBLE_DEVICES."
        ) from error


def free_share(names: Sequence[str]) -> float:
    """Return the share of its GPUs' memory, 0 to 1, that an engine may use.

    It is nearly all that is free on the fullest of the GPUs ``names``; 1 if the driver does not report it.
    """
    own_free, own_total = free_bytes(), psutil.virtual_memory().total
    try:
        answers = [line.split(",") for line in ask_driver("memory.free,memory.total", names)]
        shares = [_bytes_in(free, own_free) / _bytes_in(total, own_total) for free, total in answers]
        return round(SPARED * min(shares), 3)
    except (OSError, ValueError, ZeroDivisionError, subprocess.SubprocessError):
        return 1.0


def _bytes_in(answer: str, of_machine: int) -> int:
    """Return the bytes of a size that the driver reports, such as "81920 MiB".

    ``of_machine`` is returned for a GPU without memory of its own, which uses the machine's. vLLM counts such memory
    in the same way (vllm/utils/mem_utils.py). Raises ValueError for other answers.
    """
    if answer.strip(" []") in NO_MEMORY:
        return of_machine
    return int(answer.replace("MiB", "")) * MIB


def are_shared(names: Sequence[str]) -> bool:
    """Whether several processes may use each of the GPUs ``names``; False if the driver does not report it.

    Source: nvidia-smi(1), compute mode: in "Exclusive_Process" a GPU has one process at a time.
    """
    try:
        return {line.strip() for line in ask_driver("compute_mode", names)} == {"Default"}
    except (OSError, subprocess.SubprocessError):
        return False


def check_gpus(number: int) -> None:
    """Raise InputError if an engine is to be split over ``number`` GPUs and fewer are available."""
    if number > 1 and number > len(names := gpus(os.environ)):
        raise InputError(
            f"{number} GPUs are to share one engine (--gpus-per-engine), but vLLM may use only {len(names)} here. "
            "Give at most that, check CUDA_VISIBLE_DEVICES, or leave the option out."
        )


def torch_device() -> Literal["cpu", "cuda"]:
    """Return the device on which torch computes.

    Raises FourshotError for a GPU that torch cannot use, because torch would silently compute on the CPU instead.
    """
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.version.cuda and gpus(os.environ):
        raise FourshotError(
            f"There is an NVIDIA GPU here, but torch {torch.__version__}, made for CUDA {torch.version.cuda}, cannot "
            "use it. Most often the driver is too old: `nvidia-smi` shows the CUDA version that it supports. Update "
            "it, or set CUDA_VISIBLE_DEVICES= (empty) to compute on the CPU."
        )
    return "cpu"
