"""The suite: times, then comparisons one after the other, each in a folder of its own, and the texts they wrote.

What is finished is not done again: a comparison whose result lies in its folder, a method that another result already
has, a task that was timed. The result is written after every step, so a stopped suite leaves what it has.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.comparisons import MeasuredComparison, read_comparison
from fourshot.bench.core.processes import call_apart
from fourshot.bench.core.results import header, tell
from fourshot.bench.core.targets import Target
from fourshot.bench.suites.paper.plan import Fact, PaperPlan, PlannedComparison, load_settings, planned_comparisons
from fourshot.bench.suites.paper.scores import (
    PaperScore,
    ScoreSource,
    TaskSetup,
    missing_methods,
    paper_targets,
    scores_of,
)
from fourshot.bench.suites.paper.texts import METHOD as TEXTS_OF
from fourshot.bench.suites.paper.texts import CountedTexts, count_texts
from fourshot.bench.suites.paper.timing import BATCH, Timing, TimingRequest, measure_timings
from fourshot.engine.errors import InputError
from fourshot.engine.files import replace_file
from fourshot.engine.models import ResolvedModel, resolve_model
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.compare import compare
from fourshot.pipeline.runs.methods import METHODS
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.types import Task
from fourshot.training.jobs.jobs import HERE, Placement

SCHEMA = 1


class PaperOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the suite is to do."""

    size: str
    plan: PaperPlan
    facts: tuple[Fact, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    data: Path | None  # a folder with a folder per task; None: where the tasks say
    model: str | None
    runs: Path
    known: tuple[Path, ...] = ()  # results of comparisons made before
    placement: Placement = HERE
    timed: bool = True


class PaperResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result file."""

    schema: int
    suite: str
    commit: str
    hardware: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    sources: tuple[ScoreSource, ...]
    cells: tuple[PaperScore, ...]
    timings: tuple[Timing, ...]
    texts: tuple[CountedTexts, ...]
    facts: tuple[Fact, ...]
    targets: tuple[Target, ...]


def paper_options(size: str, tasks: Sequence[str] = (), seeds: int | None = None, **more: Any) -> PaperOptions:
    """`PaperOptions`: tasks and number of seeds are those of the settings file's ``size`` unless given.

    ``more`` are its other fields. Raises `InputError` for unknown tasks and less than one seed.
    """
    settings = load_settings()
    plan: PaperPlan = getattr(settings, size)
    unknown = [task for task in tasks if task not in plan.tasks]
    if unknown:
        raise InputError(f"The suite has no task {', '.join(unknown)}. Its tasks are {', '.join(plan.tasks)}.")
    if seeds is not None and seeds < 1:
        raise InputError(f"--seeds {seeds}: give how many draws of the shots to measure, at least 1.")
    return PaperOptions(
        size=size,
        plan=plan,
        facts=settings.facts,
        tasks=tuple(tasks) or plan.tasks,
        seeds=tuple(range(seeds or plan.seeds)),
        **more,
    )


class PaperSuite:
    """What was measured so far. ``on_step`` is given the result after every step."""

    def __init__(
        self,
        options: PaperOptions,
        on_step: Callable[[PaperResult], None],
        compare: Callable[..., object] = compare,  # writes comparison.json into its folder
        time_task: "Callable[[PaperSuite, Task], list[Timing]] | None" = None,
    ) -> None:
        self.options, self.on_step, self.compare = options, on_step, compare
        self.time_task = time_task or timed_in_a_process
        self.model: ResolvedModel = resolve_model(options.model)
        self.tasks = {name: load_task(name, options.data / name if options.data else None) for name in options.tasks}
        self._header = header("paper", SCHEMA, self._settings())
        self._sources: list[ScoreSource] = []
        self._scores: dict[tuple[TaskSetup, int], PaperScore] = {}  # by setup and seed
        self._timings: list[Timing] = []
        self._texts: list[CountedTexts] = []

    def run(self) -> PaperResult:
        """Measure what is missing. Raises `InputError` for a known result of another model."""
        for path in self.options.known:
            self._take(read_comparison(path), path.name)
        planned = planned_comparisons(self.options.plan, self.options.tasks, self.options.seeds)
        for name, task in self.tasks.items() if self.options.timed else ():  # first: it takes minutes, not hours
            tell(f"times in transformers: {name}")
            self._timings += self._timed(task)
            self.on_step(self.result())
        for number, comparison in enumerate(planned, start=1):
            tell(f"comparison {number} of {len(planned)}: {comparison.folder}")
            self._measure(comparison)
            self.on_step(self.result())
        for task in self.tasks.values():
            self._texts += self._counted(task, planned)
        result = self.result()
        self.on_step(result)
        return result

    def result(self) -> PaperResult:
        """The result as far as it is measured."""
        scores = tuple(self._scores.values())
        return PaperResult(
            **{name: self._header[name] for name in PaperResult.__struct_fields__[:6]},
            sources=tuple(self._sources),
            cells=scores,
            timings=tuple(self._timings),
            texts=tuple(self._texts),
            facts=self.options.facts,
            targets=tuple(paper_targets(scores, self._timings, self.options.tasks)),
        )

    def _settings(self) -> dict[str, Any]:
        options = self.options
        return {
            "size": options.size,
            "model": self.model.name,
            "model_revision": self.model.revision,
            "tasks": list(options.tasks),
            "seeds": list(options.seeds),
            "test_limit": options.plan.test_limit,
            "timed_texts": options.plan.timed_texts,
            "batch": BATCH,
        }

    def _measure(self, planned: PlannedComparison) -> None:
        """Add the scores of ``planned`` that nothing has yet; only what its folder lacks is computed."""
        methods = missing_methods(planned, self._scores.values())
        if not methods:
            return
        folder = self.options.runs / planned.folder
        if not (measured := finished_comparison(folder, planned, methods, self.model)):
            task, options = self.tasks[planned.task], self.options
            self.compare(
                task, options.model, planned.settings, methods, planned.seeds, folder, _teller(), options.placement
            )
            measured = read_comparison(folder / "comparison.json")
        self._take(measured, planned.folder)

    def _take(self, comparison: MeasuredComparison, name: str) -> None:
        if comparison.model_name != self.model.name:
            raise InputError(
                f"{name} was measured with {comparison.model_name}, this suite has {self.model.name}. Leave it out, or "
                "give --model."
            )
        if comparison.task not in self.options.tasks:
            return
        for score in scores_of(comparison, len(self._sources)):
            key = score.setup, score.seed
            if key not in self._scores or score.on_more_texts(self._scores[key]):
                self._scores[key] = score
        fields = {field: getattr(comparison, field) for field in ScoreSource.__struct_fields__ if field != "name"}
        self._sources.append(ScoreSource(name=name, **fields))

    def _timed(self, task: Task) -> list[Timing]:
        kept = self.options.runs / task.name / f"timing-{self.model.revision}-{self.options.plan.timed_texts}.json"
        if not kept.exists():
            replace_file(kept, msgspec.json.encode(self.time_task(self, task)))
        return msgspec.json.decode(kept.read_bytes(), type=list[Timing])

    def _counted(self, task: Task, planned: Sequence[PlannedComparison]) -> list[CountedTexts]:
        """The texts of the comparison that was to write the most of them, among those made here."""
        writing = [other for other in planned if other.task == task.name and TEXTS_OF in other.methods]
        for comparison in sorted(writing, key=lambda comparison: -comparison.settings.generate.per_class):
            counted = count_texts(task, self.options.runs / comparison.folder, self.options.seeds[0])
            if counted:
                return [counted]
        return []


def timed_in_a_process(suite: PaperSuite, task: Task) -> list[Timing]:
    """Times of ``task``, from a fresh process on our cores."""
    from fourshot.pipeline.synthesis.prompts import classification_prompt
    from fourshot.pipeline.tasks.shots import take_shots
    from fourshot.pipeline.tasks.tables import load_split

    examples = load_split(task, "test", limit=suite.options.plan.timed_texts).examples
    shots = take_shots(task, 4, suite.options.seeds[0])
    request = TimingRequest(
        model=suite.model.path,
        task=task.name,
        prompts=tuple(classification_prompt(task, example.text) for example in examples),
        prompts_in_context=tuple(classification_prompt(task, example.text, shots) for example in examples),
    )
    return call_apart(measure_timings, request)


def finished_comparison(
    folder: Path, planned: PlannedComparison, methods: Sequence[str], model: ResolvedModel
) -> MeasuredComparison | None:
    """The result that lies in ``folder``, if it is of this model and has ``methods`` on every seed as they are now."""
    file = folder / "comparison.json"
    if not file.exists():
        return None
    comparison = read_comparison(file)
    measured = {(result.method, result.seed) for result in comparison.results}
    whole = all((method, seed) in measured for method in methods for seed in planned.seeds)
    same = all(comparison.settings.get(method) == _plain_settings(planned, method, comparison) for method in methods)
    return comparison if whole and same and comparison.model_revision == model.revision else None


def _plain_settings(planned: PlannedComparison, method: str, comparison: MeasuredComparison) -> Any:
    settings = msgspec.structs.replace(METHODS[method].settings(planned.settings), seed=comparison.seeds[0])
    return msgspec.json.decode(msgspec.json.encode(settings))


def _teller() -> OnEvent:
    """Tells each new message once."""
    last = [""]

    def on_event(event: Event) -> None:
        if event.message and event.message != last[0]:
            last[0] = event.message
            tell(f"  {event.message}")

    return on_event
