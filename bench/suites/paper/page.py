"""The page: what was measured, in the order of the paper's tables and figures, beside what is known of its numbers."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from markupsafe import Markup

from fourshot.bench.core.comparisons import in_words
from fourshot.bench.core.page import link, write_page
from fourshot.bench.core.parts import Page, Section, Table
from fourshot.bench.core.results import TITLES
from fourshot.bench.suites.paper.figures import (
    ablation,
    accuracies,
    data_sizes,
    inference_times,
    trigram_figures,
    word_clouds,
)
from fourshot.bench.suites.paper.measure import SCHEMA, PaperResult
from fourshot.bench.suites.paper.scores import FOURSHOT, ICL, MeanScores, in_context_over, mean_over_tasks, mean_scores
from fourshot.bench.suites.paper.timing import MERGED
from fourshot.engine.errors import InputError

PAPER_URL = "https://aclanthology.org/2024.lrec-main.533/"


def read_result(path: Path) -> PaperResult:
    """Raises `InputError` for a file that is no result of this suite."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=PaperResult)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is no result of `fourshot bench paper`: {error}.") from error
    if (result.schema, result.suite) != (SCHEMA, "paper"):
        raise InputError(f"{path} is suite {result.suite!r}, schema {result.schema}; this draws paper, {SCHEMA}.")
    return result


def write(result: PaperResult, path: Path) -> Path:
    """Draw the page of ``result``. A part that was not measured says so."""
    tasks = tuple(result.settings["tasks"])
    means = mean_scores(result.cells)
    sections = [
        _paper(result),
        accuracies(means, tasks),
        inference_times(means, result.timings, tasks),
        data_sizes(result.cells, tasks),
        ablation(means, tasks),
        trigram_figures(result.texts),
        word_clouds(result.texts),
    ]
    title = "The paper's tables and figures, measured again"
    page = Page(title, sections, lead=_lead(result, means, tasks), origin=[_sources(result)])
    return write_page(path, page, msgspec.to_builtins(result))


def _lead(result: PaperResult, means: MeanScores, tasks: Sequence[str]) -> str:
    lead = f"{result.settings['model']} on {in_words([TITLES.get(task, task) for task in tasks])}"
    ours, in_context = (mean_over_tasks(means, setup, tasks) for setup in (FOURSHOT, ICL))
    if ours is not None and in_context is not None:
        lead += (
            f": {100 * ours:.1f} % right with an adapter made from four examples per class and synthetic texts, "
            f"{100 * in_context:.1f} % with the four examples in the prompt"
        )
    if ratios := list(filter(None, (in_context_over(MERGED, result.timings, task, 1) for task in tasks))):
        spread = " to ".join(dict.fromkeys(f"{ratio:.1f}" for ratio in (min(ratios), max(ratios))))
        lead += f". A text at a time in transformers, the prompt with examples takes {spread} times as long"
    return f"{lead}."


def _paper(result: PaperResult) -> Section:
    intro = Markup(
        "<p>This is the work of {}, whose recipe this project follows and changes. Its models were of another size "
        "than {} measured here, so what can be compared is not the height of the numbers but what they say: whether an "
        "adapter keeps up with examples in the prompt, what filtering brings, what more data brings, how much time is "
        "saved.</p>"
    ).format(link("Patwa et al. 2024", PAPER_URL), result.settings["model"])
    rows = [
        (fact.what, fact.paper, link(fact.source, fact.address) if fact.address else fact.source)
        for fact in result.facts
    ]
    left_out = (
        "The other accuracies of the paper's Table 1, its times, and the values behind its figures could not be looked "
        "up when this page was made. They are left out rather than recalled."
    )
    return Section(
        "The paper, and what is known of it here",
        [intro, Table(["", "the paper", "source"], rows, words=True), left_out],
    )


def _sources(result: PaperResult) -> Table:
    rows = [
        (
            source.name,
            TITLES.get(source.task, source.task),
            ", ".join(map(str, source.seeds)),
            source.commit or None,
            source.hardware.get("processor"),
            source.hardware.get("cores"),
        )
        for source in result.sources
    ]
    return Table(["comparison", "task", "draws", "commit", "processor", "cores"], rows)
