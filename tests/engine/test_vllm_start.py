"""What vLLM is started with, checked against the arguments that its own build knows. No engine is opened that opens."""

import json
import os
from pathlib import Path

import pytest
from vllm import EngineArgs
from vllm.config import CompilationConfig

from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import InputError
from fourshot.engine.machine import host_state
from fourshot.engine.machine.host_state import host_state_kept
from fourshot.engine.opening import open_engine
from fourshot.engine.vllm_start import engine_arguments, keep_to_sizes, start
from fourshot.pipeline.loop.local_worker import BATCHES_AHEAD, GPU_BATCH, requests_ahead
from fourshot.serving.app.server import vllm_arguments
from fourshot.serving.settings import ServeSettings
from tests.engine.tiny_models import tiny_checkpoint

QUICK = EngineSettings(model="m", max_loras=2, compile=False)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_every_argument_is_one_of_vllms(on_cpu: bool) -> None:
    arguments = engine_arguments(QUICK, on_cpu)
    assert set(arguments) <= set(EngineArgs.__dataclass_fields__)


def test_on_a_gpu_sizes_of_a_step_are_vllms_own_for_the_card() -> None:
    sizes = {"max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill"}
    assert not sizes & set(engine_arguments(QUICK, on_cpu=False))
    assert sizes <= set(engine_arguments(QUICK, on_cpu=True))
    settings = EngineSettings(model="m", gpu_max_num_seqs=64)
    assert engine_arguments(settings, on_cpu=False)["max_num_seqs"] == 64
    assert requests_ahead(QUICK, on_gpu=True) == BATCHES_AHEAD * GPU_BATCH
    assert requests_ahead(settings, on_gpu=True) == BATCHES_AHEAD * 64
    assert requests_ahead(QUICK, on_gpu=False) == BATCHES_AHEAD * QUICK.max_num_seqs


def test_a_base_may_be_divided_over_several_gpus() -> None:
    arguments = engine_arguments(EngineSettings(model="m", gpus=4), on_cpu=False)
    assert set(arguments) <= set(EngineArgs.__dataclass_fields__)
    assert (arguments["tensor_parallel_size"], arguments["distributed_executor_backend"]) == (4, "mp")
    alone = engine_arguments(QUICK, on_cpu=False)
    assert alone["distributed_executor_backend"] == "uni" and "tensor_parallel_size" not in alone
    with pytest.raises(InputError, match="--gpus-per-engine"):  # before anything is loaded
        start(EngineSettings(model="m", gpus=4))


def test_a_short_stage_on_a_gpu_does_not_compile() -> None:
    quick = CompilationConfig(**engine_arguments(QUICK, on_cpu=False)["compilation_config"])
    assert (quick.mode, quick.cudagraph_mode.name) == (0, "FULL_DECODE_ONLY")
    assert "compilation_config" not in engine_arguments(EngineSettings(model="m"), on_cpu=False)


def test_a_servers_command_line_holds_structures_as_json() -> None:
    arguments = vllm_arguments(ServeSettings(adapters="a", max_cpu_loras=3), QUICK, "base", on_cpu=False)
    config = json.loads(arguments[arguments.index("--compilation-config") + 1])
    assert config["mode"] == 0


def test_the_cache_has_the_size_that_is_asked_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that vLLM's documents once had everybody set would overrule it; it is left to the program's others."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    settings = EngineSettings(model=model, kv_cache_bytes=256 << 20, max_model_len=512)
    with host_state_kept():
        keep_to_sizes()
        config = EngineArgs(**engine_arguments(settings, on_cpu=True)).create_engine_config()
    assert config.cache_config.kv_cache_memory_bytes == 256 << 20
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "3"


def test_a_base_that_vllm_does_not_open_is_bad_input_with_vllms_reason(tmp_path: Path) -> None:
    """Not RecurrentGemma: vLLM changes transformers' class of it for the rest of this process."""
    settings = EngineSettings(
        model=tiny_checkpoint("lfm2", tmp_path), max_model_len=256, compile=False, kv_cache_bytes=64 << 20
    )
    reason = "Chunked prefill is required"
    with pytest.raises(InputError, match=rf"cannot load the base model .*: .*{reason}.*\. Use another") as caught:
        open_engine(settings)
    assert "\n" not in str(caught.value)


def test_variables_of_libraries_go_with_the_last_engine_or_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_state, "_saved_variables", {})
    monkeypatch.setattr(host_state, "_library_values", {})
    monkeypatch.setenv("VLLM_OURS", "1")
    program = dict(os.environ)

    def fail_after_imports() -> None:
        os.environ["VLLM_OURS"], os.environ["TRITON_ONCE"], os.environ["VLLM_EACH"] = "2", "yes", "first"
        raise InputError("no such base")

    with pytest.raises(InputError), host_state.library_variables_recorded():
        fail_after_imports()
    assert dict(os.environ) == program
    with host_state.library_variables_recorded():
        assert os.environ["TRITON_ONCE"] == "yes", "which is set when a library is imported, and read later"
        os.environ["VLLM_EACH"] = "second"
    with host_state.library_variables_recorded():  # another engine
        os.environ["VLLM_EACH"] = "third"
    os.environ["TRITON_ONCE"] = "the program's"
    host_state.restore_variables()
    assert dict(os.environ) == program | {"TRITON_ONCE": "the program's"}
    del os.environ["TRITON_ONCE"]


def test_a_batch_may_be_larger_than_a_step_usually_is() -> None:
    arguments = engine_arguments(EngineSettings(model="m", max_num_seqs=4096), on_cpu=True)
    assert arguments["max_num_batched_tokens"] >= arguments["max_num_seqs"] == 4096  # as vLLM wants it
