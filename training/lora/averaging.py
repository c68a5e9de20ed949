"""Several adapters of one base as one, whose change of each weight is the mean of theirs.

What adapters of the same few texts add to a base is small, so a label's log-odds are nearly linear in it: the average
answers much as the mean of their answers does, in one reading instead of one for each (docs/training.md has both).
Source: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time". Products are averaged here, not their factors: those of two trainings do not fit together.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.adapters import rank_of
from fourshot.engine.core import Adapter
from fourshot.engine.machine.files import disk_errors, settle, staged_folder
from fourshot.training.lora.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, NAME_DIGITS

MOST_RANK = 512  # that vLLM has kernels for


def can_average(adapters: Sequence[Adapter]) -> bool:
    """Whether the average of ``adapters`` is one that vLLM serves; it has the sum of their ranks."""
    return len(adapters) > 1 and sum(map(rank_of, adapters)) <= MOST_RANK


def average(adapters: Sequence[Adapter], parent: Path) -> Adapter:
    """The average of ``adapters`` as a folder in ``parent``, whose name says of which; made unless it is there.

    All are of one base and of trainings with the same settings, but for seed and texts. Raises OSError where the disk
    is full.
    """
    names = sorted(adapter.name for adapter in adapters)
    name = f"average-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:NAME_DIGITS]}"
    if not (parent / name).exists():
        with staged_folder(parent, name) as staged:
            _write([Path(adapter.path) for adapter in sorted(adapters, key=lambda adapter: adapter.name)], staged)
            settle(staged, parent / name, replace=True)
    return Adapter(name=name, path=str(parent / name))


def _write(members: Sequence[Path], folder: Path) -> None:
    """(B1 A1 + ... + Bn An) / n is one product: the A one below the other, the B side by side.

    A: [rank, inputs]; B: [outputs, rank]. PEFT multiplies by alpha / rank, so the n-fold rank divides by n.
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
