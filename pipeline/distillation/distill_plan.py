"""What the teacher of a distillation will take. The student's own training, seconds to minutes, is not in it."""

from pathlib import Path

from fourshot.pipeline.distillation.annotating import annotated_file, foretell_annotation
from fourshot.pipeline.distillation.readers import NamedReader
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.forecast import Forecast, foretell
from fourshot.pipeline.rows.text_table import TextTable
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.plan import teaching_work


def foretell_distillation(
    reader: NamedReader | Experiment,
    table: TextTable | None,
    folder: Path,
    tested: int,
    on_event: OnEvent,
    *,
    writes: int,
    anew: bool = False,
) -> Forecast | None:
    """Forecast and tell; None for a teacher that reads without an engine. See `forecast.foretell`.

    ``reader``: who is to read, or the experiment whose annotators are trained first. It ``writes`` texts, so many of
    each class.
    ``tested``: test texts that are left to be read.
    """
    texts = sum(1 for _ in table.texts()) if table and not annotated_file(table.path, folder).exists() else 0
    if isinstance(reader, Experiment):
        experiment = reader
        return foretell(
            experiment.model,
            lambda speed: teaching_work(experiment, texts + tested, speed, writes=writes > 0),
            on_event,
            anew=anew,
        )
    return foretell_annotation(reader, table, texts, on_event, tested=tested, writes=writes, anew=anew)
