"""Replacements for code that vLLM leaves to torch.compile on the CPU, for engines that are not compiled.

These are engines with adapters, and engines that are open only for a short time. Importing this module loads neither
vllm nor torch.

Replaces: ``RMSNorm.forward_cpu``, which without compiling is eight torch operations, each a pass over memory. vLLM's
CPU build contains a single kernel for it, but uses it on GPUs only. The kernel rounds once, the eight operations three
times. It also replaces ``batched_count_greater_than``, which ranks tokens. torch compiles that function at the first
step, which takes two seconds per engine, and ten if nothing is cached. docs/engine.md has the measurements.
"""

from functools import wraps
from typing import TYPE_CHECKING, Any

from fourshot.engine.vllm_seams.contract import Seam

if TYPE_CHECKING:
    import torch

FEW_ROWS = 8  # rows whose tables over the vocabulary fit into the processor's cache
LANES = 16  # maximum numbers per vector in the kernel; a width that is not a multiple is left to vLLM

_NORM = "vllm.model_executor.layers.layernorm:RMSNorm"
SEAM = Seam(
    name="normalisation and ranks that are not compiled",
    written_for=("0.32",),
    relies_on=(
        f"{_NORM}.forward_cpu",
        f"{_NORM}.forward_native(self, x, residual)",
        f"{_NORM}.__init__ sets variance_epsilon",
        f"{_NORM}.__init__ sets variance_size_override",
        "vllm.v1.sample.sampler:batched_count_greater_than",
    ),
    without=(
        "Engines on the CPU start two seconds later, and the operations that would not be compiled take 4 to 12 % "
        "longer."
    ),
)


def apply() -> None:
    """Apply the replacements to engines opened from now on in this process. Idempotent.

    Does nothing except on the CPU build, or if `SEAM` does not hold.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or not SEAM.holds():
        return
    import torch
    from vllm.model_executor.layers.layernorm import RMSNorm
    from vllm.v1.sample import sampler

    current_platform.import_kernels()
    sampler.batched_count_greater_than = ranks
    has_kernels = hasattr(torch.ops._C, "rms_norm") and hasattr(torch.ops._C, "fused_add_rms_norm")
    if has_kernels and not hasattr(RMSNorm.forward_cpu, "__wrapped__"):
        RMSNorm.forward_cpu = _with_kernels(RMSNorm.forward_cpu)


def _with_kernels(forward_cpu: Any) -> Any:
    import torch

    kernels = torch.ops._C

    @wraps(forward_cpu)
    def normalise(norm: Any, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        weight = norm.weight
        if (
            norm.variance_size_override is not None
            or weight.dtype != x.dtype
            or x.shape[-1] % LANES
            or not x.is_contiguous()
            or not (residual is None or (residual.is_contiguous() and residual.dtype == x.dtype))
        ):
            return forward_cpu(norm, x, residual)
        if residual is None:
            out = torch.empty_like(x)
            kernels.rms_norm(out, x, weight.data, norm.variance_epsilon)
            return out
        kernels.fused_add_rms_norm(x, residual, weight.data, norm.variance_epsilon)  # both in place, as on a GPU
        return x, residual

    return normalise


def ranks(logits: "torch.Tensor", values: "torch.Tensor") -> "torch.Tensor":
    """Count how many of each row's ``logits`` [rows, vocabulary] are at least its value [rows, 1]: int64 [rows]."""
    import torch

    pairs = zip(logits.split(FEW_ROWS), values.split(FEW_ROWS), strict=True)
    return torch.cat([(rows >= own).sum(-1) for rows, own in pairs])
