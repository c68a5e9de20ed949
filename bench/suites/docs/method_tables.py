"""The tables and sentences made from results of `fourshot compare`, for the README and docs/.

They include the README's short table, the full table with its targets, and the table of docs/training.md.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from fourshot.bench.core.comparisons import Comparisons, draw_means, in_words, method_rows
from fourshot.bench.core.parts import MISSING, TablePart, Target, at_least, at_most, markdown, target_lines
from fourshot.bench.core.results import TITLES, short_name
from fourshot.pipeline.provenance import source_commit
from fourshot.pipeline.report.data import MethodRow


class MethodColumn(NamedTuple):
    """A column of a value per task; it is shown if the results have the value."""

    field: str  # attribute of `MethodRow`
    heading: str
    digits: int = 0
    factor: float = 1.0

    def of(self, row: MethodRow | None) -> float | None:
        value = getattr(row, self.field, None)
        return None if value is None else self.factor * value


BY_TASK = (
    MethodColumn("ece_before", "ECE before the temperature", 2),
    MethodColumn("ece", "ECE", 2),
    MethodColumn("surest_80", "accuracy on the most confident 80 %", 1, 100),
    MethodColumn("prompt_tokens_per_example", "prompt tokens per text"),
    MethodColumn("real_examples", "real texts"),
    MethodColumn("synthetic_examples", "synthetic texts"),
)
OVER_TASKS = tuple(
    column for column in BY_TASK if column.field in ("ece", "surest_80", "prompt_tokens_per_example")
)  # for the short table, as means
ACCURACY_GOAL, ACCURACY_GOALS = 80, {"Qwen2.5-Coder-0.5B-Instruct": 81}  # per cent, mean over the tasks; goals by base
WORDING_PAIRS = {"lora": "lora_bare", "fourshot": "fourshot_bare", "lora25": "lora25_bare"}  # instruction -> none


def targets(comparisons: Comparisons) -> list[Target]:
    """Return the targets of fourshot. Points are percentage points of accuracy; a negative goal allows a loss."""
    model_name = next(iter(comparisons.values())).model_name
    fourshot_rows = method_rows(comparisons, "fourshot")
    accuracies = [row.accuracy for row in fourshot_rows]

    def points_above(method: str) -> list[float]:
        rows = method_rows(comparisons, method)
        return [100 * (accuracy - row.accuracy) for accuracy, row in zip(accuracies, rows, strict=True)]

    goals = [
        ("fourshot, mean accuracy", "%", 100 * fmean(accuracies), ACCURACY_GOALS.get(model_name, ACCURACY_GOAL)),
        ("fourshot above icl, mean", "points", fmean(points_above("icl")), 10),
        ("fourshot above lora, mean", "points", fmean(points_above("lora")), 5),
        ("fourshot above lora, worst task", "points", min(points_above("lora")), 0),
        ("fourshot above lora25, mean", "points", fmean(points_above("lora25")), -6),
    ]
    if all(comparison.row("icl_calibrated") for comparison in comparisons.values()):
        above = points_above("icl_calibrated")
        goals.append(("fourshot above icl_calibrated, mean", "points", fmean(above), 5))
        goals.append(("fourshot above icl_calibrated, worst task", "points", min(above), 0))
    # Rounded, because equal values may differ in the last bit.
    set_out = [at_least(name, unit, measured, goal, digits=6) for name, unit, measured, goal in goals]
    for name, errors, goal in (
        (
            "fourshot, calibration error before the temperature, worst task",
            [row.ece_before for row in fourshot_rows],
            0.08,
        ),
        ("fourshot, calibration error, worst task", [row.ece for row in fourshot_rows], 0.05),
    ):
        measured = [error for error in errors if error is not None]
        if len(measured) == len(fourshot_rows):
            set_out.append(at_most(name, "", max(measured), goal, digits=6))
    return set_out


def targets_result(comparisons: Comparisons) -> dict[str, Any]:
    """Return the content of compare-targets.json."""
    first = next(iter(comparisons.values()))
    return {
        "schema": 1,
        "suite": "compare",
        "commit": source_commit(),
        "hardware": {task: comparison.hardware for task, comparison in comparisons.items()},
        "versions": first.versions,
        "settings": {"model": first.model_name, "seeds": first.seeds},
        "summary": {
            task: {row.method: row.accuracy for row in comparison.rows} for task, comparison in comparisons.items()
        },
        "targets": targets(comparisons),
    }


def headline(comparisons: Comparisons) -> str:
    """Return the README's sentence with fourshot's mean accuracy over the tasks."""
    first = next(iter(comparisons.values()))
    fourshot = method_rows(comparisons, "fourshot")
    return (
        f"Mean accuracy of fourshot with {first.model_name} on the test texts of {in_words(list(TITLES.values()))}: "
        f"**{fmean(draw_means(fourshot)):.1f} %**."
    )


def baselines(comparisons: Comparisons) -> str:
    """Return a paragraph: fourshot's mean accuracy, against in-context learning with and without bias correction."""
    first = next(iter(comparisons.values()))
    fourshot, corrected, plain = (method_rows(comparisons, name) for name in ("fourshot", "icl_calibrated", "icl"))
    real = in_words([str(row.real_examples) for row in fourshot])
    return (
        f"Averaged over the tasks, fourshot reaches {_mean_accuracy(fourshot)} % with {first.model_name} and {real} "
        f"labelled texts (± one standard deviation over {len(first.seeds)} draws of the shots). In-context learning "
        f"with the same model and texts reaches {_mean_accuracy(corrected)} % bias-corrected "
        f"and {_mean_accuracy(plain)} % as it is. It needs {fmean(_tokens(plain)):.0f} prompt tokens per text instead "
        f"of {fmean(_tokens(fourshot)):.0f}."
    )


