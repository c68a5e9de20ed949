"""Adapters with random weights that are otherwise complete: a card, a content-hashed name, all projections.

The speed of a service does not depend on what its adapters have learnt, so benchmarks and tests need not train any.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file

from fourshot.engine.checkpoints.models import ResolvedModel, checkpoint_shapes, resolve_model
from fourshot.engine.core import EngineSettings, Verbalizer
from fourshot.engine.machine.files import settle, staged_folder
from fourshot.pipeline.card import CARD_FILE, AdapterCard
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.task import Example, Label, Task
from fourshot.training.lora.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, content_hash
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.targets import projections

RANK = 8


def task_of(name: str, words: Sequence[str] = ("good", "bad")) -> Task:
    """Return a task whose labels are single words."""
    labels = tuple(Label(name=f"{word}-label", word=word) for word in words)
    return Task(name=name, instruction=f"Sort each text of {name}: {', '.join(words)}.", noun="text", labels=labels)


def make_adapter(
    root: Path,
    task: Task,
    seed: int = 0,
    *,
    size: float = 0.05,
    rank: int = RANK,
    wording: Wording = "task",
    verbalizer: Verbalizer = "word",
    base: ResolvedModel | None = None,
    shots: Sequence[Example] = (),
    align: bool = PRESETS["default"].align,
) -> Path:
    """Write an adapter for ``task`` to a new subfolder of ``root``, and return its path.

    Another seed makes another version. ``size``: standard deviation of the B matrices. ``align``: its prompts begin
    with filler. ``base`` None: the bundled model. Without ``shots``, the card has one example per label.
    """
    base = base or resolve_model(None)
    form = PromptFormat(wording=wording)
    if align:
        form = aligned(form, task, EngineSettings(model=base.path))
    examples = tuple(Example(text=f"an example of {label.name}", label=label.name) for label in task.labels)
    with staged_folder(root) as staged:
        save_file(_random_weights(base.path, seed, size, rank), staged / ADAPTER_WEIGHTS)
        (staged / ADAPTER_CONFIG).write_text(json.dumps(_peft_config(base.path, rank)))
        name = f"{task.name}-{content_hash(staged)}"
        card = AdapterCard(
            name=name,
            task=task,
            model_name=base.name,
            model_revision=base.revision,
            prompt_version=form.version,
            wording=wording,
            filler=form.filler,
            verbalizer=verbalizer,
            training=LoraSettings(r=rank),
            shots=tuple(shots) or examples,
            real_examples=8,
            synthetic_examples=20,
            steps=1,
            train_tokens=1,
            train_s=1.0,
        )
        (staged / CARD_FILE).write_bytes(msgspec.json.encode(card))
        settle(staged, root / name)
    return root / name


def _random_weights(base: str, seed: int, size: float, rank: int) -> dict[str, torch.Tensor]:
    """For every projection: bfloat16 A [rank, inputs], and B [outputs, rank] with the standard deviation ``size``."""
    random, targets, weights = torch.Generator().manual_seed(seed), projections(base), {}
    for name, shape in (checkpoint_shapes(Path(base)) or config_shapes(Path(base))).items():
        if (path := name.removesuffix(".weight")).rpartition(".")[2] in targets:
            a, b = torch.randn(rank, shape[1], generator=random), torch.randn(shape[0], rank, generator=random)
            weights[f"base_model.model.{path}.lora_A.weight"] = (a * shape[1] ** -0.5).to(torch.bfloat16)
            weights[f"base_model.model.{path}.lora_B.weight"] = (b * size).to(torch.bfloat16)
    return weights


def _peft_config(base: str, rank: int) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 32,
        "target_modules": sorted(projections(base)),
        "bias": "none",
        "base_model_name_or_path": base,
    }


def config_shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shapes of all parameters that the config in ``folder`` implies; for checkpoints without weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    return {name: list(weights.shape) for name, weights in model.named_parameters()}
