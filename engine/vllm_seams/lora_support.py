"""Check whether vLLM supports adapters on an architecture, before anything is generated or trained.

Relies on: the registry of vLLM's models, and its marking of those that support adapters. Without it, an unsupported
base is noticed only when an engine opens.
"""

import json
from functools import cache
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.engine.vllm_seams.contract import Seam, vllm_version

# Architectures for which vLLM 0.32 supports adapters, listed here because loading vLLM takes seconds.
KNOWN = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Gemma3ForCausalLM",
    "Phi3ForCausalLM",
    "GPTNeoXForCausalLM",
    "Olmo2ForCausalLM",
)
PARTS = ("text_config", "vision_config", "audio_config")  # in config.json of multimodal models
SEAM = Seam(
    name="what vLLM serves adapters on",
    written_for=("0.26", "0.32"),
    relies_on=(
        "vllm.model_executor.models.registry:ModelRegistry.models",
        "vllm.model_executor.models.registry:_LazyRegisteredModel.load_model_cls(self)",
        "vllm.model_executor.models.interfaces:supports_lora(model)",
    ),
    without="A base that does not support adapters is noticed only when an engine opens.",
)


def check_lora_support(model: str | Path) -> None:
    """Raise InputError if vLLM supports no adapters on the checkpoint in ``model``, or if the model is multimodal."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # loading it will report the fault
    architectures = config.get("architectures") or ["an unnamed architecture"]
    if parts := [name for name in PARTS if isinstance(config.get(name), dict)]:
        raise InputError(
            f"{', '.join(architectures)} ({model}) is a language model within a multimodal one: its config.json has "
            f"{' and '.join(parts)}. Adapters for such models are not supported. Name a text-only checkpoint of its "
            "family (docs/models.md)."
        )
    if not any(takes_adapters(architecture) for architecture in architectures):
        raise InputError(
            f"vLLM {vllm_version()} does not support LoRA adapters on {', '.join(architectures)} ({model}), so "
            "adapters for this base can be neither trained nor served. It can classify zero-shot and in context: "
            "fourshot compare TASK --methods zero_shot,icl. Or use another base; docs/models.md lists those that are "
            "served."
        )


@cache
def takes_adapters(architecture: str) -> bool:
    """Whether vLLM supports LoRA adapters on ``architecture``; True if this cannot be determined."""
    if architecture in KNOWN or not SEAM.holds():
        return True
    from vllm.model_executor.models.interfaces import supports_lora
    from vllm.model_executor.models.registry import ModelRegistry

    entry = ModelRegistry.models.get(architecture)
    if entry is not None:
        return bool(supports_lora(entry.load_model_cls()))
    import transformers  # architectures without a vLLM model run with that of transformers, if it is compatible

    theirs = getattr(transformers, architecture, None)
    return theirs is not None and bool(theirs.is_backend_compatible())
