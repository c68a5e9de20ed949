"""Which comparisons a size of the suite is made of, and what is known of the paper: ``settings.toml`` as structs.

Importing this module loads neither torch nor vllm.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.runs.methods import METHODS
from fourshot.pipeline.synthesis.settings import RunSettings

SETTINGS = Path(__file__).parent / "settings.toml"
Size = Literal["small", "full"]


class Fact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something the paper says, as far as it could be found."""

    what: str
    paper: str
    source: str
    address: str  # of a web page; "" where there is none


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Comparisons of the same methods: one for each task, ``k`` and ``per_class``."""

    name: str
    shows: tuple[str, ...]
    methods: tuple[str, ...]
    tasks: tuple[str, ...] = ()  # none: all that are asked for
    k: tuple[int, ...] = (4,)  # shots per class
    per_class: tuple[int, ...] = (0,)  # synthetic texts to keep per class; 0: the default


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One size of the suite."""

    tasks: tuple[str, ...]
    seeds: int
    test_limit: dict[str, int]  # by task; one without an entry is measured on all its test texts
    timed_texts: int
    runs: tuple[Run, ...]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings file."""

    small: Plan
    full: Plan
    facts: tuple[Fact, ...]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison to be made, in a folder of its own."""

    folder: str  # below the runs' folder
    task: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: RunSettings


def load_settings(path: Path = SETTINGS) -> Settings:
    """Raises `InputError` for a file that is no settings file, or names methods that do not exist."""
    try:
        settings = msgspec.toml.decode(path.read_bytes(), type=Settings)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is no settings file of this suite: {error}.") from error
    named = {method for plan in (settings.small, settings.full) for run in plan.runs for method in run.methods}
    if unknown := sorted(named - METHODS.keys()):
        raise InputError(f"{path} names methods {unknown}, which do not exist. There are {', '.join(METHODS)}.")
    return settings


def jobs(plan: Plan, tasks: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """The comparisons of ``tasks``, in the plan's order. A class that stalls goes on with what it has."""
    found = []
    for run in plan.runs:
        for task in tasks:
            if run.tasks and task not in run.tasks:
                continue
            for k in run.k:
                for per_class in run.per_class:
                    default = RunSettings(k=k, test_limit=plan.test_limit.get(task, 0), allow_short=True)
                    generate = default.generate
                    if per_class:
                        generate = msgspec.structs.replace(generate, per_class=per_class)
                    found.append(
                        Job(
                            folder=f"{task}/{run.name}-k{k}-n{generate.per_class}",
                            task=task,
                            methods=run.methods,
                            seeds=tuple(seeds),
                            settings=msgspec.structs.replace(default, generate=generate),
                        )
                    )
    return found
