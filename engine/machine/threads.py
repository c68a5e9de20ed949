"""How many threads compute, and how long they spin while waiting for each other.

OpenMP threads spin while they wait. If other work shares their cores, one thread is preempted while another spends its
time slice waiting for it, and a training or an engine becomes ten times slower. A short spin time costs little on
otherwise idle cores (docs/training.md).
"""

import os
from collections.abc import Mapping

# GOMP_SPINCOUNT of GNU OpenMP, whose default is 300,000.
TRAIN_SPINS = "2000"
ENGINE_SPINS = "5000"  # sampling has more and shorter pauses: at 2,000 it is a sixth slower


def available_cores() -> int:
    """Return the number of cores this process may use: OMP_NUM_THREADS if above 0, else its CPU affinity."""
    if cores := wanted_cores():
        return cores
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wanted_cores() -> int:
    """Return OMP_NUM_THREADS; 0 if it is unset or not a number."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdecimal() else 0


def waiting_briefly(environment: Mapping[str, str], spins: str) -> dict[str, str]:
    """Return ``environment`` for a process that computes, with this spin count unless the user has set one."""
    if environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        return dict(environment)
    return {**environment, "GOMP_SPINCOUNT": spins}
