"""How OpenMP's threads wait for each other.

They spin. Where their cores have other work too, one thread is put aside while the other burns its share waiting for
it, and a training or an engine gets ten times slower. A short spin costs little where nobody else is there
(docs/training.md).
"""

from collections.abc import Mapping

# Of GNU OpenMP, whose own default is 300,000.
TRAIN_SPINS = "2000"
ENGINE_SPINS = "5000"  # sampling has more and shorter pauses: at 2,000 it is a sixth slower


def waiting_briefly(environment: Mapping[str, str], spins: str) -> dict[str, str]:
    """``environment`` for a process that computes; what the user has set about waiting stays."""
    if environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        return dict(environment)
    return {**environment, "GOMP_SPINCOUNT": spins}
