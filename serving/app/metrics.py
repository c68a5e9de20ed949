"""What the service counts, on the same page as vLLM's own metrics: ``/metrics``."""

import contextlib
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one server."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def add(kind: Any, name: str, documentation: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
            return kind(f"fourshot_{name}", documentation, labels, registry=registry, **options)

        by_task = ("task", "method")
        self.requests = add(Counter, "requests", "Classification requests, by HTTP status.", (*by_task, "code"))
        self.latency = add(Histogram, "latency_seconds", "From arrival to answer.", by_task, buckets=LATENCY_BUCKETS_S)
        self.queue = add(
            Histogram, "queue_seconds", "From arrival until the model began.", by_task, buckets=LATENCY_BUCKETS_S
        )
        self.labels = add(Counter, "labels", "Answers by label: drift shows here.", (*by_task, "label"))
        self.abstained = add(Counter, "abstained", "Texts that got no label, by why.", (*by_task, "reason"))
        self.prompt_tokens = add(Counter, "prompt_tokens", "Prompt tokens of texts that were asked about.", by_task)
        self.cached_tokens = add(Counter, "cached_tokens", "Of these, answered by the prefix cache.", by_task)
        self.written_tokens = add(
            Counter, "written_tokens", "Tokens of texts that were written, by how these ended.", (*by_task, "finish")
        )
        self.in_flight = add(Gauge, "in_flight_texts", "Texts that wait or are in the model.", ("task",))
        self.rejected = add(Counter, "rejected", "Requests rejected before the model.", ("reason",))
        self.waiting = add(Gauge, "waiting_texts", "Texts that wait for their turn.")
        self.rate = add(Gauge, "model_tokens_per_second", "Prompt tokens per second while the model was busy.")
        self.restarts = add(Gauge, "restarts", "How often the server was started again.")
        self.tasks = add(Gauge, "tasks", "Tasks that are served.")
        self.refused = add(Gauge, "refused_adapters", "Things in the adapters' folder that are not served.")
        self.damaged = add(Gauge, "damaged_adapters", "Tasks that are answered by the copy of what is damaged by now.")
        self.changes = add(Counter, "adapter_changes", "Tasks that got another version, or went.", ("task",))
        self.loads = add(
            Gauge,
            "adapter_uses",
            "Uses of adapters by the engine: cold (read from disk), memory (copied into a slot), slot (in place).",
            ("kind",),
        )
        self.load_seconds = add(Gauge, "adapter_use_seconds", "Seconds spent on these.", ("kind",))

    def forget(self, task: str) -> None:
        """A task that is no longer served has no gauge."""
        with contextlib.suppress(KeyError):
            self.in_flight.remove(task)
