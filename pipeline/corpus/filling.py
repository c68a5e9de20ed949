"""Fill a corpus whose tasks are begun: first damaged shards, then missing texts, with a data card at any time."""

import contextlib
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import closing

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import FourshotError
from fourshot.pipeline.corpus.datacard import with_licence, write_card
from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.plan import STAGE, remaining_work
from fourshot.pipeline.corpus.repair import RepairSink, ShardDamage
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.corpus.shards import ShardRecord
from fourshot.pipeline.corpus.sink import ShardSink, replayed
from fourshot.pipeline.corpus.summary import ClassOutcome, CorpusSummary, class_outcomes, counted
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.forecasts.forecast import FORECAST_FILE, Forecast, make_forecast, record_actual_times
from fourshot.pipeline.loop.counts import ClassCounts, short_run_error
from fourshot.pipeline.loop.driver import Driver, Sink
from fourshot.pipeline.loop.progress import ProgressReporter, Rates
from fourshot.pipeline.loop.units import TaskBrief
from fourshot.pipeline.loop.workers import engine_settings, open_workers
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.work_folder import Layout

COMPILE_FROM_ROWS = 2_000  # torch.compile takes a minute, and then sampling is twice as fast
MOST_LORAS = 8  # distinct adapters in a batch


class CorpusWork(msgspec.Struct, frozen=True):
    """The work of one call on a corpus: its folder, base model and settings."""

    files: CorpusFolder
    base: ResolvedModel
    settings: RunSettings
    corpus: CorpusSettings
    on_event: OnEvent

    def tell(self, message: str, *, notice: bool = False) -> None:
        self.on_event(Event(stage="corpus", message=message, notice=notice))

    def aligned(self, layout: Layout) -> "CorpusWork":
        """Return a copy with the prompt layout of the folder."""
        return msgspec.structs.replace(self, settings=msgspec.structs.replace(self.settings, align=layout.align))


