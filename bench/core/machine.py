"""What this machine can do at best: the two numbers that a roofline is made of.

    python -m fourshot.bench.core.machine --model FOLDER

Run in a process of its own, before and after a suite: if the two differ, the machine changed under the measurement.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

SECONDS = 1.5  # per number
BYTES = 1 << 29


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The roof."""

    flops: float  # bf16 operations per second of large matrix products, the highest of several shapes
    bytes_per_s: float  # read by all cores together from memory, or by the GPU from its own


def measure(model: str) -> Machine:
    """Measure here, with as many threads as an engine takes."""
    import torch

    from fourshot.bench.core.model_shape import shape_of
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


def measured(model: str) -> Machine:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "fourshot.bench.core.machine", "--model", model]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=Machine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder; the embedded model if left out")
    options = parser.parse_args()
    from fourshot.engine.models import resolve_model

    model = options.model or resolve_model(None).path
    if not Path(model, "config.json").is_file():
        parser.error(f"{model} has no config.json")
    print(json.dumps(msgspec.to_builtins(measure(model))))


if __name__ == "__main__":
    main()
