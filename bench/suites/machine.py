"""The two peak rates of a roofline: operations and bytes read per second on this machine.

    fourshot bench machine

They are printed as JSON. Run it before and after a measurement. If the two differ, the machine changed meanwhile.
"""

import msgspec

from fourshot.bench.core.options import Model
from fourshot.bench.core.roofline import measure_machine
from fourshot.bench.core.suite import SuiteCommand


class Options(msgspec.Struct, frozen=True, kw_only=True):
    model: Model = None  # its sizes determine the sizes of the products


def print_machine(options: Options) -> int:
    """Measure in this process, for about six seconds, and print. Return the exit code, 0."""
    from fourshot.engine.checkpoints.models import resolve_model

    print(msgspec.json.encode(measure_machine(resolve_model(options.model).path)).decode())
    return 0


SUITE = SuiteCommand(options=Options, command=print_machine)
