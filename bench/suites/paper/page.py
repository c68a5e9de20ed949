"""The page: what was measured, in the order of the paper's tables and figures, beside what is known of its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from markupsafe import Markup

from fourshot.bench.core.comparisons import in_words
from fourshot.bench.core.page import link
from fourshot.bench.core.parts import Page, Section, Table
from fourshot.bench.core.results import TITLES
from fourshot.bench.suites.paper import figures
from fourshot.bench.suites.paper.plan import Fact
from fourshot.bench.suites.paper.scores import (
    FOURSHOT,
    ICL,
    MeanScores,
    PaperScore,
    in_context_over,
    mean_over_tasks,
    mean_scores,
)
from fourshot.bench.suites.paper.texts import CountedTexts
from fourshot.bench.suites.paper.timing import MERGED, Timing

PAPER_URL = "https://aclanthology.org/2024.lrec-main.533/"


def page(result: Mapping[str, Any]) -> Page:
    """The page of a result. A part that was not measured says so."""
    tasks = tuple(result["settings"]["tasks"])
    scores = msgspec.convert(result["cells"], list[PaperScore])
    timings = msgspec.convert(result["timings"], list[Timing])
    texts = msgspec.convert(result["texts"], list[CountedTexts])
    means = mean_scores(scores)
    sections = [
        _paper(result),
        figures.accuracies(means, tasks),
        figures.inference_times(means, timings, tasks),
        figures.data_sizes(scores, tasks),
        figures.ablation(means, tasks),
        figures.trigram_figures(texts),
        figures.word_clouds(texts),
    ]
    lead = _lead(result["settings"]["model"], means, timings, tasks)
    return Page("The paper's tables and figures, measured again", sections, lead=lead, origin=[_sources(result)])


def _lead(model: str, means: MeanScores, timings: Sequence[Timing], tasks: Sequence[str]) -> str:
    lead = f"{model} on {in_words([TITLES.get(task, task) for task in tasks])}"
    ours, in_context = (mean_over_tasks(means, setup, tasks) for setup in (FOURSHOT, ICL))
    if ours is not None and in_context is not None:
        lead += (
            f": {100 * ours:.1f} % right with an adapter made from four examples per class and synthetic texts, "
            f"{100 * in_context:.1f} % with the four examples in the prompt"
        )
    if ratios := list(filter(None, (in_context_over(MERGED, timings, task, 1) for task in tasks))):
        spread = " to ".join(dict.fromkeys(f"{ratio:.1f}" for ratio in (min(ratios), max(ratios))))
        lead += f". A text at a time in transformers, the prompt with examples takes {spread} times as long"
    return f"{lead}."


def _paper(result: Mapping[str, Any]) -> Section:
    intro = Markup(
        "<p>This is the work of {}, whose recipe this project follows and changes. Its models were of another size "
        "than {} measured here, so what can be compared is not the height of the numbers but what they say: whether an "
        "adapter keeps up with examples in the prompt, what filtering brings, what more data brings, how much time is "
        "saved.</p>"
    ).format(link("Patwa et al. 2024", PAPER_URL), result["settings"]["model"])
    rows = [
        (fact.what, fact.paper, link(fact.source, fact.address) if fact.address else fact.source)
        for fact in msgspec.convert(result["facts"], list[Fact])
    ]
    left_out = (
        "The other accuracies of the paper's Table 1, its times, and the values behind its figures could not be looked "
        "up when this page was made. They are left out rather than recalled."
    )
    facts = Table(["", "the paper", "source"], rows, words=True)
    return Section("The paper, and what is known of it here", [intro, facts, left_out])


def _sources(result: Mapping[str, Any]) -> Table:
    rows = [
        (
            source["name"],
            TITLES.get(source["task"], source["task"]),
            ", ".join(map(str, source["seeds"])),
            source["commit"] or None,
            source["hardware"].get("processor"),
            source["hardware"].get("cores"),
        )
        for source in result["sources"]
    ]
    return Table(["comparison", "task", "draws", "commit", "processor", "cores"], rows)
