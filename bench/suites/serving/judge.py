"""What the answers to a load were worth."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fourshot.bench.core.load import LoadAnswer
from fourshot.bench.core.statistics import percentile
from fourshot.bench.suites.serving.traffic import STABLE, Expected, Traffic


class Judge:
    """Says what the answers to a load were worth."""

    def __init__(self, traffic: Traffic, expected: Expected) -> None:
        self._requests, self._expected = traffic.requests, expected
        self._stable = {task.name for task in traffic.tasks[:STABLE]}

    def is_stable(self, answer: LoadAnswer) -> bool:
        """Whether it is of a task that always has a version."""
        return self._requests[answer.request].kind in self._stable

    def __call__(self, answers: Sequence[LoadAnswer]) -> dict[str, Any]:
        codes: Counter[str] = Counter()
        wrong, surprising = [], []
        compared, latencies_s = 0, []
        for answer in answers:
            request = self._requests[answer.request]
            codes[f"{'bad' if request.kind == 'bad' else 'good'} {answer.status}"] += 1
            if request.kind == "bad":
                as_expected = 400 <= answer.status < 500
            elif answer.status == 200:
                as_expected = True
                latencies_s.append(answer.latency_s)
                body = json.loads(answer.answer)
                label = self._expected[body["adapter"]][json.loads(request.body)["input"]]
                compared += bool(label)
                if label and body["results"][0]["label"] != label:
                    wrong.append((request.kind, body["adapter"], request.body[:100]))
            else:
                as_expected = answer.status == 429 or (answer.status == 404 and not self.is_stable(answer))
            if not as_expected:
                surprising.append((request.path, answer.status, answer.answer[:200]))
        shares = (50, 95, 99, 99.9) if latencies_s else ()
        return {
            "requests": len(answers),
            "codes": dict(sorted(codes.items())),
            "compared_labels": compared,
            "wrong_labels": len(wrong),
            "surprising_answers": len(surprising),
            "examples": [*wrong[:5], *surprising[:5]],
            "answered_per_s": len(latencies_s) / max(answer.done_s for answer in answers),
            "latency_ms": {f"p{share:g}": 1000 * percentile(latencies_s, share / 100) for share in shares},
        }
