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
from fourshot.engine.machine.gpus import torch_device
from fourshot.engine.machine.threads import available_cores

SECONDS = 1.5  # per number
BYTES = 1 << 29
GPU_CALLS = 20  # that are waited for together: a product may be shorter than its launch and the wait


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The roof."""

    flops: float  # bf16 operations per second of large matrix products, the highest of several shapes
    bytes_per_s: float  # read by all cores together from memory, or by the GPU from its own


def measure_machine(model: str) -> Machine:
    """With as many threads as an engine takes. Done before and after a suite: a machine may change meanwhile."""
    import torch

    torch.set_num_threads(available_cores())
    shape = shape_of(model)
    products = (
        (2048, shape.hidden_size, 2 * shape.intermediate_size),
        (1024, shape.intermediate_size, shape.hidden_size),
        (2048, 2048, 2048),
    )
    numbers = torch.zeros(BYTES // 4, dtype=torch.float32, device=torch_device())
    flops = max(product_rate(*product) for product in products)
    return Machine(flops=flops, bytes_per_s=fastest(BYTES, numbers.sum))


def product_rate(rows: int, width: int, out: int) -> float:
    """Operations per second of bf16 products [rows, width] x [width, out]."""
    import torch

    x, weights = (torch.randn(n, width, dtype=torch.bfloat16, device=torch_device()) for n in (rows, out))
    return fastest(2 * rows * width * out, partial(torch.nn.functional.linear, x, weights))


def fastest(work: float, run: Callable[[], object]) -> float:
    """The highest rate at which ``run`` does ``work``, per second."""
    import torch

    on_gpu = torch_device() == "cuda"
    calls = GPU_CALLS if on_gpu else 1
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        started = time.perf_counter()
        for _ in range(calls):
            run()
        if on_gpu:
            torch.cuda.synchronize()
        best = max(best, calls * work / (time.perf_counter() - started))
    return best


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