def base_tables(bases: Mapping[str, Comparisons], draw: Callable[[Comparisons], str]) -> str:
    """Return the output of ``draw`` for every base, below its name if there are several bases."""
    if len(bases) == 1:
        return draw(*bases.values())
    return "\n\n".join(f"**{short_name(name)}**\n\n{draw(of_base)}" for name, of_base in bases.items())


def short_table(comparisons: Comparisons) -> str:
    """Return a Markdown table of methods by tasks, with means. A method that a task lacks has a dash and no means."""
    return markdown(
        [_table(comparisons, OVER_TASKS, lambda column, rows: _number(_mean_of(column, rows), column.digits))]
    )


def results_table(comparisons: Comparisons) -> str:
    """Return a Markdown table of methods by tasks, and targets. A method that a task lacks has a dash and no mean."""
    first = next(iter(comparisons.values()))
    sizes = in_words([f"{comparison.num_test:,}" for comparison in comparisons.values()])
    intro = (
        f"Accuracy in per cent: mean ± sample standard deviation over {len(first.seeds)} draws of the shots. "
        f"{short_name(first.model_name)}; {sizes} test texts. Columns after the mean have one number per task."
    )
    table = _table(
        comparisons, BY_TASK, lambda column, rows: ", ".join(_number(column.of(row), column.digits) for row in rows)
    )
    goals = "Targets (`icl`: in context; `icl_calibrated`: bias-corrected; `lora25`: LoRA on 25 real texts):"
    return markdown([intro, table, goals, "\n".join(target_lines(targets(comparisons), 3))])


def _table(
    comparisons: Comparisons,
    columns: Sequence[MethodColumn],
    cell: Callable[[MethodColumn, Sequence[MethodRow | None]], str],
) -> TablePart:
    """Return a table of accuracies by method and task, means, and a ``cell`` for each of ``columns`` with values."""
    every_row = [row for comparison in comparisons.values() for row in comparison.rows]
    measured = [column for column in columns if any(column.of(row) is not None for row in every_row)]
    names = {row.method: row.display_name for comparison in comparisons.values() for row in comparison.rows}
    lines = []
    for method, name in names.items():
        rows = [comparison.row(method) for comparison in comparisons.values()]
        mean = MISSING if None in rows else f"{100 * fmean(row.accuracy for row in rows if row):.1f}"
        lines.append([name, *map(_accuracy, rows), mean, *(cell(column, rows) for column in measured)])
    headings = ["", *(TITLES[task] for task in comparisons), "mean", *(column.heading for column in measured)]
    return TablePart(headings, lines)


def wordings_table(compared: Comparisons, in_context: Comparisons) -> str:
    """Return a Markdown table of classifiers with and without the instruction in the prompt, by task.

    Every cell has the value with the instruction, then without: accuracy, prompt tokens, and the tokens of an
    in-context prompt relative to those. Raises `InputError` if a method is missing.
    """
    lines = []
    for plain, bare in WORDING_PAIRS.items():
        pairs = list(zip(method_rows(compared, plain), method_rows(compared, bare), strict=True))
        means = [fmean(row.accuracy for row in rows) for rows in zip(*pairs, strict=True)]
        mean = f"{_two(means, 100)} ({100 * (means[1] - means[0]):+.1f})"
        lines.append([pairs[0][0].display_name, *(_accuracies(*pair) for pair in pairs), mean])
    tokens = [_tokens(method_rows(compared, method)) for method in ("fourshot", "fourshot_bare")]
    icl_tokens = _tokens(method_rows(in_context, "icl"))
    ratios = [
        [in_prompt / adapter_tokens for in_prompt, adapter_tokens in zip(icl_tokens, column, strict=True)]
        for column in tokens
    ]
    for name, columns in (("prompt tokens per text", tokens), ("prompt tokens in context, relative", ratios)):
        with_means = [[*column, fmean(column)] for column in columns]
        lines.append([name, *map(_two, zip(*with_means, strict=True))])
    return markdown([TablePart(["", *TITLES.values(), "mean"], lines)])


def _mean_of(column: MethodColumn, rows: Sequence[MethodRow | None]) -> float | None:
    numbers = [number for row in rows if (number := column.of(row)) is not None]
    return fmean(numbers) if len(numbers) == len(rows) else None


def _mean_accuracy(rows: Sequence[MethodRow]) -> str:
    """Format the mean over tasks in per cent, ± the sample standard deviation of the draws' means, if they differ."""
    draws = draw_means(rows)
    deviation = f" ± {stdev(draws):.1f}" if len(set(draws)) > 1 else ""
    return f"{fmean(draws):.1f}{deviation}"


def _accuracy(row: MethodRow | None) -> str:
    if row is None:
        return MISSING
    deviation = f" ± {100 * row.accuracy_deviation:.1f}" if row.accuracy_deviation else ""
    return f"{100 * row.accuracy:.1f}{deviation}"


def _accuracies(plain: MethodRow, bare: MethodRow) -> str:
    """Format both accuracies, and the gain of the second: mean and sample standard deviation over the draws."""
    gains = [100 * (b - a) for a, b in zip(plain.seed_accuracies, bare.seed_accuracies, strict=True)]
    spread = f" ± {stdev(gains):.1f}" if len(gains) > 1 else ""
    return f"{_two((plain.accuracy, bare.accuracy), 100)} ({fmean(gains):+.1f}{spread})"


def _tokens(rows: list[MethodRow]) -> list[float]:
    return [row.prompt_tokens_per_example or 0.0 for row in rows]


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def _two(values: Sequence[float], factor: float = 1.0) -> str:
    return ", ".join(f"{factor * value:.1f}" for value in values)
