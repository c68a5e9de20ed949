"""How much memory is available, for training, serving and the doctor."""

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: str = "cpu") -> int:
    """Return the bytes that this process and its children can still allocate on ``device``, "cpu" or "cuda"."""
    if device == "cpu":
        return min(int(psutil.virtual_memory().available), _left_in_cgroup())
    import torch

    # torch keeps the memory of deleted tensors for new ones, and the driver counts it as used.
    reserved = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0] + reserved)


def _left_in_cgroup() -> int:
    """Return the bytes left under a container's memory limit; 1 << 62 without a limit.

    Inactive cached files count as free, because the kernel drops them first.

    Source: Kubernetes, node-pressure eviction: working set = memory.current - inactive_file.
    """
    unlimited = 1 << 62
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        if not limit.isdigit():
            return unlimited
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        lines = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    except (OSError, ValueError):
        return unlimited  # not Linux, or no container
    return max(0, int(limit) - used + cached)
