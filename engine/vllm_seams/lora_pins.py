"""Pinned adapters lend their slots to a step that needs them, and are pinned again afterwards.

Replaces: ``LRUCacheWorkerLoRAManager._apply_adapters``, by the same function with a loan of slots around it, in the
process where the model runs. vLLM's scheduler allows as many adapters in a step as there are slots, and does not count
pins. If these do not fit beside the pinned ones, its worker evicts an adapter of the same step, and the engine ends.

Importing this module does not load vllm.
"""

from functools import wraps
from typing import Any

from fourshot.engine.vllm_seams.contract import Seam

_WORKER = "vllm.lora.worker_manager:LRUCacheWorkerLoRAManager"
_MANAGER = "vllm.lora.model_manager:LRUCacheLoRAModelManager"
SEAM = Seam(
    name="the loan of pinned slots",
    written_for=("0.26", "0.32"),
    relies_on=(
        f"{_WORKER}._apply_adapters(self, lora_requests)",
        f"{_WORKER}.create_lora_manager sets _adapter_manager",
        f"{_MANAGER}.__init__ sets _active_adapters",
        f"{_MANAGER}._pin_lora_in_gpu_cache(self, lora_id)",
        f"{_MANAGER}.list_adapters(self)",
        f"{_MANAGER}.lora_slots",
        "vllm.lora.model_manager:AdapterLRUCache.pin(self, key)",
        "vllm.utils.cache:LRUCache.__init__ sets pinned_items",
        "vllm.lora.request:LoRARequest.lora_int_id",
    ),
    without="With --hot, a step with as many other adapters as there are slots ends the engine.",
)


def register() -> bool:
    """Apply the replacement to engines of this process from now on. Idempotent. Returns whether `SEAM` holds."""
    if not SEAM.holds():
        return False
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

    apply_adapters = LRUCacheWorkerLoRAManager._apply_adapters
    if hasattr(apply_adapters, "__wrapped__"):
        return True

    @wraps(apply_adapters)
    def applied(manager: Any, lora_requests: set[Any]) -> None:
        needed = {request.lora_int_id for request in lora_requests if request}
        adapters = manager._adapter_manager
        pinned: set[int] = adapters._active_adapters.pinned_items
        lent: set[int] = manager.__dict__.setdefault("fourshot_lent", set())
        over = len(needed | pinned) - adapters.lora_slots
        for adapter_id in sorted(pinned - needed)[: max(over, 0)]:
            pinned.remove(adapter_id)
            lent.add(adapter_id)
        apply_adapters(manager, lora_requests)
        for adapter_id in sorted(lent):
            if adapter_id not in adapters.list_adapters():
                lent.remove(adapter_id)  # it has been unloaded
            elif len(needed | pinned | {adapter_id}) <= adapters.lora_slots:
                adapters._pin_lora_in_gpu_cache(adapter_id)
                lent.remove(adapter_id)

    LRUCacheWorkerLoRAManager._apply_adapters = applied
    return True