class CorpusFilling:
    """Fills a corpus in one call."""

    def __init__(self, work: CorpusWork, briefs: Mapping[str, TaskBrief], failed: dict[str, FourshotError]) -> None:
        """``failed``: task that dropped out -> error; later failures are added.

        Raises RunFolderError for damage that cannot be repaired.
        """
        self._work, self._files, self._settings = work, work.files, work.settings
        self._of_card = with_licence(work.files, work.corpus)
        self._briefs, self._failed = briefs, failed
        self._whole = self._whole_among(failed.keys()) if failed else set()
        self._damage = ShardDamage(work.files, work.on_event)
        self._refresh_shards()
        total = work.settings.generate.per_class * sum(len(brief.task.labels) for brief in briefs.values())
        kept = sum(
            shard.rows
            for name in briefs
            for shard in self._shards.get(name, ())
            if shard.file not in self._damaged.get(name, ())
        )
        self._progress, self._rates = ProgressReporter(work.on_event, "corpus", "rows", kept, total), Rates()
        self._compiled = total - kept >= COMPILE_FROM_ROWS

    def _whole_among(self, names: Set[str]) -> set[str]:
        """Return the tasks that dropped out, but have all their texts: the folder counts them as finished."""
        files, journal = self._files, self._files.journal()

        def is_whole(name: str) -> bool:
            shards = [shard for shard in journal if shard.task == name]
            is_finished = not counted(files.task(name), self._settings.generate, shards).missing
            return is_finished and not any(map(files.damage, shards))

        return set(filter(is_whole, names & {*files.tasks()}))

    def fill(self, *, forecast: bool) -> CorpusSummary:
        """Generate until every class has enough texts or has stalled. Return the summary.

        Raises ShortRunError for stalled classes unless ``allow_short`` is set, or the first error if all tasks failed.
        ``forecast``: first report how long it will take.
        """
        estimate = forecast_of_corpus(self._work, self._briefs, self._shards) if forecast else None
        began = time.perf_counter()
        try:
            self._fill()
        except BaseException as error:
            summary, _ = self._write_card()
            if isinstance(error, KeyboardInterrupt) and not summary.shards:
                self._work.tell("nothing was kept yet", notice=True)
            raise
        if estimate:
            estimate = record_actual_times(estimate, {STAGE: time.perf_counter() - began})
            self._files.write(FORECAST_FILE, estimate)
        summary, counts = self._write_card(is_last=True)
        if self._briefs.keys() <= self._failed.keys():
            raise next(iter(self._failed.values()))
        stalled_classes = [
            (f"{name}, {label}", of_task.by_label[label])
            for name, of_task in counts.items()
            if name in self._briefs  # other tasks of the folder were not requested
            for label in of_task.missing
            if of_task.has_stalled(label)
        ]
        if stalled_classes and not self._settings.allow_short:
            per_class, place = self._settings.generate.per_class, str(self._files.path)
            raise short_run_error(stalled_classes, per_class, place, self._failed)
        return msgspec.structs.replace(summary, forecast=estimate)

    def _fill(self) -> None:
        with contextlib.ExitStack() as stack:
            workers, was_whole = None, False
            while not was_whole and (sinks := self._sinks()):
                if workers is None:
                    self._work.tell("starting the engine")
                    annotators = [annotator for brief in self._briefs.values() for annotator in brief.annotators]
                    engine = engine_settings(
                        self._work.base.path,
                        [annotator.adapter for annotator in annotators],
                        MOST_LORAS,
                        compiled=self._compiled,
                        gpus=self._work.corpus.gpus_per_engine,
                    )
                    log = self._files.path / "log.txt"
                    opened = open_workers(engine, self._work.corpus.ray, log, annotators, self._work.tell)
                    workers = stack.enter_context(closing(opened))
                    self._write_card()  # while the engine starts
                    if self._settings.variety.attributes and not all(self._briefs[name].attributes for name in sinks):
                        self._work.tell("topics and styles of each class are listed; texts follow (variety.attributes)")
                driver, was_mended = Driver(sinks, keep_going=True), bool(self._damaged)
                try:
                    driver.run(workers)
                finally:
                    self._failed.update(driver.failed)
                    self._rates = self._progress.rates(workers.starts)
                self._refresh_shards()  # shards written an hour ago may have been changed since
                was_whole = not (was_mended or self._damaged)

    def _refresh_shards(self) -> None:
        """Find the shards on disk, and those that are damaged."""
        shards = self._files.resume(self._tell_aside)
        self._shards = {name: of_task for name, of_task in shards.items() if name not in self._failed}
        self._damaged = self._damage.find_damage(self._shards, self._briefs.keys())

    def _tell_aside(self, files: Sequence[str]) -> None:
        shown = ", ".join(files[:3])
        self._work.tell(f"{len(files)} files that are not in the journal were moved to damaged/: {shown}", notice=True)

    def _sinks(self) -> Mapping[str, Sink]:
        """Return the sinks of the next pass: damaged shards if there are any, else all tasks that lack texts.

        What is missing after a repair is generated with all other texts.
        """
        files, shards, progress = self._files, self._shards, self._progress
        base, corpus = self._work.base, self._work.corpus
        if self._damaged:
            return {
                name: RepairSink(files, self._briefs[name], shards[name], of_task, base, progress)
                for name, of_task in self._damaged.items()
            }
        return {
            name: ShardSink(files, brief, shards.get(name, ()), base, corpus, progress, self._write_card)
            for name, brief in self._briefs.items()
            if name not in self._failed and not replayed(brief, shards.get(name, ())).is_done
        }

    def _write_card(self, *, is_last: bool = False) -> tuple[CorpusSummary, dict[str, ClassCounts]]:
        """Write the data card of the current state, and return the summary and the counts by task.

        A card must always exist, because `datasets` finds nothing without one. ``is_last``: it includes the diversity.
        """
        files, journal, of_task = self._files, self._files.journal(), dict[str, list[ShardRecord]]()
        for shard in journal:
            of_task.setdefault(shard.task, []).append(shard)
        counts = {
            name: counted(files.task(name), self._settings.generate, of_task.get(name, ())) for name in files.tasks()
        }
        classes = [outcome for name, count in counts.items() for outcome in class_outcomes(name, count)]
        for name, error in self._failed.items():
            message = " ".join(str(error).split())
            classes.append(ClassOutcome(task=name, state="failed", error=type(error).__name__, message=message))
        summary = CorpusSummary(
            folder=str(files.path),
            rows=sum(shard.rows for shard in journal),
            shards=sum(bool(shard.file) for shard in journal),
            classes=tuple(classes),
            mended=dict(self._damage.faults),
            rates=self._rates,
        )
        unread = self._failed.keys() - self._whole  # their shards are only known from the journal
        readable = [shard for shard in journal if shard.task not in unread]
        shown = tuple(row for row in classes if row.state != "failed" or row.task not in self._whole)
        of_card = msgspec.structs.replace(summary, classes=shown)
        if copy_name := write_card(files, of_card, readable if is_last else (), self._of_card):
            self._work.tell(
                "README.md was changed after it was written: it is written again, and the changed one is kept as "
                f"{copy_name}",
                notice=True,
            )
        return summary, counts


def forecast_of_corpus(
    work: CorpusWork,
    briefs: Mapping[str, TaskBrief],
    shards: Mapping[str, Sequence[ShardRecord]],
    *,
    anew: bool = False,
) -> Forecast | None:
    """Forecast the remaining work of a corpus, and report it. See `forecast.make_forecast`."""
    return make_forecast(
        work.base,
        lambda speed: remaining_work(briefs, shards, work.base, speed, compiled_from=COMPILE_FROM_ROWS),
        work.on_event,
        anew=anew,
    )
