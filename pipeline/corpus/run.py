"""A corpus: many texts for many tasks, generated and filtered, in a folder that `datasets` can load."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel, resolve_model
from fourshot.engine.errors import FourshotError, InputError
from fourshot.pipeline.corpus.filling import CorpusFilling, foretell_corpus
from fourshot.pipeline.corpus.folder import SHOTS_FILE, CorpusFolder
from fourshot.pipeline.corpus.manifests import CorpusManifest, TaskManifest
from fourshot.pipeline.corpus.mending import ShardDamage
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.corpus.shards import ShardRecord
from fourshot.pipeline.corpus.sink import check_begun, check_shots
from fourshot.pipeline.corpus.sources import data_of, readers_of
from fourshot.pipeline.corpus.summary import CorpusSummary
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.forecast import Forecast
from fourshot.pipeline.loop.styles import choose_styles
from fourshot.pipeline.loop.units import TaskBrief
from fourshot.pipeline.provenance import made_by
from fourshot.pipeline.settings.effects import check_confidence, tell_unused, unused_in_corpus
from fourshot.pipeline.synthesis.committee import Reader
from fourshot.pipeline.synthesis.prompt_style import untried_style
from fourshot.pipeline.synthesis.prompts import version_of
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import lost_shots
from fourshot.pipeline.work_counts import TokenCounts
from fourshot.pipeline.work_folder import UNALIGNED, Layout
from fourshot.training.jobs.cluster import check_cluster

UNCHANGED = ("corpus", "default")  # presets whose values nobody chose for a corpus


def make_corpus(
    tasks: Mapping[str, Task | FourshotError],
    model: str | None,
    folder: Path,
    settings: RunSettings = PRESETS["corpus"],
    corpus: CorpusSettings = CorpusSettings(),  # noqa: B008 - frozen
    on_event: OnEvent = ignore,
    forecast: bool = False,
) -> CorpusSummary:
    """Make the corpus of ``tasks`` in ``folder``, or go on where an earlier call was stopped.

    ``tasks`` is what `load_tasks` gives; a task that fails is an outcome, and the others go on. ``forecast``: first
    tell what it will take. Raises InputError for what the user gave, RunFolderError for a folder that holds something
    else, ShortRunError where classes stall and ``allow_short`` is not set; finished shards stay on disk whatever is
    raised.
    """
    _check(tasks, settings, corpus)
    files, base = CorpusFolder(folder), _base(model, settings)
    with files.lock():
        files.check_links()
        tell_unused(settings, unused_in_corpus(settings), "corpus", on_event, UNCHANGED)
        on_event(Event(stage="corpus", message=f"reading the data, tasks: {len(tasks)}"))
        layout = files.layout(Layout.now(settings.align))
        if layout.align != settings.align:
            on_event(Event(stage="corpus", message=UNALIGNED))
        settings = msgspec.structs.replace(settings, align=layout.align)
        manifest = _manifest(settings, corpus, base)
        files.forget_unstarted(manifest)
        briefs, failed = _briefs(files, tasks, settings, corpus, base, on_event, forgets=True)
        files.check_claim(manifest)
        files.keep_layout(layout)
        files.claim(manifest)
        for brief in briefs.values():
            files.begin(_task_manifest(brief.task, brief.readers), brief.shots)
        briefs = _styled(files, briefs, base, settings, on_event)
        for brief in briefs.values():
            for line in TokenCounts(brief.task, brief.shots, settings, base.path).fitting_notes(brief.chat):
                on_event(Event(stage="corpus", message=line))
        return CorpusFilling(files, briefs, failed, base, settings, corpus, on_event).fill(forecast=forecast)


def plan_corpus(
    tasks: Mapping[str, Task | FourshotError],
    model: str | None,
    folder: Path,
    settings: RunSettings,
    corpus: CorpusSettings,
    on_event: OnEvent,
) -> Forecast | None:
    """What `make_corpus` would take, by the speed of this machine as it is now; None where nothing is left to do."""
    _check(tasks, settings, corpus)
    files, base = CorpusFolder(folder), _base(model, settings)
    files.check_links()
    tell_unused(settings, unused_in_corpus(settings), "corpus", on_event, UNCHANGED)
    layout = files.layout(Layout.now(settings.align))
    settings = msgspec.structs.replace(settings, align=layout.align)
    manifest = _manifest(settings, corpus, base)
    is_new = files.is_unstarted(manifest)
    if not is_new:
        files.check_claim(manifest)
    briefs, failed = _briefs(files, tasks, settings, corpus, base, on_event, forgets=False)
    for brief in briefs.values() if not is_new else ():
        files.check_begin(_task_manifest(brief.task, brief.readers))
    shards: dict[str, list[ShardRecord]] = {}
    for shard in files.journal():
        if shard.task not in failed:
            shards.setdefault(shard.task, []).append(shard)
    ShardDamage(files, on_event).look(shards, briefs.keys())
    return foretell_corpus(briefs, shards, base, on_event, anew=True)


def _briefs(
    files: CorpusFolder,
    tasks: Mapping[str, Task | FourshotError],
    settings: RunSettings,
    corpus: CorpusSettings,
    base: ResolvedModel,
    on_event: OnEvent,
    *,
    forgets: bool,
) -> tuple[dict[str, TaskBrief], dict[str, FourshotError]]:
    """What is to be written for each task, and why some drop out, which is told. Raises the first error if all do.

    ``forgets``: a task whose file was changed before anything was written for it is begun anew.
    """
    briefs, failed = dict[str, TaskBrief](), dict[str, FourshotError]()
    for name, task in tasks.items():
        try:
            if isinstance(task, FourshotError):
                raise task
            readers = _readers(task, corpus, base)
            if forgets:
                files.forget_unstarted_task(_task_manifest(task, readers))
            briefs[name] = _brief(files, task, settings, readers, on_event)
        except FourshotError as error:
            failed[name] = error
    if not briefs:
        raise next(iter(failed.values()))
    for name, fault in failed.items():  # now: the others may take hours
        message = f"{name} drops out: {' '.join(str(fault).split())}"
        on_event(Event(stage="corpus", message=message, notice=True))
    return briefs, failed


def _base(model: str | None, settings: RunSettings) -> ResolvedModel:
    """Raises InputError where it has no prompts of the style that is wanted, before the folder is claimed."""
    base = resolve_model(model)
    untried_style(settings.prompt_style, base.path, base.name)
    return base


def _manifest(settings: RunSettings, corpus: CorpusSettings, base: ResolvedModel) -> CorpusManifest:
    return CorpusManifest(
        prompt_version=version_of(settings.prompt_style),
        settings=settings,
        model_name=base.name,
        model_revision=base.revision,
        format=corpus.format,
        versions=made_by(),
    )


def _check(tasks: Mapping[str, Task | FourshotError], settings: RunSettings, corpus: CorpusSettings) -> None:
    if not tasks:
        raise InputError("There is no task to write texts for. Give names, task files, or folders with task files.")
    if settings.learns_soft:
        raise InputError(
            "A corpus has a label for each text, and these settings keep probabilities of all labels (annotate.targets "
            "= soft). Leave that out, or take --preset corpus."
        )
    if settings.annotate.annotator == "adapters" and not corpus.adapters:
        raise InputError(
            "The annotator 'adapters' needs trained ones, and a corpus trains none: name their folder (--adapters), "
            "or have the base model annotate (--annotator icl)."
        )
    if settings.annotate.annotator != "adapters" and corpus.adapters:
        raise InputError(
            f"Adapters were given, but the annotator is {settings.annotate.annotator!r}, which asks none. Add "
            "--annotator adapters, or leave --adapters out."
        )
    check_confidence(settings)
    check_cluster(corpus.ray, corpus.gpus_per_engine)


def _readers(task: Task, corpus: CorpusSettings, base: ResolvedModel) -> tuple[Reader, ...]:
    return readers_of(task, Path(corpus.adapters), base) if corpus.adapters else ()


def _brief(
    files: CorpusFolder, task: Task, settings: RunSettings, readers: tuple[Reader, ...], on_event: OnEvent
) -> TaskBrief:
    check_begun(files, task.name)
    data = data_of(task, on_event)
    _ = data.test  # read now: what it leaves out is told before hours of work, and a fault is this task's
    stored_shots = files.shots(task.name)
    shots = data.shots(settings) if stored_shots is None else stored_shots
    check_shots(files, task.name, shots)
    file = files.path / "tasks" / task.name / SHOTS_FILE
    if stored_shots is None and (file.parent.exists() or (files.path / "data" / task.name).exists()):
        on_event(Event(stage="corpus", message=f"{task.name}: {lost_shots(file)}", notice=True))
    return TaskBrief(
        key=task.name,
        task=task,
        shots=tuple(shots),
        settings=settings,
        readers=readers,
        attributes=files.attributes(task.name),
    )


def _task_manifest(task: Task, readers: Iterable[Reader]) -> TaskManifest:
    return TaskManifest(task=task, adapters=tuple(reader.adapter.name for reader in readers if reader.adapter))


def _styled(
    files: CorpusFolder, briefs: Mapping[str, TaskBrief], base: ResolvedModel, settings: RunSettings, on_event: OnEvent
) -> dict[str, TaskBrief]:
    """The briefs with the prompt style of each, found now where no earlier call did."""
    if settings.prompt_style == "plain":
        return dict(briefs)
    new = {name: (brief.task, brief.shots) for name, brief in briefs.items() if files.style(name) is None}
    words, log = settings.max_text_words, files.path / "log.txt"
    styles = dict(zip(new, choose_styles(settings.prompt_style, base, list(new.values()), words, log), strict=True))
    for name, style in styles.items():
        files.write_style(name, style)
        on_event(Event(stage="corpus", message=f"{name}, {style}"))
    return {
        name: msgspec.structs.replace(brief, chat=written.chat)
        for name, brief in briefs.items()
        if (written := files.style(name))
    }
