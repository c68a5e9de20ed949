"""What this machine can do at best, and the time that a request cannot be faster than there.

Saturated: the operations of its computed tokens at the highest rate of matrix products, plus what a request without a
text costs in a full batch. Alone: the longer of its operations and one reading of the weights, plus what a request
without a text costs beyond that reading. Caching is in the computed tokens: those that the cache answered are not.
"""

import time
from collections.abc import Callable
from functools import partial

import msgspec

from fourshot.bench.core.model_shape import ModelShape, shape_of

SECONDS = 1.5  # per number
BYTES = 1 << 29


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The roof."""

    flops: float  # bf16 operations per second of large matrix products, the highest of several shapes
    bytes_per_s: float  # read by all cores together from memory, or by the GPU from its own


def measure_machine(model: str) -> Machine:
    """With as many threads as an engine takes. Done before and after a suite: a machine may change meanwhile."""
    import torch

    from fourshot.engine.threads import available_cores

    torch.set_num_threads(available_cores())
    shape = shape_of(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def rate(work: float, run: Callable[[], object]) -> float:
        best, began = 0.0, time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            started = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, work / (time.perf_counter() - started))
        return best

    rates = []
    for rows, width, out in (
        (2048, shape.hidden_size, 2 * shape.intermediate_size),
        (1024, shape.intermediate_size, shape.hidden_size),
        (2048, 2048, 2048),
    ):
        x = torch.randn(rows, width, dtype=torch.bfloat16, device=device)
        weights = torch.randn(out, width, dtype=torch.bfloat16, device=device)
        rates.append(rate(2 * rows * width * out, partial(torch.nn.functional.linear, x, weights)))
    much = torch.zeros(BYTES // 4, dtype=torch.float32, device=device)
    return Machine(flops=max(rates), bytes_per_s=rate(BYTES, lambda: much.sum()))


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
