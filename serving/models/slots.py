"""Sizes of a server: slots in the engine, adapters in memory, and what is left for the KV cache.

They are computed from the adapters in the folder, the base model's configuration and the available memory. Importing
this module loads neither torch nor vllm.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fourshot.engine.adapters import slot_rank
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import read_json
from fourshot.engine.machine.gpus import free_gpu_bytes, gpus
from fourshot.engine.machine.memory import free_bytes
from fourshot.pipeline.card import AdapterCard
from fourshot.serving.models.admission import student_files
from fourshot.serving.models.registry import FolderContents, StoredAdapter
from fourshot.serving.settings import ServeSettings, options_in

MIB, GIB = 1 << 20, 1 << 30
BYTES_PER_WEIGHT = 2  # bf16 or fp16; on a machine without either, twice that
MOST_SLOTS = 16  # more slots slow down every batch, whatever is in it (docs/serving.md)
SPARE_SLOTS = 1  # for a new version that is loaded while the old one is still in use
# Memory of a slot on a CPU, in adapters: a layer's slices are stored joined, with zeros between them. A second copy has
# all slots side by side, and up to half of them are selected from it (engine/vllm_seams/grouped_lora.py). It is
# 1.5 + 1 + 0.5 with SmolLM2, and 0.1 more where keys have as many heads as queries.
CPU_SLOT_COPIES = 3
SPARE_ADAPTERS = 8  # that may be added before the first has to leave memory
PROCESS_BYTES = 1 * GIB  # of vLLM's processes, without weights and cache
LARGEST_KV_BYTES, LEAST_KV_BYTES = 1 * GIB, 64 * MIB
SHARE_FOR_KV = 0.25  # of the memory that base, slots and students leave free
GPU_SHARE = 0.92  # of a GPU's memory, used by vLLM
GPU_STEP_BYTES = 2 * GIB  # of a step's activations, and of CUDA graphs
LOWER_ON_GPU = "--kv-cache-mib, --max-loras or --max-model-len, or end other programs that use it"
STUDENT_BATCH_BYTES = 64 * MIB  # of activations, or of keys and values
KV_REQUESTS = 256  # prompts of maximal length that the cache may hold: on a CPU, more are not reused


class ServerFit(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes that a server is started with, and the figures they are based on."""

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    kv_cache_bytes: int
    adapters: int
    adapter_bytes: int  # of one adapter of `max_lora_rank`
    base_bytes: int
    free_bytes: int
    needed_bytes: int
    student_bytes: int = 0  # of all students, in the server's memory
    gpu_free_bytes: int = 0  # 0: there is no GPU
    gpu_needed_bytes: int = 0  # without the KV cache, which takes what is left unless its size is given

    def lines(self) -> list[tuple[str, str]]:
        """Return (name, value with an explanation) of each size, for people."""
        adapter_size = f"{self.adapter_bytes / MIB:.1f} MiB each at rank {self.max_lora_rank}"
        of_gpu = f"{self.gpu_needed_bytes / GIB:.1f} GiB needed, {self.gpu_free_bytes / GIB:.1f} GiB free"
        return [
            ("base model", f"{self.base_bytes / MIB:.0f} MiB"),
            ("adapters in the folder", f"{self.adapters}, {adapter_size}"),
            (
                "slots",
                f"{self.max_loras} (max_loras): adapters that may share a batch; at most {MOST_SLOTS} by default",
            ),
            ("in memory", f"{self.max_cpu_loras} (max_cpu_loras): beyond these each change is a read from disk"),
            (
                "KV cache",
                f"{self.kv_cache_bytes / MIB:.0f} MiB" if self.kv_cache_bytes else "the rest of the GPU's memory",
            ),
            *([("students", f"{self.student_bytes / MIB:.0f} MiB")] if self.student_bytes else []),
            ("memory", f"{self.needed_bytes / GIB:.1f} GiB needed, {self.free_bytes / GIB:.1f} GiB free"),
            *([("GPU memory", of_gpu)] if self.gpu_free_bytes else []),
        ]


def fit(
    settings: ServeSettings,
    base: ResolvedModel,
    contents: FolderContents,
    free: int | None = None,
    gpu_free: int | None = None,
) -> ServerFit:
    """Compute the sizes that ``settings`` leave open. Raises InputError, naming what to lower, if they do not fit.

    ``free`` and ``gpu_free``: free bytes of this machine's memory and of a GPU's (0: no GPU); None: as they are now.
    GPUs that share the weights, by an option of vLLM, count together.
    With a GPU, it holds the base, the slots and the KV cache, and this machine's memory holds the adapters.
    """
    decoder = read_json(Path(base.path) / "config.json", _Decoder)
    free = free_bytes() if free is None else free
    gpu_free = (_free_on_gpu() if gpu_free is None else gpu_free) * _gpus_each(settings)
    cards = [stored.card for stored in contents.adapters if isinstance(stored.card, AdapterCard)]
    tasks = len({card.task.name for card in cards})
    rank = settings.max_lora_rank or max((slot_rank(card.training.r) for card in cards), default=8)
    slots, each_bytes, students = _num_slots(settings, tasks), decoder.adapter_bytes(rank), student_bytes(contents)
    prefixes = sum(card.filler.prefix_tokens for card in cards if card.filler)
    base_bytes = sum(file.stat().st_size for file in Path(base.path).glob("*.safetensors"))
    slot_bytes = slots * each_bytes * (1 if gpu_free else CPU_SLOT_COPIES)
    engine = {"the base takes": base_bytes, f"{slots} slots": slot_bytes}
    shares = {"students": students} if students else {}
    kv, gpu_needed, lower = settings.kv_cache_bytes, 0, "--max-cpu-loras"
    if gpu_free:
        least_kv = kv or decoder.kv_bytes(settings.max_model_len, 0, prefixes)
        on_gpu = {**engine, "the KV cache": least_kv}
        gpu_needed = _needed(on_gpu, GPU_STEP_BYTES, gpu_free * GPU_SHARE, LOWER_ON_GPU, on_gpu=True) - least_kv
    else:
        lower = f"--kv-cache-mib, --max-loras or {lower}"
        room = free - PROCESS_BYTES - students - sum(engine.values())
        kv = kv or decoder.kv_bytes(settings.max_model_len, int(room * SHARE_FOR_KV), prefixes)
        shares = {**engine, "the KV cache": kv, **shares}
    most_loaded = (free - PROCESS_BYTES - sum(shares.values())) // each_bytes
    in_memory = settings.max_cpu_loras or max(slots, min(tasks + SPARE_ADAPTERS, most_loaded))
    shares[f"{in_memory} adapters in memory"] = in_memory * each_bytes
    return ServerFit(
        max_loras=slots,
        max_cpu_loras=in_memory,
        max_lora_rank=rank,
        kv_cache_bytes=kv,
        adapters=len(cards),
        adapter_bytes=each_bytes,
        base_bytes=base_bytes,
        free_bytes=free,
        needed_bytes=_needed(shares, PROCESS_BYTES, free, lower),
        student_bytes=students,
        gpu_free_bytes=gpu_free,
        gpu_needed_bytes=gpu_needed,
    )


