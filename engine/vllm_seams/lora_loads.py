"""Counts how often, and for how long, vLLM's engine fetched adapters: from disk, from memory, or from a slot.

Replaces: ``add_adapter`` and ``activate_adapter`` of vLLM's adapter managers, by the same functions with counters, in
the process where the model runs. Adds a method to vLLM's worker, which the server calls. Without this seam, the metrics
of loads stay at zero. Our LoRA arithmetic, which must know when weights change, is then disabled too.

Importing this module does not load vllm.
"""

import time
from collections import defaultdict
from functools import wraps
from typing import Any

from fourshot.engine.vllm_seams.contract import Seam

WORKER_METHOD = "fourshot_adapter_loads"  # of vLLM's workers, for ``collective_rpc``
KINDS = ("cold", "memory", "slot")
SEAM = Seam(
    name="the count of adapter loads",
    written_for=("0.26", "0.32"),
    relies_on=(
        "vllm.lora.worker_manager:LRUCacheWorkerLoRAManager.add_adapter(self, lora_request)",
        "vllm.lora.worker_manager:LRUCacheWorkerLoRAManager.list_adapters(self)",
        "vllm.lora.worker_manager:LRUCacheWorkerLoRAManager.create_lora_manager sets _adapter_manager",
        "vllm.lora.model_manager:LoRAModelManager.activate_adapter(self, lora_id)",
        "vllm.lora.model_manager:LoRAModelManager.__init__ sets lora_index_to_id",
        "vllm.lora.request:LoRARequest.lora_int_id",
        "vllm.v1.worker.worker_base:WorkerBase",
    ),
    without="The metrics of adapter loads stay at zero.",
)

_slot_versions: defaultdict[int, int] = defaultdict(int)
_uses = dict.fromkeys(KINDS, 0)
_seconds = dict.fromkeys(KINDS, 0.0)


def register() -> bool:
    """Start counting, and add the worker method by which the server reads the counts. Idempotent.

    Returns whether `SEAM` holds.
    """
    if not SEAM.holds():
        return False
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
    from vllm.v1.worker.worker_base import WorkerBase

    if hasattr(WorkerBase, WORKER_METHOD):
        return True
    add_adapter = LRUCacheWorkerLoRAManager.add_adapter

    @wraps(add_adapter)
    def counted(manager: Any, lora_request: Any) -> bool:
        started, kind = time.perf_counter(), _kind(manager, lora_request.lora_int_id)
        try:
            return bool(add_adapter(manager, lora_request))
        finally:
            _uses[kind] += 1
            _seconds[kind] += time.perf_counter() - started

    activate_adapter = LoRAModelManager.activate_adapter

    @wraps(activate_adapter)
    def activated(manager: Any, lora_id: int) -> bool:
        changed = bool(activate_adapter(manager, lora_id))
        if changed:
            _slot_versions[manager.lora_index_to_id.index(lora_id)] += 1
        return changed

    LoRAModelManager.activate_adapter = activated
    LRUCacheWorkerLoRAManager.add_adapter = counted
    setattr(WorkerBase, WORKER_METHOD, lambda worker: counts())
    return True


def _kind(manager: Any, adapter_id: int) -> str:
    if adapter_id not in manager.list_adapters():
        return "cold"
    return "slot" if adapter_id in manager._adapter_manager.lora_index_to_id else "memory"


def slot_versions(num_slots: int) -> list[int]:
    """Return for each slot a number that increases whenever the slot gets other weights."""
    return [_slot_versions[slot] for slot in range(num_slots)]


def counts() -> dict[str, tuple[int, float]]:
    """Return the uses and the seconds of each of `KINDS`, in this process."""
    return {kind: (_uses[kind], _seconds[kind]) for kind in KINDS}
