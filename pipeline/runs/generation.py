"""The texts of run folders: each is a task of `pipeline.synthesis.driver`, on one engine or many for all of them."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.run_folder import RunFolder
from fourshot.pipeline.synthesis.annotate import Reader
from fourshot.pipeline.synthesis.driver import Driver
from fourshot.pipeline.synthesis.rounds import RoundSink
from fourshot.pipeline.synthesis.workers import engine_settings, open_workers
from fourshot.pipeline.tasks.tables import load_split
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.jobs.jobs import HERE, FailedJob, Placement


class GenerateItem(msgspec.Struct, frozen=True, kw_only=True):
    """One run folder to fill: its pool, or its verdicts."""

    folder: str
    readers: tuple[Reader, ...] = ()
    draw_pool: bool = False  # only draw the candidates that annotators will be trained on

    @property
    def done_file(self) -> Path:
        """It is there once the folder is filled."""
        return Path(self.folder) / ("pool/drawn.json" if self.draw_pool else "generated.json")


def pool_of(folder: str | Path) -> WorkFolder:
    """Where a run keeps the candidates that its annotators are trained on."""
    return WorkFolder(Path(folder) / "pool")


def fill_folders(
    model_path: str,
    items: Sequence[GenerateItem],
    log: Path,
    on_event: OnEvent,
    placement: Placement = HERE,
    *,
    keep_going: bool = False,
) -> tuple[FailedJob, ...]:
    """Fill what is not filled yet, on one engine here or on those of the cluster of ``placement``.

    ``keep_going``: a folder that cannot be filled does not stop the others, and is returned instead of raised.
    """
    unfilled = [item for item in items if not item.done_file.exists()]
    if not unfilled:
        return ()
    spread = bool(placement.ray)
    sinks = {item.folder: _sink(item, on_event, spread) for item in unfilled}
    # A folder alone in the engine gives the same bytes, whatever is filled before and after it.
    driver = Driver(sinks, one_at_a_time=not spread, keep_going=keep_going)
    on_event(Event(stage="generate", message="starting the engine"))
    # One adapter answers at a time here; and a run samples for less time than compiling takes.
    engine = engine_settings(model_path, [reader for item in unfilled for reader in item.readers], most_loras=1)
    with closing(open_workers(engine, placement.ray, log)) as workers:
        driver.run(workers)
    return tuple(
        FailedJob(key=key, kind=type(error).__name__, message=str(error)) for key, error in driver.failed.items()
    )


def _sink(item: GenerateItem, on_event: OnEvent, spread: bool) -> RoundSink:
    folder, pool = RunFolder(item.folder), pool_of(item.folder)
    manifest = folder.manifest()
    task, settings = manifest.task, manifest.settings
    if item.draw_pool:
        pool.path.mkdir(exist_ok=True)
    return RoundSink(
        pool if item.draw_pool else folder,
        task,
        folder.shots(),
        settings,
        readers=item.readers,
        pool=pool if settings.annotate.has_pool and not item.draw_pool else None,
        is_pool=item.draw_pool,
        test_texts=lambda: [example.text for example in load_split(task, "test").examples],
        on_event=on_event,
        spread=spread,
        done_file=item.done_file.name,
    )