def _free_on_gpu() -> int:
    """Return the free bytes of GPU memory; 0 without a GPU."""
    names = gpus(os.environ)
    return free_gpu_bytes(names) if names else 0


def _gpus_each(settings: ServeSettings) -> int:
    """Return the number of GPUs that share the weights of one server."""
    options = options_in(settings.vllm_arguments)
    number = options.get("--tensor-parallel-size") or options.get("-tp") or ""
    return max(1, int(number)) if number.isdecimal() else 1  # vLLM reports what is no number


def _num_slots(settings: ServeSettings, num_tasks: int) -> int:
    """Return the number of slots. Raises InputError if fewer adapters were to be in memory than in slots."""
    if settings.max_loras > settings.max_cpu_loras > 0:
        raise InputError(
            f"--max-cpu-loras {settings.max_cpu_loras}: every adapter in one of the {settings.max_loras} slots "
            "(--max-loras) is in memory, too. Give at least as many, or leave one of the options out."
        )
    return settings.max_loras or min(max(num_tasks, 1) + SPARE_SLOTS, MOST_SLOTS, settings.max_cpu_loras or MOST_SLOTS)


def _needed(shares: Mapping[str, int], other_bytes: int, free: float, lower: str, *, on_gpu: bool = False) -> int:
    """Return the bytes of all ``shares``, by what takes them, and others. Raises InputError if fewer are ``free``."""
    needed = other_bytes + sum(shares.values())
    if needed > free:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in shares.items())
        place, purpose = (" on the GPU", " for it") if on_gpu else ("", "")
        raise InputError(
            f"This does not fit{place}: {needed / GIB:.1f} GiB are needed, {free / GIB:.1f} GiB are free{purpose}. Of "
            f"these {parts}. Lower {lower}."
        )
    return needed


def student_bytes(contents: FolderContents) -> int:
    """Return the bytes that a folder's students take in the server: one version of each task, and one that replaces it.

    Versions are loaded one after the other, so only the largest counts twice.
    """
    firsts = (
        next((stored for stored in contents.versions(task) if stored.is_student), None) for task in contents.tasks
    )
    sizes = [bytes_of_student(stored) for stored in firsts if stored]
    return sum(sizes) + max(sizes, default=0)


def bytes_of_student(stored: StoredAdapter) -> int:
    """Return the bytes of one student: the weights that are used, and a batch."""
    card = stored.card
    assert not isinstance(card, AdapterCard)
    names, _ = student_files(stored.folder, card)
    size = sum((stored.folder / name).stat().st_size for name in names if name.endswith((".safetensors", ".onnx")))
    return size + STUDENT_BATCH_BYTES


class _Decoder(msgspec.Struct, frozen=True):
    """The sizes in a checkpoint's config.json, under their names there."""

    hidden_size: int = 1
    num_hidden_layers: int = 1
    intermediate_size: int = 0
    num_attention_heads: int = 1
    num_key_value_heads: int | None = None
    head_dim: int | None = None

    @property
    def _head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def _keys(self) -> int:
        return (self.num_key_value_heads or self.num_attention_heads) * self._head

    def adapter_bytes(self, rank: int) -> int:
        """Return the bytes of an adapter of ``rank`` on all seven projections."""
        hidden, query = self.hidden_size, self.num_attention_heads * self._head
        per_layer = (hidden + query) * 2 + (hidden + self._keys) * 2 + (hidden + self.intermediate_size) * 3
        return self.num_hidden_layers * per_layer * rank * BYTES_PER_WEIGHT

    def kv_bytes(self, max_model_len: int, room: int, prefix_tokens: int = 0) -> int:
        """Return the bytes of a cache of at most ``room`` bytes, unless two prompts of ``max_model_len`` need more.

        It has `LEAST_KV_BYTES` at least. ``prefix_tokens``: of all adapters together, in complete blocks that stay in
        the cache beside the prompts in use.
        """
        per_token = 2 * self.num_hidden_layers * self._keys * BYTES_PER_WEIGHT
        preferred = min(KV_REQUESTS * max_model_len * per_token, LARGEST_KV_BYTES) + prefix_tokens * per_token
        return max(min(preferred, room), LEAST_KV_BYTES, 2 * max_model_len * per_token)
