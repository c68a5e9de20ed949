"""Merging the reports of several replicas: metrics pages and lists of tasks."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fourshot.serving.api import TaskList


def merged(pages: Mapping[int, str]) -> bytes:
    """Merge the metrics pages of replicas, by their numbers, into one: each sample gets its replica as a label.

    Samples of one metric are adjacent, as the format requires.
    Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (grouping and sorting).
    """
    families: dict[str, Metric] = {}
    for replica, page in pages.items():
        try:
            of_replica = [*text_string_to_metric_families(page)]
        except ValueError:  # another program may have the port of one that ended
            continue
        for family in of_replica:
            samples = [sample._replace(labels={"replica": str(replica), **sample.labels}) for sample in family.samples]
            family.samples = [*families[family.name].samples, *samples] if family.name in families else samples
            families[family.name] = family

    class Pages:
        def collect(self) -> Iterable[Metric]:
            return families.values()

    return generate_latest(Pages())


def summed(lists: Sequence[TaskList]) -> TaskList:
    """Return the first of the replicas' lists of tasks, with the numbers of requests of all replicas."""
    requests, in_flight = Counter[str](), Counter[str]()
    for info in (info for listed in lists for info in listed.tasks):
        requests[info.task] += info.requests
        in_flight[info.task] += info.in_flight
    tasks = [
        msgspec.structs.replace(info, requests=requests[info.task], in_flight=in_flight[info.task])
        for info in lists[0].tasks
    ]
    return msgspec.structs.replace(lists[0], tasks=tasks)
