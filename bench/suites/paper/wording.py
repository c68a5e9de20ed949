"""Numbers and names as all parts of the page say them."""

from collections.abc import Mapping, Sequence

from fourshot.bench.suites.paper.cells import Identity, Mean
from fourshot.bench.suites.paper.findings import DEFAULT_SHOTS, Row
from fourshot.pipeline.report.text import count
from fourshot.pipeline.runs.methods import METHODS

NOT_MEASURED = "not measured"
TASKS = {"sst2": "SST-2", "trec": "TREC", "ag_news": "AG News"}


def task_name(task: str) -> str:
    return TASKS.get(task, task)


def row_name(row: Row) -> str:
    """A row of the table: LoRA is named by how many real texts it was trained on."""
    method, real, _ = row
    return f"LoRA on {real} real" if method == "lora" and real != DEFAULT_SHOTS else METHODS[method].display_name


def accuracy(mean: Mean | None) -> str:
    if mean is None:
        return NOT_MEASURED
    return f"{100 * mean.accuracy:.1f}" + (f" ± {100 * mean.deviation:.1f}" if mean.deviation else "")


def per_cent(share: float | None) -> str:
    return NOT_MEASURED if share is None else f"{100 * share:.1f}"


def draws(number: int) -> str:
    return "1 draw" if number == 1 else f"{number} draws"


def measured_on(known: Mapping[Identity, Mean], tasks: Sequence[str], rows: Sequence[Row]) -> str:
    """How many test texts and draws of the shots stand behind ``rows``, per task."""
    told = []
    for task in tasks:
        found = [known[task, *row] for row in rows if (task, *row) in known]
        if found:
            seeds = sorted({mean.seeds for mean in found})
            several = draws(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {draws(seeds[-1])}"
            told.append(f"{task_name(task)}: {count(min(mean.n for mean in found))} test texts, {several}")
    return f"{'; '.join(told)}." if told else ""


def listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
