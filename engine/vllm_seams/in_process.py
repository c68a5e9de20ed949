"""vLLM in our own process: all cores compute, and its end leaves the process as it was.

Relies on: ``torch.set_num_threads`` as vLLM's CPU worker replaces it (with a function that does nothing), and
``cleanup_dist_env_and_memory``, which vLLM's own tests call. Left out, what follows an engine in the same process has
the threads it had, and the memory of its process groups is not given back.
"""

import gc
from typing import Any

from fourshot.engine.threads import available_cores
from fourshot.engine.vllm_seams.contract import Seam

SEAM = Seam(
    name="giving back what an engine took",
    relies_on=("vllm.distributed.parallel_state:cleanup_dist_env_and_memory(shutdown_ray)",),
    without="Memory of an engine that was closed may stay taken until the process ends.",
)
_set_num_threads: dict[str, Any] = {}  # torch's own function, while a vLLM engine has it replaced


def compute_on_all_cores() -> None:
    """Before an engine is opened on the CPU: vLLM's own start in a process of its own idles one core."""
    import torch

    _set_num_threads.setdefault("torch", torch.set_num_threads)
    torch.set_num_threads(available_cores())


def leave_as_it_was() -> None:
    """After an engine's shutdown, once nothing refers to it any more."""
    import torch

    # vLLM forbids it for the rest of the process; a trainer that follows here needs it.
    torch.set_num_threads = _set_num_threads.pop("torch", torch.set_num_threads)
    if SEAM.holds():
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()
    gc.collect()
