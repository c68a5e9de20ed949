"""The suite's numbers: a score per task, method, seed and amount of data, their means, and targets."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import msgspec

from fourshot.bench.core.comparisons import MeasuredComparison
from fourshot.bench.core.parts import Target, at_least
from fourshot.bench.core.results import short_name
from fourshot.bench.suites.paper.plan import PlannedComparison
from fourshot.bench.suites.paper.timing import MERGED, CountedTexts, Timing
from fourshot.pipeline.cells.methods import METHODS

DEFAULT_SHOTS, DEFAULT_SYNTHETIC, PAPER_SYNTHETIC, MANY_REAL = 4, 50, 21, 25
Setup = tuple[str, int, int]  # method, real and synthetic texts per class
TaskSetup = tuple[str, str, int, int]  # task, then a `Setup`
ZERO_SHOT: Setup = ("zero_shot", 0, 0)
ICL: Setup = ("icl", DEFAULT_SHOTS, 0)
LORA: Setup = ("lora", DEFAULT_SHOTS, 0)
PAPER: Setup = ("paper", DEFAULT_SHOTS, PAPER_SYNTHETIC)
FOURSHOT: Setup = ("fourshot", DEFAULT_SHOTS, DEFAULT_SYNTHETIC)
LORA_25: Setup = ("lora", MANY_REAL, 0)
UNFILTERED: Setup = ("unfiltered", DEFAULT_SHOTS, DEFAULT_SYNTHETIC)
TABLE = (ZERO_SHOT, ICL, LORA, PAPER, FOURSHOT, LORA_25)
ABLATION: dict[Setup, str] = {  # -> the annotators; the default last
    UNFILTERED: "off",
    ("icl_filter", DEFAULT_SHOTS, DEFAULT_SYNTHETIC): "on: the base model in context, calibrated",
    FOURSHOT: "on: a committee of adapters, the default",
}
TIMES_GOAL = 2.0  # the lower end of the speedup reported of the paper
COMPARABLE = -1.0  # a difference in points of accuracy that still counts as comparable


class PaperScore(msgspec.Struct, frozen=True, kw_only=True):
    """Score of one method on one seed of one task; a cell of the result file."""

    task: str
    method: str
    seed: int
    real_per_class: int  # labelled texts per class, in the prompt or for training
    synthetic_per_class: int  # requested; 0 for methods without synthetic texts
    n: int  # test texts
    accuracy: float
    macro_f1: float
    seconds: float  # in vLLM, for all test texts, with the prefix cache
    prompt_tokens: int
    cached_tokens: int
    synthetic_examples: int  # kept, of all classes together
    train_s: float
    test_limit: int  # 0: all test texts
    source: int  # index into the result's sources

    @property
    def setup(self) -> TaskSetup:
        return same_setup(self.task, self.method, self.real_per_class, self.synthetic_per_class)

    @property
    def reach(self) -> float:
        """Number of test texts that a score covers at most; infinite without a limit."""
        return self.test_limit or math.inf


class MeanScore(msgspec.Struct, frozen=True, kw_only=True):
    """Mean scores of one task and setup over its seeds."""

    accuracy: float
    deviation: float | None  # sample standard deviation; None for one seed
    seeds: int
    n: int
    seconds: float  # in vLLM, for all test texts
    prompt_tokens: float  # per text
    synthetic_examples: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """Accuracy ± one standard deviation, in per cent, cut off at 0 and 100; None for one seed."""
        if self.deviation is None:
            return None
        return 100 * max(0.0, self.accuracy - self.deviation), 100 * min(1.0, self.accuracy + self.deviation)


MeanScores = Mapping[TaskSetup, MeanScore]


def scores_of(comparison: MeasuredComparison, source: int) -> list[PaperScore]:
    """Return the scores of one comparison, without methods that this version does not know."""
    scores = []
    for result in comparison.results:
        if result.method not in METHODS:
            continue
        settings = comparison.settings[result.method]
        real, synthetic = amounts(result.method, settings["k"], settings["generate"]["per_class"])
        scores.append(
            msgspec.convert(
                {
                    **msgspec.to_builtins(result.scores),
                    **msgspec.to_builtins(result),
                    "task": comparison.task,
                    "real_per_class": real,
                    "synthetic_per_class": synthetic,
                    "test_limit": settings["test_limit"],
                    "source": source,
                },
                PaperScore,
            )
        )
    return scores


def amounts(method: str, k: int, per_class: int) -> tuple[int, int]:
    """Return the real and synthetic texts per class that ``method`` uses, given ``k`` shots and ``per_class``."""
    settings = METHODS[method]
    uses_real = settings.trained or settings.shots_in_prompt or settings.has_annotators
    return (settings.real_per_class or k) if uses_real else 0, per_class if settings.synthetic else 0


def same_setup(task: str, method: str, real: int, synthetic: int) -> TaskSetup:
    """Return a key that equal measurements share: LoRA on 25 real texts is the same as LoRA on 25 shots."""
    return task, "lora" if METHODS[method].real_per_class else method, real, synthetic


def missing_methods(planned: PlannedComparison, scores: Iterable[PaperScore]) -> tuple[str, ...]:
    """Return the methods of ``planned`` that lack a score on at least as many test texts for one of its seeds."""
    limit = planned.settings.test_limit or math.inf
    measured = {(*score.setup, score.seed) for score in scores if score.reach >= limit}
    lacking = []
    for method in planned.methods:
        per_class = METHODS[method].settings(planned.settings).generate.per_class
        setup = same_setup(planned.task, method, *amounts(method, planned.settings.k, per_class))
        if not all((*setup, seed) in measured for seed in planned.seeds):
            lacking.append(method)
    return tuple(lacking)


def mean_scores(scores: Sequence[PaperScore], seeds: Sequence[int] = ()) -> dict[TaskSetup, MeanScore]:
    """Return each setup's means over ``seeds``, () for all of its own. Setups that lack one of them are left out."""
    by_setup: dict[TaskSetup, dict[int, PaperScore]] = {}
    for score in scores:
        by_setup.setdefault(score.setup, {})[score.seed] = score
    means = {}
    for setup, by_seed in by_setup.items():
        chosen = [by_seed[seed] for seed in seeds or sorted(by_seed) if seed in by_seed]
        if not seeds or len(chosen) == len(seeds):
            accuracies = [score.accuracy for score in chosen]
            means[setup] = MeanScore(
                accuracy=fmean(accuracies),
                deviation=stdev(accuracies) if len(chosen) > 1 else None,
                seeds=len(chosen),
                n=min(score.n for score in chosen),
                seconds=fmean(score.seconds for score in chosen),
                prompt_tokens=fmean(score.prompt_tokens / score.n for score in chosen),
                synthetic_examples=fmean(score.synthetic_examples for score in chosen),
            )
    return means


