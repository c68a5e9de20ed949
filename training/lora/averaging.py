"""The average of several adapters of one base model: an adapter whose weight update is the mean of theirs.

The weight updates of adapters trained on the same few texts are small, so a label's log-odds are nearly linear in them.
The average therefore predicts nearly the same as the mean of the adapters' predictions, with one forward pass instead
of one per adapter (docs/training-log.md has both).
Source: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time". The products are averaged, not their factors, because factors of two trainings do not match.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.adapters import rank_of
from fourshot.engine.checkpoints.models import broken_shards
from fourshot.engine.core import Adapter
from fourshot.engine.machine.files import disk_errors, settle, staged_folder
from fourshot.engine.vllm_seams.adapter_check import LARGEST_RANK
from fourshot.training.lora.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, NAME_DIGITS


def can_average(adapters: Sequence[Adapter]) -> bool:
    """Whether vLLM can serve the average of ``adapters``, whose rank is the sum of theirs; False for a single one."""
    return len(adapters) > 1 and sum(map(rank_of, adapters)) <= LARGEST_RANK


def average(adapters: Sequence[Adapter], parent: Path) -> Adapter:
    """Return the average of ``adapters``, written to a folder in ``parent`` unless that has it, with whole weights.

    The folder is named after the hash of the adapters' names. All adapters must have the same base model and settings;
    seeds and texts may differ. Raises OSError if the disk is full.
    """
    names = sorted(adapter.name for adapter in adapters)
    name = f"average-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:NAME_DIGITS]}"
    if not (parent / name / ADAPTER_WEIGHTS).is_file() or broken_shards(parent / name):
        with staged_folder(parent, name) as staged:
            _write([Path(adapter.path) for adapter in sorted(adapters, key=lambda adapter: adapter.name)], staged)
            settle(staged, parent / name, replace=True)
    return Adapter(name=name, path=str(parent / name))


def _write(members: Sequence[Path], folder: Path) -> None:
    """Write (B1 A1 + ... + Bn An) / n as one product: the A are stacked by rows, the B by columns.

    A: [rank, inputs]; B: [outputs, rank]. PEFT multiplies by alpha / rank, so n times the rank divides by n.
    """
    import torch
    from safetensors.torch import load_file, save_file

    factors = [load_file(member / ADAPTER_WEIGHTS) for member in members]
    stacked = {
        key: torch.cat([tensors[key] for tensors in factors], dim=0 if "lora_A" in key else 1).contiguous()
        for key in factors[0]
    }
    with disk_errors(folder.parent):
        save_file(stacked, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config: dict[str, Any] = msgspec.json.decode((members[0] / ADAPTER_CONFIG).read_bytes())
    config["r"] *= len(members)
    (folder / ADAPTER_CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2))
