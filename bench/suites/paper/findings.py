"""What the paper found, as numbers that a result meets or does not."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from fourshot.bench.suites.paper.cells import Cell, Identity, Mean, means
from fourshot.bench.suites.paper.timing import MERGED, Timing
from fourshot.bench.suites.tables import Target

DEFAULT_SHOTS, DEFAULT_SYNTHETIC, PAPER_SYNTHETIC, MANY_REAL = 4, 50, 21, 25
Row = tuple[str, int, int]  # method, real and synthetic texts per class
ZERO_SHOT: Row = ("zero_shot", 0, 0)
ICL: Row = ("icl", DEFAULT_SHOTS, 0)
LORA: Row = ("lora", DEFAULT_SHOTS, 0)
PAPER: Row = ("paper", DEFAULT_SHOTS, PAPER_SYNTHETIC)
FOURSHOT: Row = ("fourshot", DEFAULT_SHOTS, DEFAULT_SYNTHETIC)
LORA_25: Row = ("lora", MANY_REAL, 0)
UNFILTERED: Row = ("unfiltered", DEFAULT_SHOTS, DEFAULT_SYNTHETIC)
TABLE = (ZERO_SHOT, ICL, LORA, PAPER, FOURSHOT, LORA_25)
ABLATION: dict[Row, str] = {  # -> who re-labels; the default last
    UNFILTERED: "off",
    ("icl_filter", DEFAULT_SHOTS, DEFAULT_SYNTHETIC): "on: the base model in context, calibrated",
    FOURSHOT: "on: a committee of adapters, the default",
}
TIMES_GOAL = 2.0  # the lower end of what is told of the paper
COMPARABLE = -1.0  # points of accuracy that still count as comparable


def targets(cells: Sequence[Cell], timings: Sequence[Timing], tasks: Sequence[str]) -> list[Target]:
    """The paper's findings on this model. One whose numbers are not all measured is left out."""
    found = []
    for name, method in (("LoRA", LORA[0]), ("merged LoRA", MERGED)):
        ratios = [in_context_over(method, timings, task, 1) for task in tasks]
        measured = [ratio for ratio in ratios if ratio is not None]
        if len(measured) == len(tasks):
            told = f"in context over {name}, time of one text in transformers, least task"
            found.append(_target(told, "times", min(measured), TIMES_GOAL))
    known = means(cells)
    for name, one, other, goal in (
        ("the default recipe above in context, mean", FOURSHOT, ICL, COMPARABLE),
        ("the paper's recipe above in context, mean", PAPER, ICL, COMPARABLE),
        ("the default recipe above LoRA on the shots, mean", FOURSHOT, LORA, 0.0),
        ("the filter on above off, mean", FOURSHOT, UNFILTERED, 0.0),
    ):
        pairs = [(known.get((task, *one)), known.get((task, *other))) for task in tasks]
        points = [100 * (ours.accuracy - theirs.accuracy) for ours, theirs in pairs if ours and theirs]
        if points and len(points) == len(tasks):
            found.append(_target(name, "points", fmean(points), goal))
    return found


def in_context_over(method: str, timings: Sequence[Timing], task: str, batch: int) -> float | None:
    """How many times as long a text takes in context as with ``method``; None where either was not measured."""
    took = {one.method: one.s_per_text for one in timings if one.task == task and one.batch == batch}
    return took[ICL[0]] / took[method] if {ICL[0], method} <= took.keys() else None


def mean_over_tasks(known: Mapping[Identity, Mean], row: Row, tasks: Sequence[str]) -> float | None:
    """Mean accuracy over ``tasks``, None where one was not measured."""
    found = [known.get((task, *row)) for task in tasks]
    return fmean(one.accuracy for one in found if one) if all(found) else None


def _target(name: str, unit: str, measured: float, goal: float) -> Target:
    measured = round(measured, 3)
    return Target(name=name, unit=unit, measured=measured, goal=goal, met=measured >= goal)
