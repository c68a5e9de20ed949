"""The parts of the page that stand on accuracies and times: Table 1, figures 5 and 6, the ablation."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fourshot.bench.core.old_page import Part, Section, Table
from fourshot.bench.core.plots import Bars, Curve, bar_plot, line_plot
from fourshot.bench.suites.paper.cells import Cell, Identity, Mean, means, shared_seeds
from fourshot.bench.suites.paper.findings import (
    ABLATION,
    DEFAULT_SHOTS,
    FOURSHOT,
    ICL,
    LORA,
    TABLE,
    ZERO_SHOT,
    in_context_over,
    mean_over_tasks,
)
from fourshot.bench.suites.paper.timing import BATCH, MERGED, Timing
from fourshot.bench.suites.paper.wording import (
    NOT_MEASURED,
    accuracy,
    draws,
    measured_on,
    per_cent,
    row_name,
    task_name,
)
from fourshot.pipeline.report.text import count, duration

TIMED = (ZERO_SHOT, ICL, LORA, (MERGED, DEFAULT_SHOTS, 0))
HOW = {1: "one at a time", BATCH: f"{BATCH} at a time"}  # batch size -> in words


def accuracies(known: Mapping[Identity, Mean], tasks: Sequence[str]) -> Section:
    rows: list[tuple[object, ...]] = []
    for row in TABLE:
        found = [known.get((task, *row)) for task in tasks]
        tokens = ", ".join(count(mean.prompt_tokens if mean else None) for mean in found)
        texts = ", ".join(count(mean.synthetic_examples if mean else None) for mean in found) if row[2] else "0"
        rows.append(
            (row_name(row), *map(accuracy, found), per_cent(mean_over_tasks(known, row, tasks)), row[1], texts, tokens)
        )
    headings = ["", *map(task_name, tasks), "mean", "real per class", "synthetic, all classes", "prompt tokens"]
    note = (
        "Accuracy in per cent, ± the sample standard deviation over draws of the shots. The last two columns have one "
        f"number per task. {measured_on(known, tasks, TABLE)}"
    )
    parts: list[Part] = [Table(headings, rows, note=note, chosen=TABLE.index(FOURSHOT))]
    bars = []
    for task in tasks:
        of_task = [known.get((task, *row)) for row in TABLE]
        values = [100 * mean.accuracy if mean else None for mean in of_task]
        bars.append(Bars(task_name(task), values, [mean.interval if mean else None for mean in of_task]))
    if any(value is not None for one in bars for value in one.values):
        under = "Lines: one standard deviation over draws of the shots."
        parts.append(bar_plot([row_name(row) for row in TABLE], bars, value_name="accuracy %", note=under))
    return Section("Table 1: accuracy", parts)


def times(known: Mapping[Identity, Mean], timings: Sequence[Timing], tasks: Sequence[str]) -> Section:
    intro = (
        "Transformers is the paper's way: a forward pass for each prompt, without a prefix cache. vLLM was given all "
        "test texts at once with its prefix cache on, so that most of what prompts in context share is computed once."
    )
    headings = ["", "prompt tokens", *(f"{how}, per text" for how in HOW.values()), "one at a time, all test texts"]
    headings.append("vLLM, all test texts")
    note = (
        "Transformers: medians over a sample of the texts; for all test texts, that median times their number. Merged: "
        "the adapter added to the base's weights. vLLM: the seconds that the comparisons behind the accuracies took."
    )
    rows = [_time_row(known, timings, task, row) for task in tasks for row in TIMED]
    parts: list[Part] = [intro, Table(headings, rows, note=note)]
    if ratios := _ratios(known, timings, tasks):
        under = "The paper is told to have found about 2 to 5 times. Load and cache change the ratio, on both sides."
        names = [task_name(task) for task in tasks]
        parts.append(bar_plot(names, ratios, value_name="in context over LoRA, times", note=under))
    return Section("Table 1: inference time", parts)


def _time_row(
    known: Mapping[Identity, Mean], timings: Sequence[Timing], task: str, row: tuple[str, int, int]
) -> tuple[object, ...]:
    took = {one.batch: one for one in timings if (one.task, one.method) == (task, row[0])}
    mean = known.get((task, *row))
    tokens = mean.prompt_tokens if mean else next((one.prompt_tokens for one in took.values()), None)
    per_text = [duration(took[batch].s_per_text) if batch in took else NOT_MEASURED for batch in HOW]
    num_test = max((one.n for key, one in known.items() if key[0] == task), default=0)
    whole = duration(took[1].s_per_text * num_test) if num_test and 1 in took else NOT_MEASURED
    name = "LoRA, merged" if row[0] == MERGED else row_name(row)
    in_vllm = duration(mean.seconds) if mean else NOT_MEASURED
    return f"{task_name(task)}, {name}", count(tokens), *per_text, whole, in_vllm


def _ratios(known: Mapping[Identity, Mean], timings: Sequence[Timing], tasks: Sequence[str]) -> list[Bars]:
    """In context over LoRA: prompt tokens, which is what a time could follow, then the times."""
    pairs = [(known.get((task, *ICL)), known.get((task, *LORA))) for task in tasks]
    series = [Bars("prompt tokens", [a.prompt_tokens / b.prompt_tokens if a and b else None for a, b in pairs])]
    series += [
        Bars(f"transformers, {name}, {how}", [in_context_over(method, timings, task, batch) for task in tasks])
        for method, name in ((LORA[0], "LoRA"), (MERGED, "LoRA merged"))
        for batch, how in HOW.items()
    ]
    series.append(
        Bars("vLLM, all at once, prefix cache", [a.seconds / b.seconds if a and b else None for a, b in pairs])
    )
    return [one for one in series if any(value is not None for value in one.values)]


def sizes(cells: Sequence[Cell], tasks: Sequence[str]) -> Section:
    parts: list[Part] = [
        "Accuracy against the number of texts per class that LoRA was trained on. Real: labelled texts alone. "
        "Synthetic: four labelled ones, the rest written and kept by the default recipe.",
    ]
    drawn = [part for task in tasks for part in _size_figure(cells, task)]
    return Section("Figures 5 and 6: how much data", [*parts, *(drawn or [f"More than two sizes: {NOT_MEASURED}."])])


def _size_figure(cells: Sequence[Cell], task: str) -> list[Part]:
    keys = means(cells)
    real = sorted((key for key in keys if key[:2] == (task, "lora")), key=lambda key: key[2])
    synthetic = sorted((key for key in keys if key[:2] == (task, "fourshot")), key=lambda key: key[3])
    seeds = shared_seeds(cells, [*real, *synthetic])
    if (len(real) < 3 and len(synthetic) < 2) or not seeds or (task, *LORA) not in keys:
        return []
    known = means(cells, seeds)
    lines = {"real": real, "synthetic": [(task, *LORA), *synthetic]}
    curves = []
    for name, line in lines.items():
        points = [(key[2] + key[3], 100 * known[key].accuracy) for key in line]
        curves.append(Curve(name, points, [known[key].interval for key in line]))
    least = count(min(known[key].n for key in (*real, *synthetic)))
    about = f"{task_name(task)}, {draws(len(seeds))} of the shots, {least} test texts."
    rows = [
        (name, key[2], key[3], accuracy(known[key]), count(known[key].synthetic_examples) if key[3] else None)
        for name, line in lines.items()
        for key in line
    ]
    headings = ["", "real per class", "synthetic per class, asked for", "accuracy %", "synthetic, all classes, kept"]
    return [
        line_plot(curves, x_name="texts per class", y_name="accuracy %", y_from_zero=False, note=about),
        Table(headings, rows),
    ]


def ablation(known: Mapping[Identity, Mean], tasks: Sequence[str]) -> Section:
    rows: list[tuple[object, ...]] = []
    for row, filtered in ABLATION.items():
        mean = per_cent(mean_over_tasks(known, row, tasks))
        rows.append((filtered, *(accuracy(known.get((task, *row))) for task in tasks), mean))
    intro = Markup(
        "<p>The same number kept, the same training: only who re-labels the texts differs. In context is the "
        "paper's way, though calibrated here. All start from {} labelled texts per class.</p>"
    ).format(DEFAULT_SHOTS)
    note = f"Accuracy in per cent. {measured_on(known, tasks, list(ABLATION))}"
    table = Table(["filter", *map(task_name, tasks), "mean"], rows, note=note, chosen=len(ABLATION) - 1)
    return Section("The ablation: filter off and on", [intro, table])
