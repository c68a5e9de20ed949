"""The measurement: times, then comparisons, each in a separate folder, then counts of the generated texts.

Finished work is not repeated: a comparison with a result in its folder, a method that another result has, a task that
was timed. Several base models are measured separately, one after the other.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.comparisons import MeasuredComparison, read_comparison
from fourshot.bench.core.processes import call_in_child
from fourshot.bench.core.results import short_name, show_progress
from fourshot.bench.suites.paper import timing
from fourshot.bench.suites.paper.plan import (
    Options,
    PlannedComparison,
    load_settings,
    planned_comparisons,
    resolved_plan,
)
from fourshot.bench.suites.paper.scores import PaperScore, TaskSetup, missing_methods, paper_targets, scores_of
from fourshot.engine.checkpoints.models import ResolvedModel, resolve_model
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.cells.methods import METHODS
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.runs.compare import ComparisonRequest, do_comparison
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.jobs.jobs import Placement

EMBEDDED = "embedded"  # name of the embedded model in --models
SOURCE_FIELDS = ("commit", "model_revision", "task", "seeds", "hardware", "versions")


class PaperMeasurement:
    """The measurement of one base. ``on_step`` receives the result so far, without header, after every step."""

    def __init__(
        self,
        options: Options,
        on_step: Callable[[dict[str, Any]], None],
        compare: Callable[..., object] = do_comparison,  # writes comparison.json into its folder
        time_task: Callable[[Task], list[timing.Timing]] | None = None,
    ) -> None:
        self.options, self.on_step, self.compare = options, on_step, compare
        self.time_task = time_task or self._time_in_child
        self.plan, self.model = resolved_plan(options), resolve_model(options.model)
        self.tasks = {name: load_task(name, options.data / name if options.data else None) for name in self.plan.tasks}
        self._facts = load_settings().facts
        self._sources: list[dict[str, Any]] = []
        self._scores: dict[tuple[TaskSetup, int], PaperScore] = {}  # by setup and seed
        self._timings: list[timing.Timing] = []
        self._texts: list[timing.CountedTexts] = []

    def run(self) -> dict[str, Any]:
        """Measure what is missing, and return the result. Raises `InputError` for a known result of another model."""
        for path in self.options.known:
            self._take(read_comparison(path), path.name)
        planned = planned_comparisons(self.plan)
        for name, task in self.tasks.items() if not self.options.no_times else ():  # first: minutes, not hours
            show_progress(f"times in transformers: {name}")
            self._timings += self._timed(task)
            self.on_step(self.result())
        for number, comparison in enumerate(planned, start=1):
            show_progress(f"comparison {number} of {len(planned)}: {comparison.folder}")
            self._measure(comparison)
            self.on_step(self.result())
        for task in self.tasks.values():
            self._texts += self._counted(task, planned)
        return self.result()

    def result(self) -> dict[str, Any]:
        """Return the result as far as it is measured."""
        scores = list(self._scores.values())
        return {
            "sources": self._sources,
            "cells": scores,
            "timings": self._timings,
            "texts": self._texts,
            "facts": self._facts,
            "targets": paper_targets(scores, self._timings, self.plan.tasks),
        }

    def _measure(self, planned: PlannedComparison) -> None:
        """Add the missing scores of ``planned``. Only what its folder lacks is computed."""
        methods = missing_methods(planned, self._scores.values())
        if not methods:
            return
        folder = self.options.runs / planned.folder
        if not (measured := self._finished(folder, planned, methods)):
            placement = Placement(ray=self.options.ray)
            task, model = self.tasks[planned.task], self.options.model
            request = ComparisonRequest(task, model, planned.settings, methods, planned.seeds, folder, placement)
            self.compare(request, _message_printer())
            measured = read_comparison(folder / "comparison.json")
        self._take(measured, planned.folder)

    def _finished(self, folder: Path, planned: PlannedComparison, methods: Sequence[str]) -> MeasuredComparison | None:
        """Return the result in ``folder`` if it has ``methods`` on every seed, with this model and today's settings."""
        if not (folder / "comparison.json").exists():
            return None
        comparison = read_comparison(folder / "comparison.json")
        needed = {(method, seed) for method in methods for seed in planned.seeds}
        is_complete = needed <= {(result.method, result.seed) for result in comparison.results}
        seed = comparison.seeds[0]
        settings = {
            method: msgspec.structs.replace(METHODS[method].settings(planned.settings), seed=seed) for method in methods
        }
        plain = msgspec.json.decode(msgspec.json.encode(settings))
        is_same = plain == {method: comparison.settings.get(method) for method in methods}
        return comparison if is_complete and is_same and comparison.model_revision == self.model.revision else None

    def _take(self, comparison: MeasuredComparison, name: str) -> None:
        if comparison.model_name != self.model.name:
            raise InputError(
                f"{name} was measured with {comparison.model_name}, this suite has {self.model.name}. Leave it out, or "
                "give --model."
            )
        if comparison.task not in self.tasks:
            return
        for score in scores_of(comparison, len(self._sources)):
            key = score.setup, score.seed
            if key not in self._scores or score.reach > self._scores[key].reach:
                self._scores[key] = score
        self._sources.append({"name": name, **{field: getattr(comparison, field) for field in SOURCE_FIELDS}})

    def _timed(self, task: Task) -> list[timing.Timing]:
        file = self.options.runs / task.name / f"timing-{self.model.revision}-{self.plan.timed_texts}.json"
        if not file.exists():
            replace_file(file, msgspec.json.encode(self.time_task(task)))
        return msgspec.json.decode(file.read_bytes(), type=list[timing.Timing])

    def _time_in_child(self, task: Task) -> list[timing.Timing]:
        """Return the times of ``task``, measured in a fresh process on the same cores."""
        texts = [example.text for example in load_split(task, "test", limit=self.plan.timed_texts).examples]
        shots = take_shots(task, 4, 0)
        prompts, in_context = (
            [classification_prompt(task, text, PromptFormat(), shown) for text in texts] for shown in ((), shots)
        )
        return call_in_child(timing.measure_timings, self.model.path, task.name, prompts, in_context)

    def _counted(self, task: Task, planned: Sequence[PlannedComparison]) -> list[timing.CountedTexts]:
        """Return the counts of the comparison with the largest target number of texts, among those made here."""
        writing = [
            comparison
            for comparison in planned
            if comparison.task == task.name and timing.TEXTS_OF in comparison.methods
        ]
        by_size = sorted(writing, key=lambda comparison: -comparison.settings.generate.per_class)
        counted = (timing.count_texts(task, self.options.runs / comparison.folder, 0) for comparison in by_size)
        return next(([texts] for texts in counted if texts), [])


