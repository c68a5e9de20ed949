"""The page: what was measured, in the order of the paper's tables and figures, beside what is known of its numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from markupsafe import Markup

from fourshot.bench.core.old_page import Section, Table, link, provenance, targets, write_page
from fourshot.bench.suites.paper import findings
from fourshot.bench.suites.paper.cells import Identity, Mean, means
from fourshot.bench.suites.paper.findings import FOURSHOT, ICL
from fourshot.bench.suites.paper.measure import SCHEMA, Result
from fourshot.bench.suites.paper.results import ablation, accuracies, sizes, times
from fourshot.bench.suites.paper.timing import MERGED
from fourshot.bench.suites.paper.variety import clouds, trigrams
from fourshot.bench.suites.paper.wording import listed, task_name
from fourshot.engine.errors import InputError

PAPER = "https://aclanthology.org/2024.lrec-main.533/"


def read_result(path: Path) -> Result:
    """Raises `InputError` for a file that is no result of this suite."""
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is no result of `fourshot bench paper`: {error}.") from error
    if (result.schema, result.suite) != (SCHEMA, "paper"):
        raise InputError(f"{path} is suite {result.suite!r}, schema {result.schema}; this draws paper, {SCHEMA}.")
    return result


def write(result: Result, path: Path) -> Path:
    """Draw the page of ``result``. A part that was not measured says so."""
    tasks = tuple(result.settings["tasks"])
    known = means(result.cells)
    plain = msgspec.to_builtins(result)
    sections = [
        _paper(result),
        accuracies(known, tasks),
        times(known, result.timings, tasks),
        sizes(result.cells, tasks),
        ablation(known, tasks),
        trigrams(result.texts),
        clouds(result.texts),
        *([targets(plain)] if result.targets else []),
        provenance(plain, _sources(result)),
    ]
    title = "The paper's tables and figures, measured again"
    return write_page(path, title, sections, lead=_lead(result, known, tasks))


def _lead(result: Result, known: Mapping[Identity, Mean], tasks: Sequence[str]) -> str:
    words = f"{result.settings['model']} on {listed([task_name(task) for task in tasks])}"
    ours, in_context = (findings.mean_over_tasks(known, row, tasks) for row in (FOURSHOT, ICL))
    if ours is not None and in_context is not None:
        words += (
            f": {100 * ours:.1f} % right with an adapter made from four examples per class and synthetic texts, "
            f"{100 * in_context:.1f} % with the four examples in the prompt"
        )
    ratios = [findings.in_context_over(MERGED, result.timings, task, 1) for task in tasks]
    measured = [ratio for ratio in ratios if ratio is not None]
    if measured:
        spread = " to ".join(dict.fromkeys(f"{ratio:.1f}" for ratio in (min(measured), max(measured))))
        words += f". A text at a time in transformers, the prompt with examples takes {spread} times as long"
    return f"{words}."


def _paper(result: Result) -> Section:
    intro = Markup(
        "<p>This is the work of {}, whose recipe this project follows and changes. Its models were of another size "
        "than {} measured here, so what can be compared is not the height of the numbers but what they say: whether an "
        "adapter keeps up with examples in the prompt, what filtering brings, what more data brings, how much time is "
        "saved.</p>"
    ).format(link("Patwa et al. 2024", PAPER), result.settings["model"])
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


def _sources(result: Result) -> Table:
    rows = [
        (
            source.name,
            task_name(source.task),
            ", ".join(map(str, source.seeds)),
            source.commit or None,
            source.hardware.get("processor"),
            source.hardware.get("cores"),
        )
        for source in result.sources
    ]
    return Table(["comparison", "task", "draws", "commit", "processor", "cores"], rows)
