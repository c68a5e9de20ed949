"""Metrics of the service, on the same page as vLLM's own: ``/metrics``."""

import contextlib
import time
from collections import Counter as Counts
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
FORGET_AFTER_S = 600.0  # metrics of a task that is no longer served: they have been scraped by then
FORGET_EVERY_S = 60.0  # going through all metrics takes as long as a scrape


class Metrics:
    """Metrics of one server."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def add(kind: Any, name: str, documentation: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
            metric = kind(f"fourshot_{name}", documentation, labels, registry=registry, **options)
            if "task" in labels:
                self._by_task.append((metric, labels))
            return metric

        self._by_task: list[tuple[Any, tuple[str, ...]]] = []  # with their label names
        self._gone: dict[str, float] = {}  # tasks that are no longer served, and since when; monotonic seconds
        self._forgot_s = time.monotonic()
        self.num_requests: Counts[str] = Counts()  # by task, for `GET /v1/tasks`
        self.num_in_flight: Counts[str] = Counts()  # texts
        by_task = ("task", "method")
        self.requests = add(Counter, "requests", "Classification requests, by HTTP status.", (*by_task, "code"))
        self.latency = add(
            Histogram, "latency_seconds", "Time from arrival to response.", by_task, buckets=LATENCY_BUCKETS_S
        )
        self.queue = add(
            Histogram, "queue_seconds", "Time from arrival until the model started.", by_task, buckets=LATENCY_BUCKETS_S
        )
        self.labels = add(Counter, "labels", "Predictions by label; shows drift.", (*by_task, "label"))
        self.abstained = add(Counter, "abstained", "Texts that got no label, by reason.", (*by_task, "reason"))
        self.prompt_tokens = add(Counter, "prompt_tokens", "Prompt tokens of all texts.", by_task)
        self.cached_tokens = add(Counter, "cached_tokens", "Of these, tokens found in the prefix cache.", by_task)
        self.written_tokens = add(
            Counter, "written_tokens", "Tokens of generated texts, by finish reason.", (*by_task, "finish")
        )
        self.in_flight = add(Gauge, "in_flight_texts", "Texts that wait or are being computed.", ("task",))
        self.rejected = add(Counter, "rejected", "Requests rejected before the model.", ("reason",))
        self.waiting = add(Gauge, "waiting_texts", "Texts that wait for their turn.")
        self.rate = add(Gauge, "model_tokens_per_second", "Prompt tokens per second while the model was busy.")
        self.restarts = add(Gauge, "restarts", "How often the server was restarted.")
        self.tasks = add(Gauge, "tasks", "Tasks that are served.")
        self.refused = add(Gauge, "refused_adapters", "Entries of the adapters' folder that are not served.")
        self.damaged = add(
            Gauge, "damaged_adapters", "Tasks served from the loaded copy because the one in the folder is damaged."
        )
        self.changes = add(Counter, "adapter_changes", "Tasks that got another version, or were removed.", ("task",))
        self.loads = add(
            Gauge,
            "adapter_uses",
            "Uses of adapters by the engine: cold (read from disk), memory (copied into a slot), slot (in place).",
            ("kind",),
        )
        self.load_seconds = add(Gauge, "adapter_use_seconds", "Seconds spent on these.", ("kind",))

    def change(self, task: str, is_served: bool) -> None:
        """Record that a task has another version, or is no longer served: then its gauge is removed, the rest later."""
        self.changes.labels(task).inc()
        self._gone.pop(task, None)
        if not is_served:
            self._gone[task] = time.monotonic()
            with contextlib.suppress(KeyError):
                self.in_flight.remove(task)

    def forget(self) -> None:
        """Drop the metrics of tasks that have not been served for `FORGET_AFTER_S` and have no request in flight.

        Does nothing if called again within `FORGET_EVERY_S`.
        """
        now_s = time.monotonic()
        if now_s - self._forgot_s < FORGET_EVERY_S:
            return
        self._forgot_s, latest_s = now_s, now_s - FORGET_AFTER_S
        tasks = {task for task, since_s in self._gone.items() if since_s <= latest_s and not self.num_in_flight[task]}
        if not tasks:
            return
        for metric, labels in self._by_task:
            samples = [sample for family in metric.collect() for sample in family.samples]
            for values in {tuple(sample.labels[label] for label in labels) for sample in samples}:
                if values[labels.index("task")] in tasks:
                    metric.remove(*values)
        for task in tasks:
            del self._gone[task]
            self.num_requests.pop(task, None)
            self.num_in_flight.pop(task, None)
