"""GPUs of this machine, asked of the driver: no CUDA context is made, and torch is not loaded."""

import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fourshot.engine.errors import FourshotError

MIB = 1 << 20


def gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """GPUs that vLLM may use here, as CUDA_VISIBLE_DEVICES names them; none for the CPU build of vLLM."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return []
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(index) for index, _ in enumerate(devices.glob("nvidia[0-9]*"))]
    return [name.strip() for name in named.split(",") if name.strip()]


def free_gpu_bytes(names: list[str]) -> int:
    """Memory that is free on the fullest of the GPUs ``names``. Raises FourshotError where the driver does not say."""
    query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", f"--id={','.join(names)}"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        return min(int(line) for line in answer.stdout.split()) * MIB
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise FourshotError(
            f"nvidia-smi does not say how much memory is free on GPU {', '.join(names)}: {error}. Check the driver, "
            "and CUDA_VISIBLE_DEVICES."
        ) from error
