"""What a distillation will take, its students included, and how right that was."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import RunFolderError
from fourshot.pipeline.cells.run_folder import GENERATED_FILE
from fourshot.pipeline.distillation.annotating import texts_left
from fourshot.pipeline.distillation.annotators import FIRST_PART
from fourshot.pipeline.distillation.distill import distill, plan_distillation
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.distillation.taught import missing_texts
from fourshot.pipeline.events import Event
from fourshot.pipeline.forecasts.forecast import FORECAST_FILE, SWITCH, Forecast
from fourshot.pipeline.loop.counts import short_run_error
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.students import plan
from fourshot.training.students.examples import TaughtExample
from tests.pipeline.distillation.test_distill import HEAD, NOTES, Teacher, asked, folder, make

__all__ = ("folder",)  # fixtures


def test_the_students_are_forecast_and_the_report_says_how_right_that_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    notes, events = open_texts(folder / "notes.jsonl"), list[Event]()

    def request() -> LabelDistillation:
        by = Teacher().named(folder)
        return asked(folder, unlabelled=notes, by=by, student_settings=HEAD, on_event=events.append)

    planned = plan_distillation(request())
    assert planned and [stage.stage for stage in planned.stages] == [plan.STUDENTS]
    assert planned.doubt == "without the teacher, whose time is unknown", "with a head alone there are no steps"
    assert events[-1].message == str(planned) and not (folder / "out").exists()
    estimate = distill(request(), forecast=True).forecast
    assert (
        estimate and estimate.took_s and estimate.verdict and estimate.with_actual_times({}).seconds == planned.seconds
    )
    assert (folder / "out" / FORECAST_FILE).exists()
    assert plan_distillation(request()) is None and distill(request(), forecast=True).forecast is None
    report = (folder / "out" / "report.md").read_text()
    assert plan.STUDENTS in report and f"In all: {estimate.verdict}" in report, "of the call that had something to do"
    table = folder / "out" / "annotated.jsonl"
    table.write_text(table.read_text().replace('"annotated_label":"cold"', '"annotated_label":"warm"'))
    again = plan_distillation(request())
    assert again and 0 < again.seconds < planned.seconds and not again.doubt, "the one on the shots is finished"


def test_a_plan_counts_what_is_left_and_fewer_texts_than_were_wanted_are_told(folder: Path) -> None:
    forecasts: list[dict[str, int]] = []

    def forecast(sample: Sequence[str], counts: Mapping[str, int]) -> Forecast:
        forecasts.append(dict(counts))
        return Forecast(seconds=0.0, calls=1, tokens=1, memory_bytes=0, stages=())

    notes = open_texts(folder / "notes.jsonl")
    by = Teacher().named(folder)._replace(forecast=forecast)
    for _ in range(2):
        plan_distillation(asked(folder, unlabelled=notes, by=by))
        make(folder, Teacher())
    assert forecasts == [{"generate": 0, "annotate": len(NOTES) + 3, "evaluate": 2}]
    writing = by._replace(draw=lambda *_: None)
    with pytest.raises(RunFolderError, match="another configuration"):
        plan_distillation(asked(folder, generate=3, by=writing))
    for _ in range(2):
        request = asked(folder, "other", generate=3, by=writing, student_settings=HEAD)
        plan_distillation(request)
        distill(request)
        (folder / "other" / "teacher" / GENERATED_FILE).write_text("{}")
    assert [counts["generate"] for counts in forecasts[1:]] == [3]
    assert "(--per-class; --generate of distill)" in str(short_run_error([], 3, "out"))  # it has no --per-class
    assert missing_texts([TaughtExample(text="snow", probabilities=(0.0, 1.0))], 4) == [
        "the teacher wrote 1 usable texts of 4"
    ]


def test_texts_that_a_stopped_call_has_had_read_are_not_foretold_again(folder: Path) -> None:
    """A remote teacher's price was that of the whole table."""
    annotated: list[int] = []

    def forecast(sample: Sequence[str], counts: Mapping[str, int]) -> Forecast:
        annotated.append(counts["annotate"])
        return Forecast(seconds=0.0, calls=1, tokens=1, memory_bytes=0, stages=())

    def stop(event: Event) -> None:
        if event.stage == "annotate" and event.done:
            raise KeyboardInterrupt

    notes, by = open_texts(folder / "notes.jsonl"), Teacher().named(folder)._replace(forecast=forecast)
    request = asked(folder, unlabelled=notes, by=by, student_settings=HEAD)
    with pytest.raises(KeyboardInterrupt):
        distill(msgspec.structs.replace(request, on_event=stop))
    plan_distillation(request)
    distill(request, forecast=True)
    assert annotated == 2 * [len(NOTES) + 3 - FIRST_PART]
    assert texts_left(notes, folder / "out" / "annotated.jsonl") == 0
