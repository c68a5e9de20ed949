"""The options, and the content of ``settings.toml``: the comparisons of each size, and known facts of the paper."""

from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fourshot.bench.core.options import Positive
from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.methods import METHODS
from fourshot.pipeline.synthesis.settings import RunSettings

SETTINGS = Path(__file__).parent / "settings.toml"


class Options(msgspec.Struct, frozen=True, kw_only=True, rename={"known": "from"}):
    data: Annotated[Path | None, "a folder with sst2/, trec/ and ag_news/; without it, the hub"] = None
    out: Annotated[Path | None, "where the result goes, after every step"] = None
    report: Annotated[Path | None, "where the page goes"] = None
    size: Annotated[Literal["small", "full"], "of the suite"] = "small"
    tasks: Annotated[tuple[str, ...], "in place of the size's"] = ()
    seeds: Annotated[Positive | None, "draws of the shots, in place of the size's"] = None
    model: Annotated[str | None, "base: a Hugging Face id, a folder or a GGUF file; the embedded one if left out"] = (
        None
    )
    models: Annotated[tuple[str, ...], "several bases side by side, 'embedded' among them, in place of --model"] = ()
    runs: Annotated[Path, "folder of the comparisons"] = Path("runs/paper")
    known: Annotated[tuple[Path, ...], "existing results of comparisons"] = ()
    ray: Annotated[str, "train over Ray: 'local', 'auto' or a cluster's address"] = ""
    no_times: Annotated[bool, "do not time transformers"] = False
    draw: Annotated[Path | None, "measure nothing: draw the page of this result"] = None


class Fact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement of the paper that could be verified."""

    what: str
    paper: str
    source: str
    address: str  # URL of the source; "" without one


class ComparisonGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Comparisons of the same methods, one for each task, ``k`` and ``per_class``."""

    name: str
    shows: tuple[str, ...]
    methods: tuple[str, ...]
    tasks: tuple[str, ...] = ()  # (): all tasks of the plan
    k: tuple[int, ...] = (4,)  # shots per class
    per_class: tuple[int, ...] = (0,)  # synthetic texts to keep per class; 0: the default


class PaperPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One size of the suite."""

    tasks: tuple[str, ...]
    seeds: int
    test_limit: dict[str, int]  # by task; tasks without an entry use all test texts
    timed_texts: int
    runs: tuple[ComparisonGroup, ...]


class PaperSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of the settings file."""

    small: PaperPlan
    full: PaperPlan
    facts: tuple[Fact, ...]


class PlannedComparison(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison to make, in its own folder."""

    folder: str  # relative to --runs
    task: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: RunSettings


def load_settings(path: Path = SETTINGS) -> PaperSettings:
    """Read the settings file. Raises `InputError` if it is invalid or names methods that do not exist."""
    try:
        settings = msgspec.toml.decode(path.read_bytes(), type=PaperSettings)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is no settings file of this suite: {error}.") from error
    methods = {method for plan in (settings.small, settings.full) for group in plan.runs for method in group.methods}
    if unknown := sorted(methods - METHODS.keys()):
        raise InputError(f"{path} names methods {unknown}, which do not exist. There are {', '.join(METHODS)}.")
    return settings


def resolved_plan(options: Options) -> PaperPlan:
    """Return the plan of --size with --tasks and --seeds applied. Raises `InputError` for unknown tasks."""
    settings = load_settings()
    plan = settings.full if options.size == "full" else settings.small
    if unknown := [task for task in options.tasks if task not in plan.tasks]:
        raise InputError(f"The suite has no task {', '.join(unknown)}. Its tasks are {', '.join(plan.tasks)}.")
    return msgspec.structs.replace(plan, tasks=options.tasks or plan.tasks, seeds=options.seeds or plan.seeds)


def planned_comparisons(plan: PaperPlan) -> list[PlannedComparison]:
    """Return the comparisons of a plan, in its order. A stalled class is accepted with the texts it has."""
    planned = []
    for group in plan.runs:
        for task, k, per_class in product(group.tasks or plan.tasks, group.k, group.per_class):
            if task not in plan.tasks:
                continue
            settings = RunSettings(k=k, test_limit=plan.test_limit.get(task, 0), allow_short=True)
            if per_class:
                generate = msgspec.structs.replace(settings.generate, per_class=per_class)
                settings = msgspec.structs.replace(settings, generate=generate)
            folder = f"{task}/{group.name}-k{k}-n{settings.generate.per_class}"
            seeds = tuple(range(plan.seeds))
            planned.append(
                PlannedComparison(folder=folder, task=task, methods=group.methods, seeds=seeds, settings=settings)
            )
    return planned
