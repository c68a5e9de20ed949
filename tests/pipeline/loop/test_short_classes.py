"""Of a run that goes on with fewer texts than were asked for, it is told which classes have fewer."""

from pathlib import Path

import msgspec

from fourshot.pipeline.events import Event
from fourshot.pipeline.loop.counts import ClassCount, DrawRecord, short_run_error
from fourshot.pipeline.loop.rounds import RoundSink
from fourshot.pipeline.loop.unlabelled import UnlabelledSink
from fourshot.pipeline.synthesis.settings import GenerateSettings, RunSettings
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.work_folder import WorkFolder

TASK = load_task("support_tickets")
SHOTS = take_shots(TASK, k=4, seed=0)


def test_classes_that_end_short_are_named_once_more_at_the_end(tmp_path: Path) -> None:
    """That a class stalled was told hours ago, if it was not the last."""
    short = TASK.label_names[0]
    run_settings = msgspec.structs.replace(RunSettings(generate=GenerateSettings(per_class=4)), allow_short=True)
    for is_pool, times in ((False, 1), (True, 0)):
        events: list[Event] = []
        (folder := tmp_path / str(is_pool)).mkdir()
        sink = RoundSink(WorkFolder(folder), TASK, SHOTS, run_settings, on_event=events.append, is_pool=is_pool)
        ledger = sink.open()
        ledger.counts.add(
            DrawRecord(number=0, label=label, draws=4, passed=kept, kept=kept, rejected={})
            for label in TASK.label_names
            for kept in (3 if label == short else 4,)
        )
        sink.finish(ledger)
        told = [event.message for event in events if event.notice]
        said = f"{TASK.name}, short of texts: {short} with 3 of 4 texts. The run continues with these (--allow-short)."
        assert told == [said] * times


def test_a_class_that_stalled_is_named_with_the_reasons_for_which_most_texts_were_rejected() -> None:
    rejected = {"near_duplicate": 8, "malformed": 120, "too_long": 1, "label_disagrees": 3}
    message = str(short_run_error([("code", ClassCount(drawn=132, rejected=rejected))], 50, "out"))
    assert "none was kept so far; rejected: 120 malformed, 8 near duplicate, 3 label disagrees\n" in message
    assert "--set filter.min_letters=" in message


def test_nothing_is_short_of_texts_that_are_read_and_not_drawn(tmp_path: Path) -> None:
    events: list[Event] = []
    settings = RunSettings(generate=GenerateSettings(per_class=4))
    sink = UnlabelledSink(WorkFolder(tmp_path), TASK, SHOTS, settings, [], on_event=events.append)
    ledger = sink.open()
    assert ledger.counts.missing
    sink.finish(ledger)
    assert events and not any(event.notice for event in events)
