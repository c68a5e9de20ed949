"""One kernel normalises as vLLM's eight operations do, where it can; ranks are counted without compiling."""

import pytest
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.v1.sample import sampler

from fourshot.engine.vllm_seams import cpu_eager

LAST_PLACE = 2.0**-7  # the largest unit in the last place of bfloat16, relative to its number


def norm_of(width: int, dtype: torch.dtype = torch.bfloat16, part: int | None = None) -> RMSNorm:
    cpu_eager.apply()
    with set_current_vllm_config(VllmConfig()):
        norm = RMSNorm(width, 1e-5, var_hidden_size=part, dtype=dtype)
    norm.weight.data = torch.randn(width).to(dtype)
    return norm


def kernels_called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    called: list[str] = []
    original = torch._ops.OpOverloadPacket.__call__

    def call(packet: torch._ops.OpOverloadPacket, /, *args: object, **kwargs: object) -> object:
        called.append(str(packet))
        return original(packet, *args, **kwargs)

    monkeypatch.setattr(torch._ops.OpOverloadPacket, "__call__", call)
    return called


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_it_is_vllms_norm_and_the_residual_is_added_in_place(
    rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(rows)
    norm, called = norm_of(96, dtype), kernels_called(monkeypatch)
    x, residual = 3 * torch.randn(rows, 96).to(dtype), torch.randn(rows, 96).to(dtype)
    exact = torch.nn.functional.rms_norm(x.double(), (96,), norm.weight.double(), 1e-5)
    torch.testing.assert_close(norm.forward_cpu(x.clone()).double(), exact, rtol=LAST_PLACE, atol=1e-6)
    expected, expected_sum = norm.forward_native(x.clone(), residual.clone())
    given = residual.clone()
    normed, added = norm.forward_cpu(x.clone(), given)
    torch.testing.assert_close(normed, expected, rtol=2 * LAST_PLACE, atol=1e-6)
    assert torch.equal(added, expected_sum) and added.data_ptr() == given.data_ptr()
    assert {"_C.rms_norm", "_C.fused_add_rms_norm"} <= set(called)


def test_what_the_kernel_cannot_do_is_left_to_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(6, 64).bfloat16()
    heads = rows.view(6, 4, 16)
    cases = [
        (norm_of(96), torch.randn(5, 192).bfloat16()[:, :96]),  # rows that are not beside each other
        (norm_of(16), rows.split([48, 16], dim=-1)[1].view(6, 1, 16)),  # heads cut out of a product
        (norm_of(12), rows[:, :12].contiguous()),  # no whole vectors
        (norm_of(64, part=32), rows),
        (norm_of(64, torch.float32), rows),
    ]
    called = kernels_called(monkeypatch)
    for norm, x in cases:
        assert torch.equal(norm.forward_cpu(x), norm.forward_native(x))
    assert "_C.rms_norm" not in called
    normed = norm_of(16).forward_cpu(heads)
    assert normed.shape == heads.shape and "_C.rms_norm" in called


@pytest.mark.parametrize("rows", [1, cpu_eager.FEW_ROWS, 3 * cpu_eager.FEW_ROWS + 2])
def test_ranks_are_those_of_all_rows_at_once(rows: int) -> None:
    torch.manual_seed(rows)
    logits = torch.randn(rows, 96)
    values = logits[:, 1:2]
    cpu_eager.apply()
    assert torch.equal(sampler.batched_count_greater_than(logits, values), (logits >= values).sum(-1))
