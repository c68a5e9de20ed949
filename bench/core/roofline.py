"""The time that a request cannot be faster than, on a machine whose rates were measured, with a model of known shape.

Saturated: the operations of its computed tokens at the highest rate of matrix products, plus what a request without a
text costs in a full batch. Alone: the longer of its operations and one reading of the weights, plus what a request
without a text costs beyond that reading. Caching is in the computed tokens: those that the cache answered are not.
"""

import msgspec

from fourshot.bench.core.machine import Machine
from fourshot.bench.core.model_shape import ModelShape


class Roof(msgspec.Struct, frozen=True, kw_only=True):
    """Machine, model, and the measured cost of a request without a text."""

    machine: Machine
    shape: ModelShape
    floor_alone_s: float
    floor_saturated_s: float

    def saturated_s(self, tokens: float, cached: float) -> float:
        """Least seconds per request where many are served together."""
        return self.shape.prompt_flops(tokens, cached) / self.machine.flops + self.floor_saturated_s

    def alone_s(self, tokens: float, cached: float) -> float:
        """Least seconds of a request that is served alone."""
        reading = self.shape.weight_bytes / self.machine.bytes_per_s
        computing = self.shape.prompt_flops(tokens, cached) / self.machine.flops
        return max(reading, computing) + max(0.0, self.floor_alone_s - reading)
