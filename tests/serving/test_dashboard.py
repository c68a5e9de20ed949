"""The dashboard asks for metrics that the service has."""

import json
import re
from importlib import resources

from prometheus_client import CollectorRegistry

from fourshot.serving.app.metrics import Metrics


def test_every_metric_of_the_dashboard_is_one_of_the_service() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    registered = {
        name for metric in registry.collect() for name in (metric.name, f"{metric.name}_total", f"{metric.name}_bucket")
    }
    dashboard = json.loads(resources.files("fourshot.serving.app").joinpath("grafana.json").read_text(encoding="utf-8"))
    queried = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"fourshot_\w+", target["expr"])
    }
    assert len(queried) > 10
    assert queried <= registered
