"""The parts of the page: Table 1, figures 4 to 7, the ablation. Values that were not measured are marked as such."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fourshot.bench.core.parts import Part, Section, TablePart
from fourshot.bench.core.results import task_title
from fourshot.bench.suites.paper import scores
from fourshot.bench.suites.paper.timing import BATCH, MERGED, CountedTexts, Timing
from fourshot.pipeline.cells.methods import METHODS
from fourshot.pipeline.report.cloud import word_cloud
from fourshot.pipeline.report.figures import BarSeries, Curve, bar_plot, line_plot
from fourshot.pipeline.report.text import count, duration

NOT_MEASURED = "not measured"
NO_TEXTS = "Not measured: no comparison that wrote texts was made here."
TIMED = (scores.ZERO_SHOT, scores.ICL, scores.LORA, (MERGED, scores.DEFAULT_SHOTS, 0))
BATCH_NAMES = {1: "one at a time", BATCH: f"{BATCH} at a time"}
SIDES = {"real": "real", "written": "synthetic, as written", "kept": "synthetic, kept"}


def accuracy_table(means: scores.MeanScores, tasks: Sequence[str]) -> TablePart:
    """Return Table 1: a row for each method, a column for each task."""
    rows: list[tuple[object, ...]] = []
    for setup in scores.TABLE:
        by_task = [means.get((task, *setup)) for task in tasks]
        tokens = ", ".join(count(mean.prompt_tokens if mean else None) for mean in by_task)
        texts = ", ".join(count(mean.synthetic_examples if mean else None) for mean in by_task) if setup[2] else "0"
        mean_accuracy = _per_cent(scores.mean_over_tasks(means, setup, tasks))
        rows.append((_setup_name(setup), *map(_accuracy, by_task), mean_accuracy, setup[1], texts, tokens))
    headings = ["", *map(task_title, tasks), "mean", "real per class", "synthetic, all classes", "prompt tokens"]
    note = (
        "Accuracy in per cent, ± the sample standard deviation over draws of the shots. The last two columns have one "
        f"number per task. {_measured_on(means, tasks, scores.TABLE)}"
    )
    return TablePart(headings, rows, note=note, chosen=scores.TABLE.index(scores.FOURSHOT))


def accuracies(means: scores.MeanScores, tasks: Sequence[str]) -> Section:
    parts: list[Part] = [accuracy_table(means, tasks)]
    bars = []
    for task in tasks:
        of_task = [means.get((task, *setup)) for setup in scores.TABLE]
        values = [100 * mean.accuracy if mean else None for mean in of_task]
        bars.append(BarSeries(task_title(task), values, [mean.interval if mean else None for mean in of_task]))
    if any(value is not None for series in bars for value in series.values):
        note = "Lines: one standard deviation over draws of the shots."
        parts.append(bar_plot(list(map(_setup_name, scores.TABLE)), bars, value_name="accuracy %", note=note))
    return Section("Table 1: accuracy", parts)


def bases_side_by_side(means_of: Mapping[str, scores.MeanScores], tasks: Sequence[str]) -> Section:
    """Return the section with every method's mean accuracy on every base. ``means_of``: the base's name -> scores."""
    rows = [
        (_setup_name(setup), *(_per_cent(scores.mean_over_tasks(means, setup, tasks)) for means in means_of.values()))
        for setup in scores.TABLE
    ]
    measured = [
        f"{base}: {_measured_on(means, tasks, scores.TABLE) or NOT_MEASURED}" for base, means in means_of.items()
    ]
    note = f"Mean accuracy over the tasks, in per cent. {' '.join(measured)}"
    table = TablePart(["", *means_of], rows, note=note, chosen=scores.TABLE.index(scores.FOURSHOT))
    bars = [
        BarSeries(base, [None if mean is None else 100 * mean for mean in values])
        for base, means in means_of.items()
        if any(values := [scores.mean_over_tasks(means, setup, tasks) for setup in scores.TABLE])
    ]
    figure = [bar_plot(list(map(_setup_name, scores.TABLE)), bars, value_name="mean accuracy %")] if bars else []
    return Section("The bases side by side", [table, *figure])


def inference_times(means: scores.MeanScores, timings: Sequence[Timing], tasks: Sequence[str]) -> Section:
    intro = (
        "Transformers is the paper's way: a forward pass for each prompt, without a prefix cache. vLLM was given all "
        "test texts at once with its prefix cache on, so that most of what prompts in context share is computed once."
    )
    headings = ["", "prompt tokens", *(f"{name}, per text" for name in BATCH_NAMES.values())]
    headings += ["one at a time, all test texts", "vLLM, all test texts"]
    note = (
        "Transformers: medians over a sample of the texts; for all test texts, that median times their number. Merged: "
        "the adapter added to the base's weights. vLLM: the seconds that the comparisons behind the accuracies took."
    )
    rows = [_time_row(means, timings, task, setup) for task in tasks for setup in TIMED]
    parts: list[Part] = [intro, TablePart(headings, rows, note=note)]
    if ratios := _time_ratios(means, timings, tasks):
        remark = "A summary of the paper reports about 2 to 5 times. Load and cache change the ratio, on both sides."
        parts.append(
            bar_plot(list(map(task_title, tasks)), ratios, value_name="in context over LoRA, times", note=remark)
        )
    return Section("Table 1: inference time", parts)


def _time_row(
    means: scores.MeanScores, timings: Sequence[Timing], task: str, setup: scores.Setup
) -> tuple[object, ...]:
    by_batch = {timing.batch: timing for timing in timings if (timing.task, timing.method) == (task, setup[0])}
    mean = means.get((task, *setup))
    tokens = mean.prompt_tokens if mean else next((timing.prompt_tokens for timing in by_batch.values()), None)
    per_text = [duration(by_batch[n].s_per_text) if n in by_batch else NOT_MEASURED for n in BATCH_NAMES]
    num_test = max((mean.n for key, mean in means.items() if key[0] == task), default=0)
    all_texts = duration(by_batch[1].s_per_text * num_test) if num_test and 1 in by_batch else NOT_MEASURED
    name = "LoRA, merged" if setup[0] == MERGED else _setup_name(setup)
    in_vllm = duration(mean.seconds) if mean else NOT_MEASURED
    return f"{task_title(task)}, {name}", count(tokens), *per_text, all_texts, in_vllm


def _time_ratios(means: scores.MeanScores, timings: Sequence[Timing], tasks: Sequence[str]) -> list[BarSeries]:
    """Return the ratios of in context over LoRA, per task: first prompt tokens, as a reference, then times."""
    pairs = [(means.get((task, *scores.ICL)), means.get((task, *scores.LORA))) for task in tasks]
    series = [BarSeries("prompt tokens", [a.prompt_tokens / b.prompt_tokens if a and b else None for a, b in pairs])]
    series += [
        BarSeries(
            f"transformers, {name}, {batch_name}",
            [scores.in_context_over(method, timings, task, batch) for task in tasks],
        )
        for method, name in ((scores.LORA[0], "LoRA"), (MERGED, "LoRA merged"))
        for batch, batch_name in BATCH_NAMES.items()
    ]
    in_vllm = [a.seconds / b.seconds if a and b else None for a, b in pairs]
    series.append(BarSeries("vLLM, all at once, prefix cache", in_vllm))
    return [bars for bars in series if any(value is not None for value in bars.values)]


def data_sizes(cells: Sequence[scores.PaperScore], tasks: Sequence[str]) -> Section:
    intro = (
        "Accuracy against the number of texts per class that LoRA was trained on. Real: labelled texts alone. "
        "Synthetic: four labelled ones, the rest written and kept by the default recipe."
    )
    figures = [part for task in tasks for part in _size_figure(cells, task)]
    return Section("Figures 5 and 6: how much data", [intro, *(figures or [f"More than two sizes: {NOT_MEASURED}."])])


def _size_figure(cells: Sequence[scores.PaperScore], task: str) -> list[Part]:
    setups = scores.mean_scores(cells)
    real = sorted((setup for setup in setups if setup[:2] == (task, "lora")), key=lambda setup: setup[2])
    synthetic = sorted((setup for setup in setups if setup[:2] == (task, "fourshot")), key=lambda setup: setup[3])
    seeds = scores.shared_seeds(cells, [*real, *synthetic])
    if (len(real) < 3 and len(synthetic) < 2) or not seeds or (task, *scores.LORA) not in setups:
        return []
    means = scores.mean_scores(cells, seeds)
    lines = {"real": real, "synthetic": [(task, *scores.LORA), *synthetic]}
    curves = []
    for name, line in lines.items():
        points = [(setup[2] + setup[3], 100 * means[setup].accuracy) for setup in line]
        curves.append(Curve(name, points, [means[setup].interval for setup in line]))
    least = count(min(means[setup].n for setup in (*real, *synthetic)))
    about = f"{task_title(task)}, {_draws(len(seeds))} of the shots, {least} test texts."
    rows = [
        (name, real_texts, requested, _accuracy(mean), count(mean.synthetic_examples) if requested else None)
        for name, line in lines.items()
        for (_, _, real_texts, requested), mean in ((setup, means[setup]) for setup in line)
    ]
    headings = ["", "real per class", "synthetic per class, asked for", "accuracy %", "synthetic, all classes, kept"]
    return [
        line_plot(curves, x_name="texts per class", y_name="accuracy %", y_from_zero=False, note=about),
        TablePart(headings, rows),
    ]


def ablation(means: scores.MeanScores, tasks: Sequence[str]) -> Section:
    rows: list[tuple[object, ...]] = []
    for setup, annotator in scores.ABLATION.items():
        by_task = [_accuracy(means.get((task, *setup))) for task in tasks]
        rows.append((annotator, *by_task, _per_cent(scores.mean_over_tasks(means, setup, tasks))))
    intro = Markup(
        "<p>The same number kept, the same training: only who re-labels the texts differs. In context is the "
        "paper's way, though calibrated here. All start from {} labelled texts per class.</p>"
    ).format(scores.DEFAULT_SHOTS)
    note = f"Accuracy in per cent. {_measured_on(means, tasks, list(scores.ABLATION))}"
    table = TablePart(["filter", *map(task_title, tasks), "mean"], rows, note=note, chosen=len(scores.ABLATION) - 1)
    return Section("The ablation: filter off and on", [intro, table])


def trigram_figures(counted: Sequence[CountedTexts]) -> Section:
    intro = (
        "Distinct word tri-grams among a number of texts, the mean over all orders in which they could be counted. "
        "Texts that repeat one another make a flatter curve, and so do shorter ones."
    )
    figures: list[Part] = [_trigram_figure(texts) for texts in counted]
    return Section("Figure 7: how varied the texts are", [intro, *(figures or [NO_TEXTS])])


def _trigram_figure(texts: CountedTexts) -> Markup:
    curves = {side: texts.trigrams[side] for side in SIDES if side in texts.trigrams}
    num_texts = min(texts.num[side] for side in curves)
    at_most = {
        side: next(value for size, value in reversed(curve) if size <= num_texts) for side, curve in curves.items()
    }
    numbers = "; ".join(f"{SIDES[side]} {count(value)}" for side, value in at_most.items())
    about = f"{task_title(texts.task)}, draw {texts.seed}. Among about {count(num_texts)} texts: {numbers}."
    drawn = [Curve(SIDES[side], curve) for side, curve in curves.items()]
    return line_plot(drawn, x_name="texts", y_name="distinct tri-grams", note=about)


def word_clouds(counted: Sequence[CountedTexts]) -> Section:
    intro = (
        "The most frequent words of real and of kept synthetic texts, all classes together. The paper's clouds are of "
        "positive movie reviews, to go by the names of its figure's files."
    )
    pairs: list[Part] = [
        Markup('<div class="pair">{}</div>').format(Markup("").join(_cloud(texts, side) for side in ("real", "kept")))
        for texts in counted
    ]
    return Section("Figure 4: frequent words", [intro, *(pairs or [NO_TEXTS])])


def _cloud(texts: CountedTexts, side: str) -> Markup:
    words, name = texts.words.get(side), f"{task_title(texts.task)}, {SIDES[side]}"
    if words:
        picture = word_cloud(words, f"Frequent words, {name}: {', '.join(list(words)[:12])}")
    else:
        picture = Markup("<p>none</p>")
    return Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(name, picture)


def _setup_name(setup: scores.Setup) -> str:
    """Return the method's display name. LoRA on other than the default shots is named by its number of real texts."""
    method, real, _ = setup
    return f"LoRA on {real} real" if method == "lora" and real != scores.DEFAULT_SHOTS else METHODS[method].display_name


def _accuracy(mean: scores.MeanScore | None) -> str:
    if mean is None:
        return NOT_MEASURED
    return f"{100 * mean.accuracy:.1f}" + (f" ± {100 * mean.deviation:.1f}" if mean.deviation else "")


def _per_cent(share: float | None) -> str:
    return NOT_MEASURED if share is None else f"{100 * share:.1f}"


def _draws(number: int) -> str:
    return "1 draw" if number == 1 else f"{number} draws"


def _measured_on(means: scores.MeanScores, tasks: Sequence[str], setups: Sequence[scores.Setup]) -> str:
    """Return the numbers of test texts and draws of the shots behind ``setups``, per task, as a sentence."""
    parts = []
    for task in tasks:
        of_task = [means[task, *setup] for setup in setups if (task, *setup) in means]
        if of_task:
            seeds = sorted({mean.seeds for mean in of_task})
            several = _draws(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {_draws(seeds[-1])}"
            parts.append(f"{task_title(task)}: {count(min(mean.n for mean in of_task))} test texts, {several}")
    return f"{'; '.join(parts)}." if parts else ""
