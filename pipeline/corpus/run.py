"""Make a corpus: texts for many tasks, generated and filtered, in a folder that `datasets` can load."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import FourshotError, InputError
from fourshot.pipeline.corpus.filling import CorpusFilling, CorpusWork, forecast_of_corpus
from fourshot.pipeline.corpus.folder import JOURNAL_FILE, SHOTS_FILE, CorpusFolder
from fourshot.pipeline.corpus.manifests import CorpusManifest, TaskManifest
from fourshot.pipeline.corpus.repair import ShardDamage
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.corpus.shards import ShardRecord
from fourshot.pipeline.corpus.sink import check_begun, check_shots
from fourshot.pipeline.corpus.sources import annotators_of, data_of
from fourshot.pipeline.corpus.summary import CorpusSummary
from fourshot.pipeline.events import OnEvent, ignore
from fourshot.pipeline.forecasts.forecast import Forecast
from fourshot.pipeline.forecasts.work_counts import TokenCounts
from fourshot.pipeline.loop.styles import choose_styles
from fourshot.pipeline.loop.units import TaskBrief
from fourshot.pipeline.provenance import made_by, value_hash
from fourshot.pipeline.settings.effects import check_confidence, tell_unused, unused_in_corpus
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.prompt_style import untried_style
from fourshot.pipeline.synthesis.prompts import version_of
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import lost_shots
from fourshot.pipeline.work_folder import UNALIGNED, Layout
from fourshot.training.jobs.cluster import check_cluster

UNCHANGED = ("corpus", "default")  # presets whose values the user did not choose for a corpus


class CorpusRequest(msgspec.Struct, frozen=True):
    """The arguments of `do_corpus`."""

    tasks: Mapping[str, Task | FourshotError]  # from `load_tasks`; an error is a result of that task, others continue
    model: str | None
    folder: Path
    settings: RunSettings = PRESETS["corpus"]
    corpus: CorpusSettings = CorpusSettings()


def do_corpus(request: CorpusRequest, on_event: OnEvent = ignore, *, forecast: bool = False) -> CorpusSummary:
    """Make a corpus, or continue an interrupted one. ``forecast``: first report how long it will take.

    Raises InputError for invalid arguments, RunFolderError for a folder with other content, and ShortRunError if
    classes stall and ``allow_short`` is not set. Finished shards stay on disk whatever is raised.
    """
    work = _opened(request, on_event)
    files, align = work.files, request.settings.align
    with files.lock():
        _check_folder(work)
        work.tell(f"reading the data, tasks: {len(request.tasks)}")
        layout = _layout(work)
        work = work.aligned(layout)
        manifest = _manifest(work)
        files.forget_unstarted(manifest)
        briefs, failed = _briefs(work, request.tasks, forgets=True)
        files.check_claim(manifest)
        if layout.align != align:
            work.tell(UNALIGNED)
        files.keep_layout(layout)
        files.claim(manifest)
        for brief in briefs.values():
            files.begin(_task_manifest(brief.task, brief.annotators), brief.shots)
        briefs = _styled(work, briefs)
        for brief in briefs.values():
            for line in TokenCounts(brief.task, brief.shots, brief.settings, work.base.path).fitting_notes(brief.chat):
                work.tell(line)
        return CorpusFilling(work, briefs, failed).fill(forecast=forecast)


def plan_corpus(request: CorpusRequest, on_event: OnEvent) -> Forecast | None:
    """Forecast what `do_corpus` would take, from the measured speed of this machine; None if nothing is left to do."""
    work = _opened(request, on_event)
    files = work.files
    _check_folder(work)
    work = work.aligned(_layout(work))
    manifest = _manifest(work)
    is_new = files.is_unstarted(manifest)
    if not is_new:
        files.check_claim(manifest)
    briefs, failed = _briefs(work, request.tasks, forgets=False)
    for brief in briefs.values() if not is_new else ():
        files.check_begin(_task_manifest(brief.task, brief.annotators))
    shards: dict[str, list[ShardRecord]] = {}
    for shard in files.journal():
        if shard.task not in failed:
            shards.setdefault(shard.task, []).append(shard)
    ShardDamage(files, on_event).find_damage(shards, briefs.keys())
    return forecast_of_corpus(work, briefs, shards, anew=True)


def _opened(request: CorpusRequest, on_event: OnEvent) -> CorpusWork:
    """Return the requested work. Raises InputError for an invalid request, before the folder is claimed."""
    _check(request)
    files, base = CorpusFolder(request.folder), resolve_model(request.model)
    untried_style(request.settings.prompt_style, base.path, base.name)
    return CorpusWork(files, base, request.settings, request.corpus, on_event)


def _check_folder(work: CorpusWork) -> None:
    """Raise RunFolderError if the folder contains a link, and report settings without an effect."""
    work.files.check_links()
    tell_unused(work.settings, unused_in_corpus(work.settings), "corpus", work.on_event, UNCHANGED)


def _layout(work: CorpusWork) -> Layout:
    """Return the layout of the texts in the folder; if there are none, that of the settings."""
    layout = Layout.now(work.settings.align)
    return work.files.layout(layout) if work.files.has(JOURNAL_FILE) else layout


def _briefs(
    work: CorpusWork, tasks: Mapping[str, Task | FourshotError], *, forgets: bool
) -> tuple[dict[str, TaskBrief], dict[str, FourshotError]]:
    """Return the briefs of the tasks, and the errors of those that drop out, which are reported.

    ``forgets``: begin a task anew if its file or data was changed before anything was drawn for it. Raises the first
    error if all tasks drop out.
    """
    briefs, failed = dict[str, TaskBrief](), dict[str, FourshotError]()
    for name, task in tasks.items():
        try:
            if isinstance(task, FourshotError):
                raise task
            annotators = annotators_of(task, Path(work.corpus.adapters), work.base) if work.corpus.adapters else ()
            if forgets:
                work.files.forget_unstarted_task(_task_manifest(task, annotators))
            briefs[name] = _brief(work, task, annotators, forgets=forgets)
        except FourshotError as error:
            failed[name] = error
    if not briefs:
        raise next(iter(failed.values()))
    for name, fault in failed.items():  # reported now, because the others may take hours
        work.tell(f"{name} drops out: {' '.join(str(fault).split())}", notice=True)
    return briefs, failed


def _manifest(work: CorpusWork) -> CorpusManifest:
    return CorpusManifest(
        prompt_version=version_of(work.settings.prompt_style),
        settings=work.settings,
        model_name=work.base.name,
        model_revision=work.base.revision,
        format=work.corpus.format,
        versions=made_by(),
    )


def _check(request: CorpusRequest) -> None:
    settings, corpus = request.settings, request.corpus
    if not request.tasks:
        raise InputError("There is no task to write texts for. Give names, task files, or folders with task files.")
    if settings.learns_soft:
        raise InputError(
            "A corpus has a label for each text, and these settings keep probabilities of all labels (annotate.targets "
            "= soft). Leave that out, or use --preset corpus."
        )
    if settings.annotate.annotator == "adapters" and not corpus.adapters:
        raise InputError(
            "The annotator 'adapters' needs trained adapters, and a corpus trains none. Give their folder "
            "(--adapters), or "
            "have the base model annotate (--annotator icl)."
        )
    if settings.annotate.annotator != "adapters" and corpus.adapters:
        raise InputError(
            f"Adapters were given, but the annotator is {settings.annotate.annotator!r}, which uses none. Add "
            "--annotator adapters, or leave --adapters out."
        )
    check_confidence(settings)
    check_cluster(corpus.ray, corpus.gpus_per_engine)


def _brief(work: CorpusWork, task: Task, annotators: tuple[Annotator, ...], *, forgets: bool) -> TaskBrief:
    files = work.files
    check_begun(files, task.name, work.settings.prompt_style)
    data = data_of(task, work.on_event)
    _ = data.test  # read now: rows left out are reported before hours of work, and an error is that of this task
    stored_shots = files.shots(task.name)
    shots = data.shots(work.settings) if stored_shots is None else stored_shots
    if stored_shots is not None and task.name in files.drawn_tasks:
        data.check_stored_shots(stored_shots)
    elif stored_shots is not None and files.shots_hash(task.name) == value_hash(stored_shots):  # else they were edited
        shots = data.shots(work.settings)
        if shots != stored_shots:
            work.tell(
                f"{task.name}: the labelled data was changed before any text was drawn, so the current data is used"
            )
            if forgets:
                files.forget_task(task.name)
    check_shots(files, task.name, shots)
    file = files.path / "tasks" / task.name / SHOTS_FILE
    if stored_shots is None and (file.parent.exists() or (files.path / "data" / task.name).exists()):
        work.tell(f"{task.name}: {lost_shots(file)}", notice=True)
    return TaskBrief(
        key=task.name,
        task=task,
        shots=tuple(shots),
        settings=work.settings,
        annotators=annotators,
        attributes=files.attributes(task.name),
    )


def _task_manifest(task: Task, annotators: Iterable[Annotator]) -> TaskManifest:
    return TaskManifest(
        task=task, adapters=tuple(annotator.adapter.name for annotator in annotators if annotator.adapter)
    )


def _styled(work: CorpusWork, briefs: Mapping[str, TaskBrief]) -> dict[str, TaskBrief]:
    """Return the briefs with their prompt styles, which are chosen now unless an earlier call did so."""
    files, style, words = work.files, work.settings.prompt_style, work.settings.max_text_words
    if style == "plain":
        return dict(briefs)
    new = {name: (brief.task, brief.shots) for name, brief in briefs.items() if files.style(name) is None}
    styles = choose_styles(style, work.base, list(new.values()), words, files.path / "log.txt")
    for name, chosen in zip(new, styles, strict=True):
        files.write_style(name, chosen)
        work.tell(f"{name}, {chosen}")
    return {
        name: msgspec.structs.replace(brief, chat=written.chat)
        for name, brief in briefs.items()
        if (written := files.style(name))
    }
