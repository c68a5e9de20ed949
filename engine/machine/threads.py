"""How many threads compute, and how they wait for each other.

OpenMP's threads spin. Where their cores have other work too, one thread is put aside while the other burns its share
waiting for it, and a training or an engine gets ten times slower. A short spin costs little where nobody else is there
(docs/training.md).
"""

import os
from collections.abc import Mapping

# Of GNU OpenMP, whose own default is 300,000.
TRAIN_SPINS = "2000"
ENGINE_SPINS = "5000"  # sampling has more and shorter pauses: at 2,000 it is a sixth slower


def available_cores() -> int:
    """Cores this process may use: OMP_NUM_THREADS if it is a number above 0, else its CPU affinity."""
    if cores := wanted_cores():
        return cores
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wanted_cores() -> int:
    """What OMP_NUM_THREADS says; 0 where it says nothing, or no number of threads."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdecimal() else 0


def waiting_briefly(environment: Mapping[str, str], spins: str) -> dict[str, str]:
    """``environment`` for a process that computes; what the user has set about waiting stays."""
    if environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        return dict(environment)
    return {**environment, "GOMP_SPINCOUNT": spins}
