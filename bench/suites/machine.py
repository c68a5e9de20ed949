"""The two numbers that a roofline is made of: what this machine computes and reads per second at best.

    fourshot bench machine

Printed as JSON. Run it before and after a measurement: if the two differ, the machine changed under it.
"""

import msgspec

from fourshot.bench.core.options import Model
from fourshot.bench.core.roofline import measure_machine
from fourshot.bench.core.suite import SuiteCommand


class Options(msgspec.Struct, frozen=True, kw_only=True):
    model: Model = None  # whose layers say how large the products are


def print_machine(options: Options) -> int:
    """Measure here, for some six seconds, and print."""
    from fourshot.engine.checkpoints.models import resolve_model

    print(msgspec.json.encode(measure_machine(resolve_model(options.model).path)).decode())
    return 0


SUITE = SuiteCommand(options=Options, command=print_machine)
