"""The suite: times, then comparisons one after the other, each in a folder of its own, and what they wrote.

What is finished is not done again: a comparison whose result lies in its folder, a method that another result already
has, a task that was timed. The result is written after every step, so a stopped suite leaves what it has.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.suites.paper import findings
from fourshot.bench.suites.paper.cells import (
    Cell,
    Measured,
    Source,
    cells_of,
    identity_of,
    missing,
    on_more_texts,
    read_comparison,
)
from fourshot.bench.suites.paper.plan import Fact, Job, Plan, jobs, load_settings
from fourshot.bench.suites.paper.texts import METHOD as TEXTS_OF
from fourshot.bench.suites.paper.texts import Texts, count_texts
from fourshot.bench.suites.paper.timing import BATCH, Timing, TimingOrder
from fourshot.bench.suites.tables import Target
from fourshot.engine.errors import InputError
from fourshot.engine.files import replace_file
from fourshot.engine.models import ResolvedModel, resolve_model
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.provenance import describe_hardware, installed_versions, source_commit
from fourshot.pipeline.runs.compare import compare as run_comparison
from fourshot.pipeline.runs.methods import METHODS
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.types import Task
from fourshot.training.jobs.jobs import HERE, Placement

SCHEMA = 1
Compare = Callable[..., object]  # `pipeline.runs.compare.compare`: writes comparison.json into its folder


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the suite is to do."""

    size: str
    plan: Plan
    facts: tuple[Fact, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    data: Path | None  # a folder with a folder per task; None: where the tasks say
    model: str | None
    runs: Path
    known: tuple[Path, ...] = ()  # results of comparisons made before
    placement: Placement = HERE
    timed: bool = True


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result file."""

    schema: int = SCHEMA
    suite: str = "paper"
    commit: str
    hardware: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    sources: tuple[Source, ...]
    cells: tuple[Cell, ...]
    timings: tuple[Timing, ...]
    texts: tuple[Texts, ...]
    facts: tuple[Fact, ...]
    targets: tuple[Target, ...]


def ask(size: str, tasks: Sequence[str] = (), seeds: int | None = None, **more: Any) -> Asked:
    """An `Asked`: tasks and number of seeds are those of the settings file's ``size`` unless given.

    ``more`` are its other fields. Raises `InputError` for unknown tasks and less than one seed.
    """
    settings = load_settings()
    plan: Plan = getattr(settings, size)
    unknown = [task for task in tasks if task not in plan.tasks]
    if unknown:
        raise InputError(f"The suite has no task {', '.join(unknown)}. Its tasks are {', '.join(plan.tasks)}.")
    if seeds is not None and seeds < 1:
        raise InputError(f"--seeds {seeds}: give how many draws of the shots to measure, at least 1.")
    return Asked(
        size=size,
        plan=plan,
        facts=settings.facts,
        tasks=tuple(tasks) or plan.tasks,
        seeds=tuple(range(seeds or plan.seeds)),
        **more,
    )


class Suite:
    """What was measured so far. ``on_step`` is given the result after every step."""

    def __init__(
        self,
        asked: Asked,
        on_step: Callable[[Result], None],
        compare: Compare = run_comparison,
        time_task: "Callable[[Suite, Task], list[Timing]] | None" = None,
    ) -> None:
        self.asked, self.on_step, self.compare = asked, on_step, compare
        self.time_task = time_task or timed_in_a_process
        self.model: ResolvedModel = resolve_model(asked.model)
        self.tasks = {name: _task(name, asked.data) for name in asked.tasks}
        self.sources: list[Source] = []
        self.cells: dict[tuple[str, str, int, int, int], Cell] = {}  # by identity and seed
        self.timings: list[Timing] = []
        self.texts: list[Texts] = []

    def run(self) -> Result:
        for path in self.asked.known:
            self._take(read_comparison(path), path.name)
        planned = jobs(self.asked.plan, self.asked.tasks, self.asked.seeds)
        for name, task in self.tasks.items() if self.asked.timed else ():  # first: it takes minutes, not hours
            _tell(f"times in transformers: {name}")
            self.timings += self._timed(name, task)
            self.on_step(self.result())
        for number, job in enumerate(planned, start=1):
            _tell(f"comparison {number} of {len(planned)}: {job.folder}")
            self._compare(job)
            self.on_step(self.result())
        for name, task in self.tasks.items():
            self.texts += self._counted(name, task, planned)
        result = self.result()
        self.on_step(result)
        return result

    def result(self) -> Result:
        asked = self.asked
        return Result(
            commit=source_commit(),
            hardware=describe_hardware(),
            versions=installed_versions(),
            settings={
                "size": asked.size,
                "model": self.model.name,
                "model_revision": self.model.revision,
                "tasks": list(asked.tasks),
                "seeds": list(asked.seeds),
                "test_limit": asked.plan.test_limit,
                "timed_texts": asked.plan.timed_texts,
                "batch": BATCH,
            },
            sources=tuple(self.sources),
            cells=tuple(self.cells.values()),
            timings=tuple(self.timings),
            texts=tuple(self.texts),
            facts=asked.facts,
            targets=tuple(findings.targets(list(self.cells.values()), self.timings, asked.tasks)),
        )

    def _compare(self, job: Job) -> None:
        """Add the cells of ``job`` that nothing has yet; a comparison is only made for what its folder lacks."""
        lacking = missing(job, self.cells.values())
        if not lacking:
            return
        folder = self.asked.runs / job.folder
        finished = _finished(folder, job, lacking, self.model)
        if finished is None:
            self.compare(
                self.tasks[job.task],
                self.asked.model,
                job.settings,
                lacking,
                job.seeds,
                folder,
                _teller(),
                self.asked.placement,
            )
            finished = read_comparison(folder / "comparison.json")
        self._take(finished, job.folder)

    def _take(self, measured: Measured, name: str) -> None:
        if measured.model_name != self.model.name:
            raise InputError(
                f"{name} was measured with {measured.model_name}, this suite has {self.model.name}. Leave it out, or "
                "give --model."
            )
        if measured.task not in self.asked.tasks:
            return
        for cell in cells_of(measured, len(self.sources)):
            key = (*identity_of(cell), cell.seed)
            if key not in self.cells or on_more_texts(cell, self.cells[key]):
                self.cells[key] = cell
        self.sources.append(
            Source(
                name=name,
                commit=measured.commit,
                model_revision=measured.model_revision,
                task=measured.task,
                seeds=measured.seeds,
                hardware=measured.hardware,
                versions=measured.versions,
            )
        )

    def _timed(self, name: str, task: Task) -> list[Timing]:
        kept = self.asked.runs / name / f"timing-{self.model.revision}-{self.asked.plan.timed_texts}.json"
        if not kept.exists():
            replace_file(kept, msgspec.json.encode(self.time_task(self, task)))
        return msgspec.json.decode(kept.read_bytes(), type=list[Timing])

    def _counted(self, name: str, task: Task, planned: Sequence[Job]) -> list[Texts]:
        """The texts of the comparison that was to write the most of them, among those made here."""
        written = [job for job in planned if job.task == name and TEXTS_OF in job.methods]
        for job in sorted(written, key=lambda job: -job.settings.generate.per_class):
            found = count_texts(task, self.asked.runs / job.folder, self.asked.seeds[0])
            if found:
                return [found]
        return []


def timed_in_a_process(suite: Suite, task: Task) -> list[Timing]:
    """Times of ``task``, from a fresh process on our cores."""
    from fourshot.pipeline.synthesis.prompts import classification_prompt
    from fourshot.pipeline.tasks.shots import take_shots
    from fourshot.pipeline.tasks.tables import load_split

    limit, seed = suite.asked.plan.timed_texts, suite.asked.seeds[0]
    texts = [example.text for example in load_split(task, "test", limit=limit).examples]
    shots = take_shots(task, 4, seed)
    order = TimingOrder(
        model=suite.model.path,
        task=task.name,
        prompts=tuple(classification_prompt(task, text) for text in texts),
        prompts_in_context=tuple(classification_prompt(task, text, shots) for text in texts),
    )
    folder = suite.asked.runs / task.name
    asked, said = folder / "timing-order.json", folder / "timing-said.json"
    replace_file(asked, msgspec.json.encode(order))
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "fourshot.bench.suites.paper.timing", str(asked), str(said)]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "PYTHONPATH": path})
    return msgspec.json.decode(said.read_bytes(), type=list[Timing])


def _task(name: str, data: Path | None) -> Task:
    return load_task(name, data / name if data else None)


def _finished(folder: Path, job: Job, methods: Sequence[str], model: ResolvedModel) -> Measured | None:
    """The result that lies in ``folder``, if it is of this model and has ``methods`` on every seed as they are now."""
    file = folder / "comparison.json"
    if not file.exists():
        return None
    measured = read_comparison(file)
    there = {(result.method, result.seed) for result in measured.results}
    whole = all((method, seed) in there for method in methods for seed in job.seeds)
    same = all(
        measured.settings.get(method) == _builtins(METHODS[method].settings(job.settings), measured.seeds[0])
        for method in methods
    )
    return measured if whole and same and measured.model_revision == model.revision else None


def _builtins(settings: Any, seed: int) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(msgspec.structs.replace(settings, seed=seed)))
    return plain


def _teller() -> OnEvent:
    """Tells each new message once."""
    last = [""]

    def tell(event: Event) -> None:
        if event.message and event.message != last[0]:
            last[0] = event.message
            _tell(f"  {event.message}")

    return tell


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
