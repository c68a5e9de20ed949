"""Adapter files, read with a single read if their tensor names and shapes are already known.

Replaces: ``LoRAModel.from_local_checkpoint`` on the CPU build. The first file of a kind is still read by vLLM, later
ones with one read. vLLM reads each tensor separately and parses its name three times. For the 420 tensors of an adapter
of SmolLM2-135M, that is most of the time of a load (docs/engine.md), during which the engine waits. All adapters of a
task, and most of a base, have the same header. So the names, ranks and scales that vLLM found in the first file hold
for all. A header is reused only after both ways of reading its first file have given the same numbers.

Importing this module loads neither vllm nor torch.
"""

import os
from collections.abc import Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fourshot.engine.vllm_seams.contract import Seam

if TYPE_CHECKING:
    import torch

WEIGHTS = "adapter_model.safetensors"
LENGTH_BYTES = 8  # of a safetensors file: the length of its header, little-endian
MOST_BYTES = 100 << 20  # of a header, the limit of the format
MOST_KINDS = 32  # kept in memory; a large model's header has several hundred kilobytes
_METADATA = "__metadata__"
SEAM = Seam(
    name="reading an adapter's file at once",
    written_for=("0.32",),
    relies_on=(
        "vllm.lora.lora_model:LoRAModel.from_local_checkpoint(lora_dir, expected_lora_modules, peft_helper, "
        "lora_model_id, device, dtype, model_vocab_size, weights_mapper, skip_prefixes, moe_ep_spec)",
        "vllm.lora.lora_model:LoRAModel(lora_model_id, rank, loras, is_3d_lora_weight, modules_to_save)",
        "vllm.lora.lora_weights:LoRALayerWeights(module_name, rank, lora_alpha, lora_a, lora_b, scaling)",
        "vllm.lora.utils:parse_fine_tuned_lora_name(name, weights_mapper)",
    ),
    without="Adapters take longer to load.",
)


class _Layer(msgspec.Struct, frozen=True):
    """One layer that adapters of a kind change, by vLLM's name; ``a`` and ``b`` are indices of tensors in the file."""

    name: str
    rank: int
    alpha: int
    scaling: float
    a: int
    b: int


class _Kind(msgspec.Struct, frozen=True):
    """The common properties of files with the same header, read for the same model."""

    dtype: str  # torch's name
    num_bytes: int  # of all tensors
    shapes: tuple[tuple[int, ...], ...]  # in the order of the file
    layers: tuple[_Layer, ...]


_kinds: dict[tuple[Any, ...], _Kind | None] = {}  # None: left to vLLM
_original: dict[str, Any] = {}


def apply(enabled: bool) -> bool:
    """Apply our way of reading, or remove it, for engines of this process on the CPU. Returns whether it is applied."""
    put_in = enabled and SEAM.holds()
    if not put_in and not _original:
        return False
    from vllm.lora.lora_model import LoRAModel

    theirs = _original.setdefault("from_local_checkpoint", LoRAModel.from_local_checkpoint.__func__)
    LoRAModel.from_local_checkpoint = classmethod(wraps(theirs)(_from_local_checkpoint) if put_in else theirs)
    return put_in


def _from_local_checkpoint(
    cls: Any, lora_dir: str, expected_lora_modules: set[str], peft_helper: Any, **options: Any
) -> Any:
    """Replacement of vLLM's function. The result depends on the header and all arguments but the adapter's id."""
    path, adapter_id, dtype = Path(lora_dir) / WEIGHTS, options.get("lora_model_id"), options.get("dtype")
    header = _header(path) if adapter_id and dtype else b""  # vLLM's worker passes both
    decides = sorted((name, str(value)) for name, value in options.items() if name != "lora_model_id")
    key = (header, frozenset(expected_lora_modules), str(peft_helper), *decides)
    kind = _kinds.get(key)
    if header and kind and (loras := _read(path, header, kind, dtype)):
        return cls(adapter_id, peft_helper.r, loras)
    model = _original["from_local_checkpoint"](cls, lora_dir, expected_lora_modules, peft_helper, **options)
    if header and key not in _kinds:
        if len(_kinds) >= MOST_KINDS:
            _kinds.clear()
        _kinds[key] = _kind_of(path, header, model, options)
    return model


def _header(path: Path) -> bytes:
    """Return the header of a safetensors file; empty if it cannot be read, because vLLM then reports the fault."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            return file.read(length) if length <= MOST_BYTES else b""
    except OSError:
        return b""


def _read(path: Path, header: bytes, kind: _Kind, dtype: Any) -> dict[str, Any] | None:
    """Read an adapter's layers, by vLLM's names, as views of one tensor; None if the file is not of this kind."""
    import torch
    from vllm.lora.lora_weights import LoRALayerWeights

    content = torch.empty(kind.num_bytes, dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        begin = len(header).to_bytes(LENGTH_BYTES, "little") + header
        if os.fstat(file.fileno()).st_size != len(begin) + kind.num_bytes or file.read(len(begin)) != begin:
            return None
        if _fill(file, content) != kind.num_bytes:
            return None
    numbers = content.view(getattr(torch, kind.dtype)).to(dtype)
    sizes = [shape[0] * shape[1] for shape in kind.shapes]
    tensors = [part.view(shape) for part, shape in zip(numbers.split(sizes), kind.shapes, strict=True)]
    return {
        layer.name: LoRALayerWeights(
            layer.name, layer.rank, layer.alpha, tensors[layer.a], tensors[layer.b], layer.scaling
        )
        for layer in kind.layers
    }


def _fill(file: Any, content: "torch.Tensor") -> int:
    view = memoryview(content.numpy())
    done = 0
    while done < len(view) and (count := file.readinto(view[done:])):
        done += count
    return done


def _kind_of(path: Path, header: bytes, model: Any, options: Mapping[str, Any]) -> _Kind | None:
    """Derive the kind of a file from the model that vLLM loaded from it.

    None if the file contains more than pairs of matrices, or if reading it at once does not give the same numbers.
    """
    import torch
    from vllm.lora.utils import parse_fine_tuned_lora_name

    entries = msgspec.json.decode(header)
    entries.pop(_METADATA, None)
    names = sorted(entries, key=lambda name: entries[name]["data_offsets"])
    shapes = tuple(tuple(entries[name]["shape"]) for name in names)
    dtypes = {entries[name]["dtype"] for name in names}
    dtype = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}.get("".join(dtypes))
    pairs = {
        parse_fine_tuned_lora_name(name, options.get("weights_mapper")): number
        for number, name in enumerate(names)
        if "lora_embedding" not in name
    }
    is_plain = len(pairs) == len(names) == 2 * len(model.loras) and not model.modules_to_save
    if dtype is None or not is_plain or any(len(shape) != 2 for shape in shapes):
        return None
    layers = tuple(
        _Layer(name, layer.rank, layer.lora_alpha, layer.scaling, pairs[name, True], pairs[name, False])
        for name, layer in model.loras.items()
        if (name, True) in pairs and (name, False) in pairs
    )
    ends = [entries[name]["data_offsets"][1] for name in names]
    kind = _Kind(dtype=dtype, num_bytes=max(ends, default=0), shapes=shapes, layers=layers)
    again = _read(path, header, kind, options["dtype"])
    if again is None or [*again] != [*model.loras]:
        return None
    same = all(
        torch.equal(layer.lora_a, theirs.lora_a) and torch.equal(layer.lora_b, theirs.lora_b)
        for layer, theirs in zip(again.values(), model.loras.values(), strict=True)
    )
    return kind if same else None
