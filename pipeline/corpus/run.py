"""A corpus: many texts for many tasks, generated and filtered, in a folder that `datasets` can load."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from fourshot.engine.adapters import rank_of, slot_rank
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import FourshotError, InputError, ShortRunError
from fourshot.engine.models import ResolvedModel, resolve_model
from fourshot.pipeline.corpus.datacard import write_card
from fourshot.pipeline.corpus.folder import CorpusFolder, CorpusManifest, ShardRecord, TaskManifest
from fourshot.pipeline.corpus.local import LocalWorker
from fourshot.pipeline.corpus.making import Making
from fourshot.pipeline.corpus.progress import Progress
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.corpus.sources import first_shots, readers_of
from fourshot.pipeline.corpus.summary import ClassOutcome, CorpusSummary, Rates, class_outcomes, replayed
from fourshot.pipeline.corpus.units import Opening, TaskBrief
from fourshot.pipeline.corpus.workers import Workers
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.provenance import installed_versions
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
from fourshot.pipeline.tasks.types import Task

COMPILE_FROM_ROWS = 2_000  # torch.compile takes a minute, and then samples twice as fast
MOST_LORAS = 8  # distinct adapters in a batch


def make_corpus(
    tasks: Mapping[str, Task | FourshotError],
    model: str | None,
    folder: Path,
    settings: RunSettings = PRESETS["corpus"],
    corpus: CorpusSettings = CorpusSettings(),  # noqa: B008 - frozen
    on_event: OnEvent = ignore,
) -> CorpusSummary:
    """Make the corpus of ``tasks`` in ``folder``, or go on where an earlier call was stopped.

    ``tasks`` is what `load_tasks` gives; a task that fails is an outcome, and the others go on. Raises
    InputError for what the user gave, RunFolderError for a folder that holds something else, ShortRunError where
    classes stall and ``allow_short`` is not set; finished shards stay on disk whatever is raised.
    """
    _check(tasks, settings, corpus)
    files = CorpusFolder(folder)
    base = resolve_model(model)
    with files.files.lock():
        on_event(Event(stage="corpus", message=f"reading the data, tasks: {len(tasks)}"))
        failed = {name: task for name, task in tasks.items() if isinstance(task, FourshotError)}
        briefs: dict[str, TaskBrief] = {}
        for name, task in tasks.items():
            try:
                if isinstance(task, Task):
                    briefs[name] = _brief(files, task, settings, corpus, base)
            except FourshotError as error:
                failed[name] = error
        if not briefs:
            raise next(iter(failed.values()))
        for name, fault in failed.items():  # now: the others may take hours
            on_event(Event(stage="corpus", message=f"{name} drops out: {' '.join(str(fault).split())}"))
        files.claim(_manifest(settings, corpus, base))
        for brief in briefs.values():
            adapters = tuple(reader.adapter.name for reader in brief.readers)
            files.begin(TaskManifest(task=brief.task, adapters=adapters), brief.shots)
        return _make(files, briefs, failed, base, settings, corpus, on_event)


def _make(
    files: CorpusFolder,
    briefs: Mapping[str, TaskBrief],
    failed: dict[str, FourshotError],
    base: ResolvedModel,
    settings: RunSettings,
    corpus: CorpusSettings,
    on_event: OnEvent,
) -> CorpusSummary:
    shards = files.resume()
    plans = {name: replayed(brief.task, settings.generate, shards.get(name, ())) for name, brief in briefs.items()}
    missing = {name: brief for name, brief in briefs.items() if not plans[name].is_done}
    kept = sum(count.kept for plan in plans.values() for count in plan.classes.values())
    wanted = sum(settings.generate.per_class * len(plan.classes) for plan in plans.values())
    progress = Progress(on_event, kept, wanted)
    making = Making(files, missing, shards, base, corpus, progress)
    rates = Rates()
    try:
        if missing:
            on_event(Event(stage="corpus", message="starting the engine"))
            with closing(_workers(missing, base, corpus, files.path, wanted - kept)) as workers:
                making.run(workers)
            rates = progress.rates(workers.starts)
    finally:
        journal = files.journal()
        summary = _summary(files, failed | making.failed, journal, settings, rates)
        write_card(files, summary, journal, corpus)
    _check_short(summary, settings)
    return summary


def _check(tasks: Mapping[str, Task | FourshotError], settings: RunSettings, corpus: CorpusSettings) -> None:
    if not tasks:
        raise InputError("There is no task to write texts for. Give names, task files, or folders with task files.")
    if settings.annotate.annotator == "adapters" and not corpus.adapters:
        raise InputError(
            "The annotator 'adapters' needs trained ones, and a corpus trains none: name their folder (--adapters), "
            "or have the base model re-label (--annotator icl)."
        )
    if settings.annotate.annotator != "adapters" and corpus.adapters:
        raise InputError(
            f"Adapters were given, but the annotator is {settings.annotate.annotator!r}, which asks none. Add "
            "--annotator adapters, or leave --adapters out."
        )


def _brief(
    files: CorpusFolder, task: Task, settings: RunSettings, corpus: CorpusSettings, base: ResolvedModel
) -> TaskBrief:
    readers = readers_of(task, Path(corpus.adapters), base) if corpus.adapters else ()
    shots = files.shots(task.name) or first_shots(task, settings)
    return TaskBrief(task=task, shots=tuple(shots), settings=settings, readers=readers)


def _manifest(settings: RunSettings, corpus: CorpusSettings, base: ResolvedModel) -> CorpusManifest:
    return CorpusManifest(
        settings=settings,
        model_name=base.name,
        model_revision=base.revision,
        format=corpus.format,
        versions=installed_versions(),
    )


def _workers(
    briefs: Mapping[str, TaskBrief], base: ResolvedModel, corpus: CorpusSettings, root: Path, rows: int
) -> Workers:
    adapters = {reader.adapter.name: reader.adapter for brief in briefs.values() for reader in brief.readers}
    engine = EngineSettings(
        model=base.path,
        max_loras=min(len(adapters), MOST_LORAS),
        max_lora_rank=slot_rank(max(map(rank_of, adapters.values()), default=8)),
        compile=rows >= COMPILE_FROM_ROWS,
    )
    opening = Opening(engine=engine)
    if corpus.ray:
        from fourshot.pipeline.corpus.ray_workers import RayWorkers

        return RayWorkers(opening, corpus.ray)
    return LocalWorker(opening, root / "log.txt")


def _summary(
    files: CorpusFolder,
    failed: Mapping[str, FourshotError],
    journal: list[ShardRecord],
    settings: RunSettings,
    rates: Rates,
) -> CorpusSummary:
    classes: list[ClassOutcome] = []
    for task in map(files.task, files.tasks()):
        plan = replayed(task, settings.generate, [shard for shard in journal if shard.task == task.name])
        classes += class_outcomes(task, settings.generate, plan)
    for name, error in failed.items():
        message = " ".join(str(error).split())
        classes.append(ClassOutcome(task=name, state="failed", error=type(error).__name__, message=message))
    return CorpusSummary(
        folder=str(files.path),
        rows=sum(shard.rows for shard in journal),
        shards=sum(bool(shard.file) for shard in journal),
        classes=tuple(classes),
        rates=rates,
    )


def _check_short(summary: CorpusSummary, settings: RunSettings) -> None:
    short = [one for one in summary.classes if one.state == "stalled"]
    if not short or settings.allow_short:
        return
    lines = "\n".join(
        f"  - {one.task}, {one.label}: {one.kept} of {one.wanted} kept from {one.drawn} draws; {one.message}"
        for one in short
    )
    raise ShortRunError(
        f"Some classes stalled before they had enough texts:\n{lines}\nAll others are finished, and everything kept is "
        f"in {summary.folder}. Take it as it is (--allow-short); or make it anew in another folder (--out): ask for "
        "fewer (--per-class), draw more (--set generate.max_candidates=...), accept a lower rate "
        "(--set generate.min_acceptance=...), or describe these labels better in the task file."
    )
