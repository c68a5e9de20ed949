"""The tables and figures of Patwa et al. 2024, measured on this machine, with the known numbers of the paper.

    fourshot bench paper --data FOLDER --out FILE.json --report FILE.html

FOLDER has a folder of train and test files for each task. Comparisons are stored in --runs, one folder each, and the
same command continues after a kill. --from accepts existing results of `fourshot compare`. The size small is for two
cores, full for GPUs; bench/suites/paper/settings.toml lists their comparisons. With --models A,B, each base is measured
separately, in its own folder in --runs, and the page compares them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from markupsafe import Markup

from fourshot.bench.core.comparisons import in_words
from fourshot.bench.core.parts import Page, Part, Section, TablePart, link, write_page
from fourshot.bench.core.results import FinishedPieces, read_result, show_progress, task_title, write_result
from fourshot.bench.core.suite import Suite
from fourshot.bench.suites.paper import figures, scores
from fourshot.bench.suites.paper.measure import PaperMeasurement, base_options, measure_bases
from fourshot.bench.suites.paper.plan import Fact, Options, resolved_plan
from fourshot.bench.suites.paper.timing import BATCH, MERGED, Timing
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import InputError

PAPER_URL = "https://aclanthology.org/2024.lrec-main.533/"


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Measure what is missing. The result is written after every step, so it survives a kill."""
    header, out = done.header, options.out
    assert out
    if options.models:
        header["settings"] = {**header["settings"], "model": in_words([base.name for base in base_options(options)])}

    def write(result: dict[str, Any]) -> None:
        write_result(out, {**header, **result})

    if not options.models:
        return PaperMeasurement(options, write).run()
    return {"settings": header["settings"], **measure_bases(options, write, PaperMeasurement)}


def settings(options: Options) -> dict[str, Any]:
    plan = resolved_plan(options)
    bases = list(base_options(options)) if options.models else [resolve_model(options.model)]
    return {
        "size": options.size,
        "model_revision": in_words([base.revision for base in bases]),
        "tasks": plan.tasks,
        "seeds": list(range(plan.seeds)),
        "test_limit": plan.test_limit,
        "timed_texts": plan.timed_texts,
        "batch": BATCH,
    }


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return Table 1 of every base."""
    parts: list[Part] = []
    for title, base in scores.base_results(result).items():
        parts += [f"**{title}**", figures.accuracy_table(scores.mean_scores(base.cells), result["settings"]["tasks"])]
    return parts


def page(result: Mapping[str, Any]) -> Page:
    """Return the page of a result with one base, or several side by side. Parts that were not measured say so."""
    tasks, bases = tuple(result["settings"]["tasks"]), scores.base_results(result)
    means = {title: scores.mean_scores(base.cells) for title, base in bases.items()}
    sections = [_paper(result, list(means))]
    if len(bases) > 1:
        sections.append(figures.bases_side_by_side(means, tasks))
    for title, base in bases.items():
        prefix = f"{title}: " if len(bases) > 1 else ""
        sections += [Section(prefix + section.title, section.parts) for section in _of_base(base, tasks)]
    lead = " ".join(_lead(title, means[title], base.timings, tasks) for title, base in bases.items())
    return Page("The paper's tables and figures, measured again", sections, lead=lead, origin=[_sources(bases)])


def _of_base(base: scores.BaseResult, tasks: Sequence[str]) -> list[Section]:
    means = scores.mean_scores(base.cells)
    return [
        figures.accuracies(means, tasks),
        figures.inference_times(means, base.timings, tasks),
        figures.data_sizes(base.cells, tasks),
        figures.ablation(means, tasks),
        figures.trigram_figures(base.texts),
        figures.word_clouds(base.texts),
    ]


def _lead(model: str, means: scores.MeanScores, timings: Sequence[Timing], tasks: Sequence[str]) -> str:
    lead = f"{model} on {in_words([task_title(task) for task in tasks])}"
    fourshot, in_context = (scores.mean_over_tasks(means, setup, tasks) for setup in (scores.FOURSHOT, scores.ICL))
    if fourshot is not None and in_context is not None:
        lead += (
            f": {100 * fourshot:.1f} % right with an adapter made from four examples per class and synthetic texts, "
            f"{100 * in_context:.1f} % with the four examples in the prompt"
        )
    if ratios := list(filter(None, (scores.in_context_over(MERGED, timings, task, 1) for task in tasks))):
        spread = " to ".join(dict.fromkeys(f"{ratio:.1f}" for ratio in (min(ratios), max(ratios))))
        lead += f". A text at a time in transformers, the prompt with examples takes {spread} times as long"
    return f"{lead}."


def _paper(result: Mapping[str, Any], bases: Sequence[str]) -> Section:
    intro = Markup(
        "<p>This is the work of {}, whose recipe this project follows and changes. Its models were of another size "
        "than {} measured here, so the numbers cannot be compared, but what they show can: whether an adapter keeps "
        "up with examples in the prompt, what filtering brings, what more data brings, how much time is saved.</p>"
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


def _sources(bases: Mapping[str, scores.BaseResult]) -> TablePart:
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


def draw(options: Options) -> bool:
    """With --draw, write its page to --report and return True. Raises InputError without --report, or else --out."""
    if options.draw:
        if not options.report:
            raise InputError("--draw needs --report FILE.html: where the page goes.")
        result = read_result(options.draw, "paper")
        show_progress(f"Page: {write_page(options.report, page(result), result)}")
    elif not options.out:
        raise InputError("--out FILE.json is needed: where the result goes.")
    return bool(options.draw)


SUITE = Suite(
    options=Options,
    measure=measure,
    settings=settings,
    tasks=lambda options: resolved_plan(options).tasks,
    report=report,
    page=page,
    alternative_action=draw,
)
