"""Generate texts: first the pool that annotators are trained on, then candidates with a verdict for each.

Each folder is a task of `pipeline.loop.driver`. All of them share one engine here, or the engines of a Ray cluster.
"""

from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from fourshot.engine.chat import ChatTurns
from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.cell import MethodCell
from fourshot.pipeline.cells.run_folder import GENERATED_FILE, POOL_FILE, UNLABELLED_FILE, RunFolder
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.forecasts.work_counts import TokenCounts
from fourshot.pipeline.loop.driver import Driver
from fourshot.pipeline.loop.rounds import RoundSink
from fourshot.pipeline.loop.unlabelled import UnlabelledSink
from fourshot.pipeline.loop.workers import engine_settings, open_workers
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.task import Example
from fourshot.training.jobs.jobs import FailedJob


class TextsItem(msgspec.Struct, frozen=True, kw_only=True):
    """One run folder to fill: its pool, its candidates with verdicts, or the verdicts on the user's own texts."""

    folder: str
    test: list[Example]  # candidates similar to these are rejected
    chat: ChatTurns | None = None  # of prompts; None: plain text
    annotators: tuple[Annotator, ...] = ()
    is_pool: bool = False  # only draw the candidates that annotators will be trained on
    unlabelled: tuple[Candidate, ...] = ()  # only annotate these

    @property
    def key(self) -> str:
        return self.folder

    @property
    def is_finished(self) -> bool:
        return RunFolder(self.folder).has(self._done_file)

    @property
    def _done_file(self) -> str:
        return POOL_FILE if self.is_pool else UNLABELLED_FILE if self.unlabelled else GENERATED_FILE

    def sink(self, on_event: OnEvent, *, spread: bool) -> RoundSink:
        folder = RunFolder(self.folder)
        manifest = folder.manifest()
        into = (folder.path / self._done_file).parent
        into.mkdir(exist_ok=True)
        settings = manifest.settings
        arguments = RunFolder(into), manifest.task, folder.shots(), settings
        more: dict[str, Any] = {
            "chat": self.chat,
            "annotators": self.annotators,
            "test_texts": lambda: [example.text for example in self.test],
            "on_event": on_event,
            "spread": spread,
            "done_file": Path(self._done_file).name,
        }
        if self.unlabelled:
            return UnlabelledSink(*arguments, self.unlabelled, **more)
        reads_pool = settings.annotate.has_pool and not self.is_pool
        return RoundSink(*arguments, pool=folder.pool if reads_pool else None, is_pool=self.is_pool, **more)

    def fitting_notes(self, model_path: str) -> list[str]:
        """Return the notes of `TokenCounts.fitting_notes`; none for a pool."""
        folder = RunFolder(self.folder)
        manifest = folder.manifest()
        if self.is_pool:
            return []
        shots = folder.shots()
        seen = next(([shots[index] for index in member.shown] for member in self.annotators if member.adapter), ())
        return TokenCounts(manifest.task, shots, manifest.settings, model_path).fitting_notes(self.chat, seen)


class GenerateStage(Stage, frozen=True, kw_only=True, tag="generate"):
    """Fill run folders as their manifests specify."""

    items: tuple[TextsItem, ...]

    needs_process: ClassVar[bool] = False  # the engines are in processes of their own

    def run(self, on_event: OnEvent) -> list[FailedJob]:
        items = [item for item in self.items if not item.is_finished]
        if not items:
            return []
        spread = bool(self.placement.ray)
        sinks = [item.sink(on_event, spread=spread) for item in items]
        item_of = {sink.key: item.key for sink, item in zip(sinks, items, strict=True)}  # a pool is in a subfolder
        # Without Ray, one folder at a time: its bytes then do not depend on the folders filled before and after it.
        driver = Driver({sink.key: sink for sink in sinks}, one_at_a_time=not spread, keep_going=self.keep_going)
        for item in items:
            for line in item.fitting_notes(self.model_path):
                on_event(Event(stage=self.name, message=line))
        on_event(Event(stage=self.name, message="starting the engine"))
        # One adapter is used at a time. A run samples for less time than compiling takes, so nothing is compiled.
        annotators, gpus = (
            [annotator for item in items for annotator in item.annotators],
            self.placement.gpus_per_engine,
        )
        engine = engine_settings(
            self.model_path,
            [adapter for annotator in annotators for adapter in annotator.adapters],
            most_loras=1,
            gpus=gpus,
        )

        def tell(line: str) -> None:
            on_event(Event(stage=self.name, message=line))

        with closing(open_workers(engine, self.placement.ray, Path(self.log), annotators, tell)) as workers:
            driver.run(workers)
        return [
            FailedJob(key=item_of[key], kind=type(error).__name__, message=str(error))
            for key, error in driver.failed.items()
        ]


def pools(experiment: Experiment) -> GenerateStage:
    """Return the pools to draw before annotators can be trained."""
    writers = [writer for writer in experiment.writers if writer.settings.annotate.has_pool]
    return _stage(experiment, [_item(experiment, writer, is_pool=True) for writer in writers])


def unlabelled_texts(experiment: Experiment) -> GenerateStage:
    """Return the annotation of the user's own texts. The annotators must be trained."""
    items = [
        _item(experiment, writer, annotators=experiment.text_annotators(writer), unlabelled=experiment.unlabelled)
        for writer in (experiment.writers if experiment.unlabelled else ())
    ]
    return _stage(experiment, items)


def rounds(experiment: Experiment) -> GenerateStage:
    """Return the generation and annotation of candidates. The annotators must be trained."""
    items = [
        _item(experiment, writer, annotators=experiment.text_annotators(writer)) for writer in _generating(experiment)
    ]
    return _stage(experiment, items)


def check_candidates(experiment: Experiment) -> None:
    """Raise InputError, before any work, where no class can get enough texts: each would stall first."""
    for writer in _generating(experiment):
        generate, may_be_short = writer.settings.generate, writer.settings.allow_short
        if generate.per_class > generate.most_candidates and not (may_be_short or writer.folder.has(GENERATED_FILE)):
            raise InputError(
                f"{generate.per_class} texts per class are requested (--per-class; --generate of distill), but a class "
                f"is given up after {generate.most_candidates} candidates. Allow as many as it needs (--set "
                "generate.max_candidates=0), or continue with fewer texts (--allow-short)."
            )


def _generating(experiment: Experiment) -> list[MethodCell]:
    """Return the writers whose texts are generated."""
    return [
        writer
        for writer in experiment.writers
        if writer.method.synthetic and not (experiment.unlabelled and writer.settings.unlabelled.mode == "instead")
    ]


def _item(experiment: Experiment, writer: MethodCell, **more: Any) -> TextsItem:
    """Return the item of a writer's folder; ``more``: further fields of `TextsItem`."""
    return TextsItem(folder=str(writer.folder.path), test=experiment.data.test, chat=writer.form.chat, **more)


def _stage(experiment: Experiment, items: list[TextsItem]) -> GenerateStage:
    return GenerateStage(model_path=experiment.model.path, items=tuple(items))
