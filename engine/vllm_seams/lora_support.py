"""Does vLLM serve adapters on this architecture? Asked before anything is drawn or trained.

Relies on: the registry of vLLM's models and its mark of those that take adapters. Without it a base that takes none
is found out when an engine opens.
"""

import json
from functools import cache
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.engine.vllm_seams.contract import Seam, vllm_version

# What vLLM 0.32 answers for these, known without loading it, which takes seconds.
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
PARTS = ("text_config", "vision_config", "audio_config")  # in config.json, of what reads more than texts
SEAM = Seam(
    name="what vLLM serves adapters on",
    written_for=("0.26", "0.32"),
    relies_on=(
        "vllm.model_executor.models.registry:ModelRegistry.models",
        "vllm.model_executor.models.registry:_LazyRegisteredModel.load_model_cls(self)",
        "vllm.model_executor.models.interfaces:supports_lora(model)",
    ),
    without="A base that takes no adapters is noticed when an engine opens.",
)


def check_lora_support(model: str | Path) -> None:
    """Raise InputError where vLLM serves no adapters on the checkpoint in ``model``, or it reads more than texts."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # whoever loads it says what is wrong with it
    architectures = config.get("architectures") or ["an unnamed architecture"]
    if parts := [name for name in PARTS if isinstance(config.get(name), dict)]:
        raise InputError(
            f"{', '.join(architectures)} ({model}) is a language model within a model of images or sounds: its "
            f"config.json has {' and '.join(parts)}. No adapter is trained or served on that here. Name a checkpoint "
            "of its family that reads texts alone (docs/models.md)."
        )
    if not any(takes_adapters(architecture) for architecture in architectures):
        raise InputError(
            f"vLLM {vllm_version()} serves no LoRA adapters on {', '.join(architectures)} ({model}), so this base is "
            "neither trained nor served. It answers zero-shot and in context: fourshot compare TASK --methods "
            "zero_shot,icl. Or take another base; docs/models.md lists which are served."
        )


@cache
def takes_adapters(architecture: str) -> bool:
    """Whether vLLM says so; True where it cannot be asked."""
    if architecture in KNOWN or not SEAM.holds():
        return True
    from vllm.model_executor.models.interfaces import supports_lora
    from vllm.model_executor.models.registry import ModelRegistry

    entry = ModelRegistry.models.get(architecture)
    if entry is not None:
        return bool(supports_lora(entry.load_model_cls()))
    import transformers  # what vLLM has no model of its own for, it runs through transformers' where that can be

    theirs = getattr(transformers, architecture, None)
    return theirs is not None and bool(theirs.is_backend_compatible())
