"""The mended LoRA arithmetic of vLLM's CPU build, against the sum written out row by row."""

import pytest
import torch

vllm = pytest.importorskip("vllm")
from vllm.platforms import current_platform  # noqa: E402

from fourshot.engine.vllm_seams import lora_kernels  # noqa: E402

if not current_platform.is_cpu():
    pytest.skip("mends the CPU build only", allow_module_level=True)

from vllm.lora.layers import LoRAMapping  # noqa: E402
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU  # noqa: E402

from fourshot.engine.vllm_seams import grouped_lora, lora_loads  # noqa: E402
from fourshot.engine.vllm_seams.grouped_lora import GroupedPunicaWrapper, Stacked, stretches  # noqa: E402
from fourshot.serving.models.slots import CPU_SLOT_COPIES  # noqa: E402

SLOTS, RANK, WIDTH = 3, 8, 32
OUT = (16, 24)


def run(wrapper_class: type[PunicaWrapperCPU], adapters: list[int], prefill: bool) -> torch.Tensor:
    """The largest error of each row, [num_rows], for rows with these adapter ids; 0 is none."""
    torch.manual_seed(0)
    x = torch.randn(len(adapters), WIDTH)
    a = tuple(torch.randn(SLOTS, 1, RANK, WIDTH) for _ in OUT)
    b = tuple(torch.randn(SLOTS, 1, out, RANK) for out in OUT)
    wrapper = wrapper_class(64, 64, device="cpu", max_loras=SLOTS)
    mapping = LoRAMapping(index_mapping=tuple(adapters), prompt_mapping=tuple(adapters), is_prefill=prefill)
    wrapper.update_metadata(mapping, [1, 2, 3], SLOTS, 100)
    y = torch.zeros(len(adapters), sum(OUT))
    wrapper.add_lora_linear(y, x, a, b, 0.5, OUT)
    for row, adapter in enumerate(adapters):
        expected = torch.zeros(sum(OUT))
        if adapter:
            expected = torch.cat([0.5 * x[row] @ a[i][adapter - 1, 0].T @ b[i][adapter - 1, 0].T for i in range(2)])
        y[row] -= expected
    return y.abs().amax(dim=1)


@pytest.mark.parametrize("prefill", [True, False])
@pytest.mark.parametrize("adapters", [[1, 1, 1], [0, 0, 0], [1, 1, 0, 0, 3, 3], [0, 2, 1, 0, 2, 3, 0], [0]])
def test_every_row_gets_its_own_adapter_and_base_rows_none(adapters: list[int], prefill: bool) -> None:
    assert run(GroupedPunicaWrapper, adapters, prefill).max() < 1e-4


@pytest.mark.skipif(not lora_kernels.base_rows_get_an_adapter(), reason="this vLLM has it right")
def test_without_the_plugin_base_rows_get_an_adapter() -> None:
    errors = run(PunicaWrapperCPU, [0, 2, 1], prefill=False)
    assert errors[0] > 1.0
    assert errors[1:].max() < 1e-4


def test_stretches_are_rows_of_one_adapter_that_lie_together() -> None:
    parts = stretches(torch.tensor([2, 2, -1, 0, 1, 0]))
    assert parts == [(2, slice(0, 2)), (0, slice(3, 4)), (1, slice(4, 5)), (0, slice(5, 6))]
    assert stretches(torch.tensor([-1, -1])) == [] == stretches(torch.tensor([], dtype=torch.long))


@pytest.mark.parametrize("long_rows", [1, 1000])
def test_both_ways_to_multiply_give_the_same(monkeypatch: pytest.MonkeyPatch, long_rows: int) -> None:
    monkeypatch.setattr(grouped_lora, "LONG_ROWS", long_rows)
    adapters = [1, 1, 1, 0, 2, 2, 3, 0, 0, 1, 3, 3]
    assert run(GroupedPunicaWrapper, adapters, prefill=True).max() < 1e-4


def test_the_switch_takes_the_plugin_out(monkeypatch: pytest.MonkeyPatch) -> None:
    before = current_platform.get_punica_wrapper()
    try:
        assert lora_kernels.apply(enabled=True)
        assert current_platform.get_punica_wrapper() == lora_kernels.WRAPPER
        monkeypatch.setenv(lora_kernels.SWITCH, "0")
        assert not lora_kernels.apply(enabled=True)
        assert current_platform.get_punica_wrapper() != lora_kernels.WRAPPER
        monkeypatch.delenv(lora_kernels.SWITCH)
        assert not lora_kernels.apply(enabled=False)
    finally:
        lora_kernels.apply(enabled=before == lora_kernels.WRAPPER)


def layer(width: int = WIDTH) -> tuple[Stacked, Stacked]:
    """Stacked weights of a layer with two slices, random."""
    a = tuple(torch.randn(SLOTS, 1, RANK, width) for _ in OUT)
    return a, tuple(torch.randn(SLOTS, 1, out, RANK) for out in OUT)


