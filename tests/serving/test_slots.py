"""What a server needs is computed from the adapters and the memory, and said before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest

from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import InputError
from fourshot.serving.models.registry import FolderContents, Registry, base_named
from fourshot.serving.models.slots import GIB, MIB, MOST_SLOTS, fit
from fourshot.serving.settings import ServeSettings
from fourshot.serving.testing.adapters import make_adapter, task_of

FREE = 16 * GIB


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> FolderContents:
    root = tmp_path_factory.mktemp("adapters")
    for number in range(3):
        make_adapter(root, task_of(f"task{number}"), rank=16 if number == 2 else 8, align=True)
    return Registry(root, base_named(None)).read()


def settings(**values: Any) -> ServeSettings:
    return ServeSettings(adapters="unused", **values)


def test_slots_and_rank_follow_the_adapters(contents: FolderContents) -> None:
    fitted = fit(settings(), resolve_model(None), contents, FREE)
    assert (fitted.adapters, fitted.max_loras, fitted.max_lora_rank) == (3, 4, 16)
    assert fitted.max_cpu_loras >= fitted.max_loras
    assert fitted.needed_bytes < FREE
    # SmolLM2-135M: 30 layers, 576 and 1,536 wide, 9 heads of which 3 for keys: 4,884,480 weights at rank 16 x 2 bytes
    on_disk = (contents.adapters[0].folder / "adapter_model.safetensors").stat().st_size
    assert fitted.adapter_bytes == pytest.approx(2 * on_disk, rel=0.02)


def test_what_is_given_is_kept(contents: FolderContents) -> None:
    chosen = settings(max_loras=7, max_cpu_loras=9, max_lora_rank=32, kv_cache_bytes=300 * MIB)
    fitted = fit(chosen, resolve_model(None), contents, FREE)
    assert (fitted.max_loras, fitted.max_cpu_loras, fitted.max_lora_rank) == (7, 9, 32)
    assert fitted.kv_cache_bytes == 300 * MIB


def test_no_more_slots_than_adapters_in_memory(contents: FolderContents) -> None:
    """vLLM wants it so, and says it after everything is loaded."""
    assert fit(settings(max_cpu_loras=2), resolve_model(None), contents, FREE).max_loras == 2
    with pytest.raises(InputError, match=r"--max-cpu-loras 2: .* 4 slots"):
        fit(settings(max_loras=4, max_cpu_loras=2), resolve_model(None), contents, FREE)


def test_many_adapters_do_not_mean_many_slots(contents: FolderContents) -> None:
    crowd = FolderContents(adapters=[contents.adapters[0]] * 500, faults=[], pins={})
    assert fit(settings(), resolve_model(None), crowd, FREE).max_loras <= MOST_SLOTS


def test_little_memory_keeps_fewer_adapters_in_it(contents: FolderContents) -> None:
    small = fit(settings(), resolve_model(None), contents, 2 * GIB)
    assert small.kv_cache_bytes < fit(settings(), resolve_model(None), contents, FREE).kv_cache_bytes


def test_the_cache_has_room_for_what_every_adapter_keeps_there(contents: FolderContents) -> None:
    crowd = FolderContents(adapters=[contents.adapters[0]] * 500, faults=[], pins={})
    small_cache, large_cache = (
        fit(settings(), resolve_model(None), folder_contents, FREE).kv_cache_bytes
        for folder_contents in (contents, crowd)
    )
    assert large_cache - small_cache == 497 * 32 * 2 * 30 * 3 * 64 * 2, (
        "a block of 32 tokens each: keys, values, 30 layers, 3 heads"
    )


def test_what_cannot_fit_is_refused_with_what_takes_the_room(contents: FolderContents) -> None:
    with pytest.raises(InputError, match=r"6\.\d GiB are needed, 2\.0 GiB are free.*KV cache 5\.0.*--kv-cache-mib"):
        fit(settings(kv_cache_bytes=5 * GIB), resolve_model(None), contents, 2 * GIB)


def test_an_empty_folder_can_be_served(tmp_path: Path) -> None:
    fitted = fit(settings(), resolve_model(None), Registry(tmp_path, base_named(None)).read(), FREE)
    assert (fitted.adapters, fitted.max_lora_rank) == (0, 8)
    assert fitted.max_loras >= 1


def test_on_a_gpu_base_and_slots_lie_there_and_other_adapters_here(contents: FolderContents) -> None:
    crowd = FolderContents(adapters=[contents.adapters[0]] * 500, faults=[], pins={})
    fitted = fit(settings(), resolve_model(None), crowd, FREE, gpu_free=80 * GIB)
    assert fitted.kv_cache_bytes == 0  # vLLM takes what is left
    assert fitted.gpu_needed_bytes >= fitted.base_bytes + fitted.max_loras * fitted.adapter_bytes
    assert fitted.needed_bytes < fit(settings(), resolve_model(None), crowd, FREE, gpu_free=0).needed_bytes
    assert ("GPU memory", "2.3 GiB needed, 80.0 GiB free") in fitted.lines()


def test_what_does_not_fit_on_a_gpu_is_refused_before_vllm_starts(contents: FolderContents) -> None:
    with pytest.raises(InputError, match=r"on the GPU: 7\.\d GiB are needed, 3\.7 GiB are free.*--kv-cache-mib"):
        fit(settings(kv_cache_bytes=5 * GIB), resolve_model(None), contents, FREE, gpu_free=4 * GIB)
    with pytest.raises(InputError, match=r"900 adapters in memory 8\.2\. Lower --max-cpu-loras"):
        fit(settings(max_cpu_loras=900), resolve_model(None), contents, 2 * GIB, gpu_free=80 * GIB)


@pytest.mark.parametrize("words", [("--tensor-parallel-size", "4"), ("--tensor-parallel-size=4",), ("-tp", "4")])
def test_gpus_that_share_the_weights_count_together(contents: FolderContents, words: tuple[str, ...]) -> None:
    large = settings(kv_cache_bytes=5 * GIB, vllm_arguments=words)
    assert fit(large, resolve_model(None), contents, FREE, gpu_free=4 * GIB).gpu_free_bytes == 16 * GIB
