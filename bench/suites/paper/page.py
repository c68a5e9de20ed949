"""The page: what was measured, in the order of the paper's tables and figures, beside what is known of its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from markupsafe import Markup

from fourshot.bench.core.comparisons import in_words
from fourshot.bench.core.page import link
from fourshot.bench.core.parts import Page, Section, TablePart
from fourshot.bench.core.results import task_title
from fourshot.bench.suites.paper import figures
from fourshot.bench.suites.paper.bases import BaseResult, base_results
from fourshot.bench.suites.paper.plan import Fact
from fourshot.bench.suites.paper.scores import (
    FOURSHOT,
    ICL,
    MeanScores,
    in_context_over,
    mean_over_tasks,
    mean_scores,
)
from fourshot.bench.suites.paper.timing import MERGED, Timing

PAPER_URL = "https://aclanthology.org/2024.lrec-main.533/"


def page(result: Mapping[str, Any]) -> Page:
    """The page of a result: one base, or several side by side. A part that was not measured says so."""
    tasks, bases = tuple(result["settings"]["tasks"]), base_results(result)
    means = {title: mean_scores(base.cells) for title, base in bases.items()}
    sections = [_paper(result, list(means))]
    if len(bases) > 1:
        sections.append(figures.bases_side_by_side(means, tasks))
    for title, base in bases.items():
        prefix = f"{title}: " if len(bases) > 1 else ""
        sections += [Section(prefix + section.title, section.parts) for section in _of_base(base, tasks)]
    lead = " ".join(_lead(title, means[title], base.timings, tasks) for title, base in bases.items())
    return Page("The paper's tables and figures, measured again", sections, lead=lead, origin=[_sources(bases)])


def _of_base(base: BaseResult, tasks: Sequence[str]) -> list[Section]:
    means = mean_scores(base.cells)
    return [
        figures.accuracies(means, tasks),
        figures.inference_times(means, base.timings, tasks),
        figures.data_sizes(base.cells, tasks),
        figures.ablation(means, tasks),
        figures.trigram_figures(base.texts),
        figures.word_clouds(base.texts),
    ]


def _lead(model: str, means: MeanScores, timings: Sequence[Timing], tasks: Sequence[str]) -> str:
    lead = f"{model} on {in_words([task_title(task) for task in tasks])}"
    fourshot, in_context = (mean_over_tasks(means, setup, tasks) for setup in (FOURSHOT, ICL))
    if fourshot is not None and in_context is not None:
        lead += (
            f": {100 * fourshot:.1f} % right with an adapter made from four examples per class and synthetic texts, "
            f"{100 * in_context:.1f} % with the four examples in the prompt"
        )
    if ratios := list(filter(None, (in_context_over(MERGED, timings, task, 1) for task in tasks))):
        spread = " to ".join(dict.fromkeys(f"{ratio:.1f}" for ratio in (min(ratios), max(ratios))))
        lead += f". A text at a time in transformers, the prompt with examples takes {spread} times as long"
    return f"{lead}."


def _paper(result: Mapping[str, Any], bases: Sequence[str]) -> Section:
    intro = Markup(
        "<p>This is the work of {}, whose recipe this project follows and changes. Its models were of another size "
        "than {} measured here, so what can be compared is not the height of the numbers but what they say: whether an "
        "adapter keeps up with examples in the prompt, what filtering brings, what more data brings, how much time is "
        "saved.</p>"
    ).format(link("Patwa et al. 2024", PAPER_URL), in_words(bases))
    rows = [
        (fact.what, fact.paper, link(fact.source, fact.address) if fact.address else fact.source)
        for fact in msgspec.convert(result["facts"], list[Fact])
    ]
    left_out = (
        "The other accuracies of the paper's Table 1, its times, and the values behind its figures could not be looked "
        "up when this page was made. They are left out rather than recalled."
    )
    facts = TablePart(["", "the paper", "source"], rows, words=True)
    return Section("The paper, and what is known of it here", [intro, facts, left_out])


def _sources(bases: Mapping[str, BaseResult]) -> TablePart:
    rows = [
        (
            source["name"],
            *([title] if len(bases) > 1 else []),
            task_title(source["task"]),
            ", ".join(map(str, source["seeds"])),
            source["commit"] or None,
            source["hardware"].get("processor"),
            source["hardware"].get("cores"),
        )
        for title, base in bases.items()
        for source in base.sources
    ]
    headings = ["comparison", *(["base"] if len(bases) > 1 else []), "task", "draws", "commit", "processor", "cores"]
    return TablePart(headings, rows)