def _message_printer() -> OnEvent:
    """Return a callback that prints each new message once."""
    last = [""]

    def on_event(event: Event) -> None:
        if event.message and event.message != last[0]:
            last[0] = event.message
            show_progress(f"  {event.message}")

    return on_event


def base_options(options: Options) -> dict[ResolvedModel, Options]:
    """Return the options for each base of --models. Results of --from are assigned to the base they were measured with.

    Raises InputError if --models names a base twice, --model is given too, or a result of --from is of no such base.
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
    """Return the name of the folder for a base's comparisons."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', short_name(model.name)).strip('-')}-{model.revision[:8]}"


def measure_bases(
    options: Options,
    on_step: Callable[[dict[str, Any]], None],
    measurement: Callable[..., PaperMeasurement],
) -> dict[str, Any]:
    """Measure what is missing for every base, and return the result. ``on_step`` receives the result so far."""
    done: list[dict[str, Any]] = []
    for model, alone in base_options(options).items():
        show_progress(f"base {len(done) + 1} of {len(options.models)}: {model.name}")

        def step(result: dict[str, Any], model: ResolvedModel = model) -> None:
            on_step(_joined([*done, _of(model, result)]))

        done.append(_of(model, measurement(alone, step).run()))
    return _joined(done)


def _of(model: ResolvedModel, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": model.name,
        "model_revision": model.revision,
        **{name: value for name, value in result.items() if name != "facts"},
    }


def _joined(bases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    targets = [
        msgspec.structs.replace(target, name=f"{short_name(base['model'])}: {target.name}")
        for base in bases
        for target in base["targets"]
    ]
    return {"bases": list(bases), "facts": load_settings().facts, "targets": targets}
