"""How many threads compute, and how long they spin while waiting for each other.

OpenMP threads spin while they wait. If other work shares their cores, one thread is preempted while another spends its
time slice waiting for it, and a training or an engine becomes ten times slower. A short spin time costs little on
otherwise idle cores (docs/training.md).
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

# Of a container: the microseconds that it may compute in each period. Source: Linux, cgroup v2, cpu.max.
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
# GOMP_SPINCOUNT of GNU OpenMP, whose default is 300,000.
TRAIN_SPINS = "2000"
ENGINE_SPINS = "5000"  # sampling has more and shorter pauses: at 2,000 it is a sixth slower


def available_cores() -> int:
    """Return the number of cores this process may use: OMP_NUM_THREADS if above 0, else its CPU affinity.

    Without OMP_NUM_THREADS, these are no more than the CPU limit of its container.
    """
    return wanted_cores() or limited_cores() or _num_allowed()


def limited_cores() -> int:
    """Return the CPU limit of this process's container, rounded up; 0 without a limit below the CPU affinity."""
    try:
        quota, period = map(int, CPU_LIMIT.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no container, or no limit ("max")
        return 0
    cores = max(1, math.ceil(quota / period))
    return cores if cores < _num_allowed() else 0


def _num_allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wanted_cores() -> int:
    """Return OMP_NUM_THREADS; 0 if it is unset or not a number."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdecimal() else 0


def waiting_briefly(environment: Mapping[str, str], spins: str) -> dict[str, str]:
    """Return ``environment`` for a process that computes, with this spin count unless the user has set one."""
    if environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        return dict(environment)
    return {**environment, "GOMP_SPINCOUNT": spins}