def shared_seeds(scores: Sequence[PaperScore], setups: Iterable[TaskSetup]) -> tuple[int, ...]:
    """Return the seeds on which all ``setups`` were measured: points of a curve must be based on the same draws."""
    seeds = [{score.seed for score in scores if score.setup == setup} for setup in set(setups)]
    return tuple(sorted(set.intersection(*seeds))) if seeds else ()


def paper_targets(scores: Sequence[PaperScore], timings: Sequence[Timing], tasks: Sequence[str]) -> list[Target]:
    """Return the paper's findings as targets, differences over the draws of both methods; without unmeasured ones."""
    targets = []
    for name, method in (("LoRA", LORA[0]), ("merged LoRA", MERGED)):
        ratios = [in_context_over(method, timings, task, 1) for task in tasks]
        if all(ratios):
            title = f"in context over {name}, time of one text in transformers, least task"
            targets.append(at_least(title, "times", min(filter(None, ratios)), TIMES_GOAL))
    for title, setup, baseline, goal in (
        ("the default recipe above in context, mean", FOURSHOT, ICL, COMPARABLE),
        ("the paper's recipe above in context, mean", PAPER, ICL, COMPARABLE),
        ("the default recipe above LoRA on the shots, mean", FOURSHOT, LORA, 0.0),
        ("the filter on above off, mean", FOURSHOT, UNFILTERED, 0.0),
    ):
        seeds = shared_seeds(scores, [(task, *compared) for task in tasks for compared in (setup, baseline)])
        means = mean_scores(scores, seeds)
        score, baseline_score = mean_over_tasks(means, setup, tasks), mean_over_tasks(means, baseline, tasks)
        if seeds and score is not None and baseline_score is not None:
            targets.append(at_least(title, "points", 100 * (score - baseline_score), goal))
    return targets


def in_context_over(method: str, timings: Sequence[Timing], task: str, batch: int) -> float | None:
    """Return the time per text in context over that of ``method``; None if one was not measured."""
    seconds = {timing.method: timing.s_per_text for timing in timings if (timing.task, timing.batch) == (task, batch)}
    return seconds[ICL[0]] / seconds[method] if {ICL[0], method} <= seconds.keys() else None


def mean_over_tasks(means: MeanScores, setup: Setup, tasks: Sequence[str]) -> float | None:
    """Return the mean accuracy over ``tasks``; None if one was not measured."""
    by_task = [means.get((task, *setup)) for task in tasks]
    return fmean(mean.accuracy for mean in by_task if mean) if by_task and all(by_task) else None


class BaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """All measurements of one base model."""

    model: str
    model_revision: str
    sources: list[dict[str, Any]] = []
    cells: list[PaperScore] = []
    timings: list[Timing] = []
    texts: list[CountedTexts] = []
    targets: list[Target] = []


def base_results(result: Mapping[str, Any]) -> dict[str, BaseResult]:
    """Return the bases of a result by title. A result has one base in its own fields, or several in ``bases``."""
    if "bases" not in result:
        settings = result["settings"]
        names = {"model": settings["model"], "model_revision": settings.get("model_revision", "")}
        measured = {name: result[name] for name in BaseResult.__struct_fields__ if name in result}
        return {settings["model"]: msgspec.convert({**measured, **names}, BaseResult)}
    bases = msgspec.convert(result["bases"], list[BaseResult])
    short_names = [short_name(base.model) for base in bases]
    return {
        name if short_names.count(name) == 1 else f"{name} ({base.model_revision})": base
        for name, base in zip(short_names, bases, strict=True)
    }
