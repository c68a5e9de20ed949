"""How many adapters fit: slots in the engine, adapters in memory, and what is left for the KV cache.

Everything is computed from the adapters that lie in the folder, the base model's configuration and the memory at hand.
Importing this module loads neither torch nor vllm.
"""

import json
from pathlib import Path

import msgspec

from fourshot.engine.adapters import slot_rank
from fourshot.engine.errors import InputError
from fourshot.engine.memory import free_bytes
from fourshot.engine.models import ResolvedModel
from fourshot.serving.app.registry import FolderContents
from fourshot.serving.settings import ServeSettings

MIB, GIB = 1 << 20, 1 << 30
BYTES_PER_WEIGHT = 2  # bf16 or fp16; on a machine without either, twice that
MOST_SLOTS = 16  # more slots cost every batch, whoever is in it (docs/serving.md)
SPARE_SLOTS = 1  # for a new version that is loaded while the old one still answers
SPARE_ADAPTERS = 8  # that may be added before the first has to leave memory
PROCESS_BYTES = 1 * GIB  # of vLLM's processes, beside weights and cache
LARGEST_KV_BYTES, LEAST_KV_BYTES = 1 * GIB, 64 * MIB
SHARE_FOR_KV = 0.25  # of what is free
KV_REQUESTS = 256  # whole prompts that the cache may hold: more is not looked up again on a CPU


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is started with, and the figures behind it."""

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    kv_cache_bytes: int
    adapters: int
    adapter_bytes: int  # of one adapter of `max_lora_rank`, in a slot or in memory
    base_bytes: int
    free_bytes: int
    needed_bytes: int

    def lines(self) -> list[tuple[str, str]]:
        """For people: what, and why."""
        each = f"{self.adapter_bytes / MIB:.1f} MiB each at rank {self.max_lora_rank}"
        return [
            ("base model", f"{self.base_bytes / MIB:.0f} MiB"),
            ("adapters in the folder", f"{self.adapters}, {each}"),
            (
                "slots",
                f"{self.max_loras} (max_loras): adapters that may share a batch; at most {MOST_SLOTS} by default",
            ),
            ("in memory", f"{self.max_cpu_loras} (max_cpu_loras): beyond these each change is a read from disk"),
            ("KV cache", f"{self.kv_cache_bytes / MIB:.0f} MiB"),
            ("memory", f"{self.needed_bytes / GIB:.1f} GiB needed, {self.free_bytes / GIB:.1f} GiB free"),
        ]


def fit(settings: ServeSettings, base: ResolvedModel, contents: FolderContents, free: int | None = None) -> Fit:
    """Fill in what ``settings`` leave to be computed. Raises InputError where it cannot fit, with what would."""
    config = json.loads((Path(base.path) / "config.json").read_text(encoding="utf-8"))
    free = free_bytes() if free is None else free
    base_bytes = sum(file.stat().st_size for file in Path(base.path).glob("*.safetensors"))
    ranks = [slot_rank(adapter.card.training.r) for adapter in contents.adapters]
    rank = settings.max_lora_rank or max(ranks, default=8)
    each_bytes = adapter_bytes(config, rank)
    tasks = len(contents.tasks)
    slots = settings.max_loras or min(max(tasks, 1) + SPARE_SLOTS, MOST_SLOTS)
    room = free - base_bytes - PROCESS_BYTES - slots * each_bytes
    kv = settings.kv_cache_bytes or _kv_bytes(config, settings.max_model_len, int(room * SHARE_FOR_KV))
    room -= kv
    in_memory = settings.max_cpu_loras or max(slots, min(tasks + SPARE_ADAPTERS, room // each_bytes))
    needed = base_bytes + PROCESS_BYTES + (slots + in_memory) * each_bytes + kv
    if needed > free:
        raise InputError(
            f"This does not fit: {needed / GIB:.1f} GiB are needed, {free / GIB:.1f} GiB are free. Of these the base "
            f"takes {base_bytes / GIB:.1f}, the KV cache {kv / GIB:.1f}, {slots} slots and {in_memory} adapters in "
            f"memory {(slots + in_memory) * each_bytes / GIB:.1f}. "
            "Lower --kv-cache-mib, --max-loras or --max-cpu-loras."
        )
    return Fit(
        max_loras=slots,
        max_cpu_loras=in_memory,
        max_lora_rank=rank,
        kv_cache_bytes=kv,
        adapters=len(contents.adapters),
        adapter_bytes=each_bytes,
        base_bytes=base_bytes,
        free_bytes=free,
        needed_bytes=needed,
    )


def adapter_bytes(config: dict[str, object], rank: int) -> int:
    """Of an adapter of ``rank`` on all seven projections of a decoder with this configuration."""

    def read(name: str, otherwise: int = 0) -> int:
        value = config.get(name)
        return value if isinstance(value, int) else otherwise

    hidden, layers, inner = read("hidden_size"), read("num_hidden_layers"), read("intermediate_size")
    heads = read("num_attention_heads", 1)
    size = read("head_dim", hidden // heads)
    query, key = heads * size, read("num_key_value_heads", heads) * size
    per_layer = (hidden + query) * 2 + (hidden + key) * 2 + (hidden + inner) * 3
    return layers * per_layer * rank * BYTES_PER_WEIGHT


def _kv_bytes(config: dict[str, object], max_model_len: int, room: int) -> int:
    def read(name: str, otherwise: int) -> int:
        value = config.get(name)
        return value if isinstance(value, int) else otherwise

    heads = read("num_attention_heads", 1)
    size = read("head_dim", read("hidden_size", 1) // heads)
    per_token = 2 * read("num_hidden_layers", 1) * read("num_key_value_heads", heads) * size * BYTES_PER_WEIGHT
    wanted = min(KV_REQUESTS * max_model_len * per_token, LARGEST_KV_BYTES, room)
    return max(wanted, LEAST_KV_BYTES, 2 * max_model_len * per_token)
