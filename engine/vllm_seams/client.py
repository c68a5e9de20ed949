"""The engine's client inside vLLM's server (``AsyncLLM``): limits, requests in flight, model names, start times.

Replaces: ``generate`` of this client object, by the same function with a counter. Relies on: ``pin_lora`` and
``remove_lora`` of the client, the configuration it was started with, ``lora_requests`` of the OpenAI routes, whose
entries are their models, and ``scheduled_ts`` of a request's statistics. Without it, adapters could not be removed
while others are in use, so no server is started.

Importing this module loads no vllm.
"""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from fourshot.engine.vllm_seams.contract import Seam

_CLIENT = "vllm.v1.engine.async_llm:AsyncLLM"
SEAM = Seam(
    name="adapters in vLLM's server",
    written_for=("0.26", "0.32"),
    relies_on=(
        f"{_CLIENT}.generate",
        f"{_CLIENT}.add_lora(self, lora_request)",
        f"{_CLIENT}.remove_lora(self, lora_id)",
        f"{_CLIENT}.pin_lora(self, lora_id)",
        f"{_CLIENT}.collective_rpc(self, method, timeout, args, kwargs)",
        f"{_CLIENT}.errored",
        f"{_CLIENT}.__init__ sets vllm_config",
        f"{_CLIENT}.__init__ sets model_config",
        "vllm.config:VllmConfig.lora_config",
        "vllm.config:VllmConfig.scheduler_config",
        "vllm.config:LoRAConfig.max_loras",
        "vllm.config:LoRAConfig.max_lora_rank",
        "vllm.config:SchedulerConfig.max_num_batched_tokens",
        "vllm.config:ModelConfig.max_model_len",
        "vllm.entrypoints.openai.models.serving:OpenAIServingModels.__init__ sets lora_requests",
        "vllm.lora.request:LoRARequest.lora_name",
        "vllm.v1.metrics.stats:RequestStateStats.scheduled_ts",
    ),
    without="Adapters cannot be served.",
)


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits with which the engine was started."""

    num_loras: int  # adapters per step
    lora_rank: int
    step_tokens: int  # per step, of all requests
    prompt_tokens: int  # per prompt, including its generated tokens


def limits_of(client: Any) -> EngineLimits:
    """Return the limits of the engine behind ``client``, which must have been started with LoRA."""
    config = client.vllm_config
    return EngineLimits(
        num_loras=config.lora_config.max_loras,
        lora_rank=config.lora_config.max_lora_rank,
        step_tokens=config.scheduler_config.max_num_batched_tokens,
        prompt_tokens=client.model_config.max_model_len,
    )


class InFlight:
    """Counts the requests of each adapter inside the engine, from all routes.

    An adapter may be removed only when no request uses it. Otherwise the engine would look for its files, not find
    them, and fail with all other requests.
    """

    def __init__(self, client: Any) -> None:
        """Count the calls of ``client.generate`` from now on."""
        self._counts: Counter[str] = Counter()
        self.total = 0  # including requests of the base model
        self._generate = client.generate
        client.generate = self._counted

    def of(self, adapter: str) -> int:
        return self._counts[adapter]

    async def _counted(self, *args: Any, lora_request: Any = None, **options: Any) -> AsyncIterator[Any]:
        name = lora_request.lora_name if lora_request else ""
        self._counts[name] += 1
        self.total += 1
        try:
            async for output in self._generate(*args, lora_request=lora_request, **options):
                yield output
        finally:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]  # otherwise they grow with every version of an adapter that was ever served
            self.total -= 1


def add_model(models: Any, lora: Any) -> None:
    """Make an adapter a model of the OpenAI routes by its name. ``models`` is the server's ``OpenAIServingModels``."""
    models.lora_requests[lora.lora_name] = lora


def remove_model(models: Any, name: str) -> None:
    """Undo `add_model`. Requests that already use the adapter continue."""
    models.lora_requests.pop(name, None)


def began_s(output: Any) -> float:
    """Return when the engine started on a request, in seconds of the monotonic clock; 0 without statistics."""
    return float(getattr(output.metrics, "scheduled_ts", 0.0)) if output.metrics else 0.0