def error_of(wrapper: GroupedPunicaWrapper, adapters: list[int], a: Stacked, b: Stacked) -> float:
    """The largest error of a step whose rows have these adapters."""
    mapping = LoRAMapping(index_mapping=tuple(adapters), prompt_mapping=tuple(adapters), is_prefill=True)
    wrapper.update_metadata(mapping, [1, 2, 3], SLOTS, 100)
    x, y = torch.randn(len(adapters), a[0].shape[-1]), torch.zeros(len(adapters), sum(OUT))
    wrapper.add_lora_linear(y, x, a, b, 0.5, OUT)
    for row, slot in enumerate(number - 1 for number in adapters):
        y[row] -= torch.cat([0.5 * x[row] @ down[slot, 0].T @ up[slot, 0].T for down, up in zip(a, b, strict=True)])
    return float(y.abs().max())


MIXED, ALONE, TWO_SLOTS_OF_THREE = [1, 2, 3, 1], [1, 1], [2, 1]


def test_a_layer_is_another_than_one_that_lay_in_its_place_before() -> None:
    """The weights of a layer move when they are first multiplied alone, and their place becomes free."""
    wrapper = GroupedPunicaWrapper(64, 64, device="cpu", max_loras=SLOTS)
    (first_a, first_b), (a, b) = layer(), layer()
    place = first_a[0].untyped_storage()
    assert error_of(wrapper, MIXED, first_a, first_b) < 1e-4
    assert error_of(wrapper, ALONE, first_a, first_b) < 1e-4
    assert first_a[0].data_ptr() != place.data_ptr()
    content = a[0].clone()
    a[0].set_(place, 0, content.shape, content.stride())
    a[0].copy_(content)
    assert error_of(wrapper, MIXED, a, b) < 1e-4
    assert error_of(wrapper, MIXED, first_a, first_b) < 1e-4
    assert error_of(wrapper, ALONE, a, b) < 1e-4


@pytest.mark.parametrize("adapters", [MIXED, ALONE, TWO_SLOTS_OF_THREE, [1, 3, 1], [2, 3]])
def test_a_slot_that_gets_other_weights_is_multiplied_with_those(
    adapters: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [0, 0, 0]
    monkeypatch.setattr(lora_loads, "slot_versions", lambda slots: versions[:slots])
    wrapper, (a, b) = GroupedPunicaWrapper(64, 64, device="cpu", max_loras=SLOTS), layer()
    for slot in range(SLOTS):
        assert error_of(wrapper, adapters, a, b) < 1e-4
        for tensor in (*a, *b):
            tensor[slot].normal_()
        versions[slot] += 1
    assert error_of(wrapper, adapters, a, b) < 1e-4


def test_only_a_slot_with_other_weights_is_copied_again() -> None:
    a, b = layer()
    arranged = grouped_lora.ArrangedLayer(a, b)
    before = [part.clone() for part in arranged.of((0, 1, 2), [0, 0, 0])[1]]
    for up in b:
        up.zero_()
    ranks = slice(RANK, 2 * RANK)  # of slot 1
    for part, first in zip(arranged.of((0, 1, 2), [0, 1, 0])[1], before, strict=True):
        assert not part[ranks].any()
        first[ranks] = 0
        assert torch.equal(part, first)


def test_what_is_made_of_a_layer_is_made_once() -> None:
    layers = grouped_lora.ByLayer(grouped_lora.GroupedLayer)
    weights = [layer(width) for width in (64, 96)]
    before = [layers.of(*of_layer) for of_layer in weights]
    assert [layers.of(*of_layer) for of_layer in weights] == before


def test_what_is_kept_of_a_slot_is_no_more_than_a_service_counts_for_it() -> None:
    """On the shapes of SmolLM2-135M: inputs and outputs of the products of one of its decoder layers."""
    shapes = [(576, (576, 192, 192)), (576, (576,)), (576, (1536, 1536)), (1536, (576,))]
    weights, alive = 0, []
    storages: dict[int, int] = {}  # bytes of each, by where it lies
    for width, outs in shapes:
        a = tuple(torch.zeros(SLOTS, 1, RANK, width) for _ in outs)
        b = tuple(torch.zeros(SLOTS, 1, out, RANK) for out in outs)
        weights += sum(tensor.nbytes for tensor in (*a, *b))
        grouped, arranged = grouped_lora.GroupedLayer(a, b), grouped_lora.ArrangedLayer(a, b)
        kept = [*a, *b, *(part for slot in grouped.slots for part in slot)]
        for active in ((0, 1, 2), (1,)):
            downs, ups = arranged.of(active, [0] * SLOTS)
            kept += [downs, *ups]
        storages |= {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
        alive.append(kept)  # or another would come to lie in its place
    assert 2.5 * weights < sum(storages.values()) <= CPU_SLOT_COPIES * weights
