"""The suite's numbers: one cell per task, method, seed and amount of data, read from results of comparisons."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec

from fourshot.bench.suites.paper.plan import Job
from fourshot.engine.errors import InputError
from fourshot.pipeline.runs.compare import SCHEMA, SeedResult
from fourshot.pipeline.runs.methods import METHODS


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one seed of one task."""

    task: str
    method: str
    seed: int
    real_per_class: int  # labelled texts per class that it was given, in the prompt or to be trained on
    synthetic_per_class: int  # asked for; 0 for methods that write none
    n: int  # test texts
    accuracy: float
    macro_f1: float
    seconds: float  # inside vLLM, for all test texts, prefix cache on
    prompt_tokens: int
    cached_tokens: int
    synthetic_examples: int  # kept, of all classes together
    train_s: float
    test_limit: int  # 0: all test texts
    source: int  # index into the result's sources


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where cells come from."""

    name: str
    commit: str
    model_revision: str
    task: str
    seeds: tuple[int, ...]
    hardware: dict[str, Any] = {}
    versions: dict[str, str] = {}


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed of a `pipeline.runs.compare.Comparison`. Settings stay loose: results outlive changes of those."""

    schema: int
    task: str
    model_name: str
    model_revision: str
    seeds: tuple[int, ...]
    results: tuple[SeedResult, ...]
    settings: dict[str, dict[str, Any]]  # by method
    versions: dict[str, str] = {}
    hardware: dict[str, Any] = {}
    commit: str = ""


Identity = tuple[str, str, int, int]  # task, method, real and synthetic texts per class


def read_comparison(path: Path) -> Measured:
    """Raises `InputError` for a file that is no result of a comparison."""
    try:
        measured = msgspec.json.decode(path.read_bytes(), type=Measured)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is no result of `fourshot compare` (its comparison.json): {error}.") from error
    if measured.schema != SCHEMA:
        raise InputError(f"{path} has schema {measured.schema}, this version reads {SCHEMA}. Measure it again.")
    return measured


def cells_of(measured: Measured, source: int) -> list[Cell]:
    """The cells of one comparison; methods that this version does not know are left out."""
    found = []
    for result in measured.results:
        if result.method not in METHODS:
            continue
        settings, scores = measured.settings[result.method], result.scores
        real, synthetic = amounts(result.method, settings["k"], settings["generate"]["per_class"])
        found.append(
            Cell(
                task=measured.task,
                method=result.method,
                seed=result.seed,
                real_per_class=real,
                synthetic_per_class=synthetic,
                n=scores.n,
                accuracy=scores.accuracy,
                macro_f1=scores.macro_f1,
                seconds=scores.seconds,
                prompt_tokens=scores.prompt_tokens,
                cached_tokens=scores.cached_tokens,
                synthetic_examples=result.synthetic_examples,
                train_s=result.train_s,
                test_limit=settings["test_limit"],
                source=source,
            )
        )
    return found


def amounts(method: str, k: int, per_class: int) -> tuple[int, int]:
    """Real and synthetic texts per class that ``method`` is given where shots are ``k`` and synthetic ``per_class``."""
    plan = METHODS[method]
    uses_real = plan.trained or plan.shots_in_prompt
    return (plan.real_per_class or k) if uses_real else 0, per_class if plan.synthetic else 0


def identity(task: str, method: str, real: int, synthetic: int) -> Identity:
    """Two cells of one identity and seed measure the same: LoRA on 25 real texts is LoRA on 25 shots."""
    return task, "lora" if METHODS[method].real_per_class else method, real, synthetic


def identity_of(cell: Cell) -> Identity:
    return identity(cell.task, cell.method, cell.real_per_class, cell.synthetic_per_class)


def missing(job: Job, cells: Iterable[Cell]) -> tuple[str, ...]:
    """The methods of ``job`` that lack a cell for one of its seeds, on at least as many test texts."""
    limit = job.settings.test_limit
    there = {
        (*identity_of(cell), cell.seed)
        for cell in cells
        if cell.test_limit == 0 or (limit and cell.test_limit >= limit)
    }
    lacking = []
    for method in job.methods:
        per_class = METHODS[method].settings(job.settings).generate.per_class
        wanted = identity(job.task, method, *amounts(method, job.settings.k, per_class))
        if not all((*wanted, seed) in there for seed in job.seeds):
            lacking.append(method)
    return tuple(lacking)


def on_more_texts(one: Cell, other: Cell) -> bool:
    """Whether ``one`` was measured on more test texts; a limit of 0 is all of them."""
    return other.test_limit != 0 and (one.test_limit == 0 or one.test_limit > other.test_limit)


class Mean(msgspec.Struct, frozen=True, kw_only=True):
    """The cells of one identity, over their seeds."""

    accuracy: float
    deviation: float | None  # sample standard deviation; None for one seed
    seeds: int
    n: int
    seconds: float  # inside vLLM, all test texts
    prompt_tokens: float  # per text
    synthetic_examples: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """One standard deviation to both sides, in per cent, inside 0 to 100."""
        if self.deviation is None:
            return None
        return 100 * max(0.0, self.accuracy - self.deviation), 100 * min(1.0, self.accuracy + self.deviation)


def means(cells: Sequence[Cell], seeds: Sequence[int] = ()) -> dict[Identity, Mean]:
    """The mean of each identity over ``seeds``, or over all that it has. Those that lack a seed are left out."""
    groups: dict[Identity, dict[int, Cell]] = {}
    for cell in cells:
        groups.setdefault(identity_of(cell), {})[cell.seed] = cell
    found = {}
    for key, by_seed in groups.items():
        chosen = [by_seed[seed] for seed in seeds or sorted(by_seed) if seed in by_seed]
        if not seeds or len(chosen) == len(seeds):
            found[key] = _mean(chosen)
    return found


def shared_seeds(cells: Sequence[Cell], keys: Iterable[Identity]) -> tuple[int, ...]:
    """The seeds that every one of ``keys`` was measured on: points of one curve must stand on the same draws."""
    by_key: Mapping[Identity, set[int]] = {
        key: {cell.seed for cell in cells if identity_of(cell) == key} for key in set(keys)
    }
    return tuple(sorted(set.intersection(*by_key.values()))) if by_key else ()


def _mean(cells: Sequence[Cell]) -> Mean:
    accuracies = [cell.accuracy for cell in cells]
    return Mean(
        accuracy=fmean(accuracies),
        deviation=stdev(accuracies) if len(cells) > 1 else None,
        seeds=len(cells),
        n=min(cell.n for cell in cells),
        seconds=fmean(cell.seconds for cell in cells),
        prompt_tokens=fmean(cell.prompt_tokens / cell.n for cell in cells),
        synthetic_examples=fmean(cell.synthetic_examples for cell in cells),
    )
