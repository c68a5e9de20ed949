"""The metrics pages of several replicas as one."""

from collections.abc import Iterable, Mapping

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families


def merged(pages: Mapping[int, str]) -> bytes:
    """Metrics pages of replicas, by their numbers, as one: each sample has its replica as a label.

    Samples of one metric stand together, as the format asks.
    Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (grouping and sorting).
    """
    families: dict[str, Metric] = {}
    for replica, page in pages.items():
        for family in text_string_to_metric_families(page):
            samples = [sample._replace(labels={"replica": str(replica), **sample.labels}) for sample in family.samples]
            family.samples = [*families[family.name].samples, *samples] if family.name in families else samples
            families[family.name] = family

    class Pages:
        def collect(self) -> Iterable[Metric]:
            return families.values()

    return generate_latest(Pages())
