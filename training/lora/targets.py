"""Which layers of a base model get an adapter: found in its checkpoint, not assumed from its family."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from fourshot.engine.checkpoints.config import read_config
from fourshot.engine.checkpoints.loading import load_or_explain
from fourshot.engine.checkpoints.models import checkpoint_shapes
from fourshot.engine.errors import InputError
from fourshot.engine.fake_engine import is_fake
from fourshot.engine.machine.collector import collector_paused
from fourshot.engine.vllm_seams.lora_support import check_lora_support
from fourshot.training.lora.settings import ALL, ALL_PROJECTIONS, LoraSettings, TargetModules

if TYPE_CHECKING:
    from peft import LoraConfig

# A weight of a decoder layer has the layer's number in its name, whatever the list of layers is called.
IN_A_LAYER = re.compile(r"\.\d+\.(?P<path>.+)\.weight")
NO_PROJECTION = {"experts", "gate", "router"}  # parts of a mixture of experts that get no adapter
# The texts of a packed row are separated by an attention mask (`packing`), which other layers ignore: a convolution
# reads some of the tokens before, a recurrence all. Both are recognised by names in config.json and of weights.
MASKED = {"full_attention", "sliding_attention", "chunked_attention", "attention"}
UNMASKED = re.compile(r"conv|mamba|rg_lru|lstm|time_decay")


def target_modules(model: str | Path, requested: TargetModules) -> tuple[str, ...]:
    """Return the names of the layers that get an adapter; for "all", every projection of the decoder layers.

    Raises InputError if the model has no layer with one of the ``requested`` names.
    """
    available = projections(str(model))
    if requested == ALL:
        return available
    missing = [name for name in requested if name not in available]
    if missing:
        raise InputError(
            f"The base in {model} has no {' and no '.join(missing)} to train (train.target_modules). Its projections "
            f"are {', '.join(available)}. Name some of these, or give 'all'."
        )
    return tuple(requested)


def lora_config(model: str | Path, num_layers: int, settings: LoraSettings) -> "LoraConfig":
    """Return PEFT's configuration for an adapter on the base in ``model``, which has ``num_layers`` decoder layers."""
    with collector_paused():
        from peft import LoraConfig

    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(target_modules(model, settings.target_modules)),
        layers_to_transform=adapted_layers(num_layers, settings.adapted_layers),
        task_type="CAUSAL_LM",
    )


def adapted_layers(num_layers: int, share: float) -> list[int] | None:
    """Return the numbers of the decoder layers that get an adapter: the last ones, at least one; None for all.

    The layers below are frozen, so their output for a text is the same in every step of a training.
    """
    count = max(1, round(share * num_layers))
    return None if count >= num_layers else list(range(num_layers - count, num_layers))


def check_trainable(model: str, requested: TargetModules) -> None:
    """Raise InputError if no adapter for this base model can be trained and served; a fake model always passes."""
    if not is_fake(model):
        check_lora_support(model)
        if kinds := unmasked_layers(model):
            raise InputError(
                f"The base in {model} has layers that see the preceding texts of a packed row ({', '.join(kinds)}), "
                "so no adapter can be trained on it. Use a base with attention layers only (docs/models.md)."
            )
        target_modules(model, requested)


def unmasked_layers(model: str) -> list[str]:
    """Return the kinds of decoder layers that ignore the attention mask, such as convolutions; [] if there are none."""
    config = read_config(model)
    layer_types = config.get("layer_types")
    kinds = set(map(str, layer_types)) - MASKED if isinstance(layer_types, list) else set[str]()
    paths = [match["path"] for name in _shapes(model) if (match := IN_A_LAYER.search(name))]
    return sorted(kinds) or sorted({path.split(".")[0] for path in paths if UNMASKED.search(path)})


@lru_cache(maxsize=8)
def projections(model: str) -> tuple[str, ...]:
    """Return the names of the linear layers in a checkpoint's decoder layers.

    They are in the order of `ALL_PROJECTIONS` if they are the same, else sorted. Raises InputError if there are none.
    """
    shapes = _shapes(model)
    names = {_projection(name, shape) for name, shape in shapes.items()} - {""}
    if not names:
        raise InputError(f"The base in {model} has no linear layers to train; it cannot get an adapter.")
    return ALL_PROJECTIONS if names == set(ALL_PROJECTIONS) else tuple(sorted(names))


@lru_cache(maxsize=8)
def _shapes(model: str) -> dict[str, list[int]]:
    """Return the shape of each weight, by name."""
    return checkpoint_shapes(Path(model)) or _shapes_of_architecture(model)


def _projection(name: str, shape: Sequence[int]) -> str:
    """Return the last part of a weight's name if it is a projection within a decoder layer, else ""."""
    match = IN_A_LAYER.search(name)
    parts = match["path"].split(".") if match else [""]
    return "" if len(shape) != 2 or NO_PROJECTION.intersection(parts) else parts[-1]


def _shapes_of_architecture(model: str) -> dict[str, list[int]]:
    """Return the shapes for a checkpoint whose weight files have no readable header (.bin), or that has none."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def build() -> torch.nn.Module:
        with torch.device("meta"):
            built: torch.nn.Module = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(model, trust_remote_code=False)
            )
        return built

    built = load_or_explain(build, "base model", model)
    return {name: list(weights.shape) for name, weights in built.named_parameters()}
