"""Several base models in one result: each measured as it would be alone, in a folder of its own, one after another.

Importing this module loads neither torch nor vllm.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.comparisons import read_comparison
from fourshot.bench.core.results import short_name, tell
from fourshot.bench.core.targets import Target
from fourshot.bench.suites.paper.plan import Fact, Options, load_settings
from fourshot.bench.suites.paper.scores import PaperScore
from fourshot.bench.suites.paper.texts import CountedTexts
from fourshot.bench.suites.paper.timing import Timing
from fourshot.engine.checkpoints.models import ResolvedModel, resolve_model
from fourshot.engine.errors import InputError

EMBEDDED = "embedded"  # in --models


class BaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured with one base model."""

    model: str
    model_revision: str
    sources: list[dict[str, Any]] = []
    cells: list[PaperScore] = []
    timings: list[Timing] = []
    texts: list[CountedTexts] = []
    targets: list[Target] = []


def base_results(result: Mapping[str, Any]) -> dict[str, BaseResult]:
    """By title, the bases of a result, which has one of them in its own fields, or several in ``bases``."""
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


def base_options(options: Options) -> dict[ResolvedModel, Options]:
    """The options of each base alone. Raises InputError where --models names one twice, or --model is there as well.

    Results of --from go to the base that they were measured with.
    """
    if options.model:
        raise InputError(f"--model {options.model} and --models cannot both be given. Name every base in --models.")
    named = [(name, resolve_model(None if name == EMBEDDED else name)) for name in options.models]
    bases = {(model.name, model.revision): (name, model) for name, model in named}
    if len(bases) < len(named):
        raise InputError(f"--models {','.join(options.models)} names a base twice. Name each once.")
    results: dict[str, list[Path]] = {model.name: [] for _, model in bases.values()}
    for path in options.known:
        if (of := read_comparison(path).model_name) not in results:
            raise InputError(
                f"{path.name} was measured with {of}, and --models names {', '.join(results)}. Leave it out, or name "
                f"{of} too."
            )
        results[of].append(path)
    return {
        model: msgspec.structs.replace(
            options,
            model=None if name == EMBEDDED else name,
            models=(),
            runs=options.runs / runs_name(model),
            known=tuple(results[model.name]),
        )
        for name, model in bases.values()
    }


def runs_name(model: ResolvedModel) -> str:
    """Of the folder for a base's comparisons."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', short_name(model.name)).strip('-')}-{model.revision[:8]}"


def measure_bases(
    options: Options,
    on_step: Callable[[dict[str, Any]], None],
    measure: Callable[[Options, Callable[[dict[str, Any]], None]], dict[str, Any]],
) -> dict[str, Any]:
    """Measure what is missing of every base; ``on_step`` is given the result so far. ``measure`` measures one."""
    done: list[dict[str, Any]] = []
    for model, alone in base_options(options).items():
        tell(f"base {len(done) + 1} of {len(options.models)}: {model.name}")
        measured = measure(alone, lambda result, model=model: on_step(_joined([*done, _of(model, result)])))  # type: ignore[misc]
        done.append(_of(model, measured))
    return _joined(done)


def _of(model: ResolvedModel, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": model.name,
        "model_revision": model.revision,
        **{name: value for name, value in result.items() if name != "facts"},
    }


def _joined(bases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    facts: Sequence[Fact] = load_settings().facts
    targets = [
        msgspec.structs.replace(target, name=f"{short_name(base['model'])}: {target.name}")
        for base in bases
        for target in base["targets"]
    ]
    return {"bases": list(bases), "facts": facts, "targets": targets}
