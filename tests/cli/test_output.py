"""What a run shows while it works: bars on a terminal, lines in a log, JSON for machines."""

import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from fourshot.cli.console import Terminal
from fourshot.cli.predict import doubts_of
from fourshot.cli.progress import ProgressBars, ProgressLines
from fourshot.pipeline.events import Event, span
from fourshot.pipeline.forecasts.forecast import Forecast, StageForecast
from fourshot.printable import one_line


def steps(done: float, total: float = 40, stage: str = "train") -> Event:
    return Event(stage=stage, message="adapter 1", done=done, total=total, unit="steps", figures={"loss": 0.25})


def test_a_log_gets_the_first_and_the_last_of_many_events() -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream)
    lines(Event(stage="shots", message="20 drawn"))
    for done in range(1, 41):
        lines(steps(done))
    first, begin, end = stream.getvalue().splitlines()
    assert first == "shots: 20 drawn"
    assert begin == "train: adapter 1  1/40 steps  loss 0.25"
    assert end.startswith("train: adapter 1  40/40 steps  ") and "left" not in end


def test_millions_are_counted_to_the_last_one() -> None:
    stream = io.StringIO()
    ProgressLines(stream)(Event(stage="corpus", message="trec", done=1_234_567, total=5_000_000, unit="rows"))
    assert "1234567/5000000 rows" in stream.getvalue()


def test_a_log_shows_every_step_of_the_work() -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream)
    for stage in ("train", "evaluate", "train"):
        lines(steps(1, 2, stage))
        lines(steps(2, 2, stage))
    assert [line.split(":")[0] for line in stream.getvalue().splitlines()] == (
        ["train"] * 2 + ["evaluate"] * 2 + ["train"] * 2
    )


def test_trainings_at_the_same_time_have_lines_of_their_own_at_their_own_pace() -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream)
    for step in range(1, 6):
        for number in (1, 2):
            lines(Event(stage="train", message=f"notes, {number} of 2", done=step, total=5, unit="steps"))
    steps = [line.split("  ")[:2] for line in stream.getvalue().splitlines()]
    assert steps == [[f"train: notes, {n} of 2", f"{step}/5 steps"] for step in (1, 5) for n in (1, 2)]


def test_bars_show_count_figures_and_one_bar_per_step() -> None:
    stream = io.StringIO()
    with ProgressBars(Console(file=stream, force_terminal=True, width=120)) as bars:
        bars(Event(stage="shots", message="[not markup]"))
        bars(steps(1))
        bars(steps(40))
        bars(steps(40))
        bars(steps(10, 20))
        for split in ("first", "second"):  # done with their only event
            bars(Event(stage="evaluate", message=split, done=8, total=8, unit="texts"))
    shown = stream.getvalue()
    assert "shots: [not markup]" in shown
    assert shown.count("40/40 steps in") == 1, "said twice, shown once"
    assert "evaluate  first  8/8" in shown and "evaluate  second  8/8" in shown
    assert "10/20 steps" in shown and "loss 0.25" in shown


def test_a_class_in_brackets_is_shown_in_a_bar_and_ends_nothing() -> None:
    stream = io.StringIO()
    with ProgressBars(Console(file=stream, force_terminal=True, width=120)) as bars:
        for label in ("[urgent]", "[/INST]"):
            bars(Event(stage="generate", done=1, total=9, unit="texts", detail=f"{label} is slowest"))
            bars._progress.refresh()
    assert "[urgent] is slowest" in stream.getvalue() and "[/INST] is slowest" in stream.getvalue()


def test_a_step_that_another_one_follows_leaves_no_bar_behind() -> None:
    bars = ProgressBars(Console(file=io.StringIO(), force_terminal=True, width=120))
    for number in range(4):
        for unit in ("draws", "texts"):
            bars(Event(stage="generate", message=f"round {number}", done=number + 1, total=64, unit=unit))
    assert len(bars._progress.tasks) == 1


def test_json_has_standard_output_for_itself(capfd: pytest.CaptureFixture[str]) -> None:
    with Terminal(json=True) as terminal:
        with terminal.progress() as on_event:
            on_event(steps(1))
        os.write(1, b"a library talks\n")
        print("and so does another")
        terminal.say("for people only")
        terminal.result("result", {"folder": "runs/x"})
    print("after")
    out, err = capfd.readouterr()
    first, second, after = out.splitlines()
    assert json.loads(first) | {"figures": {}} == {
        "type": "progress",
        "stage": "train",
        "message": "adapter 1",
        "detail": "",
        "done": 1,
        "total": 40,
        "unit": "steps",
        "figures": {},
        "notice": False,
    }
    assert json.loads(second) == {"type": "result", "folder": "runs/x"}
    assert after == "after"
    assert "a library talks" in err and "another" in err


NEARLY_FULL = """\
import resource
from fourshot.cli.console import Terminal
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
with Terminal(json=True) as terminal:
    terminal.result("result", {"text": "x" * 300})
"""


def test_a_line_of_json_that_has_no_room_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "out.json").open("wb") as out:
        run = subprocess.run([sys.executable, "-c", NEARLY_FULL], stdout=out, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1 and "File too large" in run.stderr


def test_library_noise_is_held_back_and_shown_when_something_breaks(capfd: pytest.CaptureFixture[str]) -> None:
    def work(noise: bytes, error: Exception | None = None) -> None:
        with Terminal() as terminal, terminal.hushed():
            os.write(2, noise)
            if error:
                raise error

    work(b"a warning of no use")
    assert capfd.readouterr().err == ""
    with pytest.raises(RuntimeError):
        work(b"what explains the crash", RuntimeError())
    assert "what explains the crash" in capfd.readouterr().err


def test_quiet_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with Terminal(quiet=True) as terminal, terminal.progress() as on_event:
        on_event(steps(1))
    assert capfd.readouterr() == ("", "")


def test_the_table_of_scores_leaves_out_what_nobody_measured(capfd: pytest.CaptureFixture[str]) -> None:
    with Terminal() as terminal:
        terminal.scores(
            [{"display_name": "In context", "accuracy": 0.5, "accuracy_deviation": None, "real_examples": 8}]
        )
    shown = capfd.readouterr().out
    assert "In context" in shown and "0.500" in shown and " 8" in shown
    assert "+-" not in shown


@pytest.mark.parametrize("columns", [*range(32, 100, 2), 200])
@pytest.mark.parametrize("name", ["tickets-257bdc82fb26", "support_tickets-257bdc82fb26"])
def test_no_cell_of_a_table_is_cut(
    name: str, columns: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    folder = "/work/somewhere/else/in/a/folder/of/adapters/" + name
    row = {"task": "tickets", "adapter": name, "answers": "yes", "accuracy": "100.0", "made": "2026-11-29 12:00"}
    with Terminal() as terminal:
        terminal.table([{**row, "folder": folder}], whole="adapter")
    shown = re.sub("\x1b.*?m", "", capfd.readouterr().out)
    assert "\u2026" not in shown and max(map(len, shown.splitlines())) <= columns
    signs = sorted(shown.replace("\u2500", ""))
    assert not Counter(folder + "".join(row.values())) - Counter(signs)
    if columns >= 80:
        assert name in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.4, "8 s"), (200, "3 min"), (4800, "80 min"), (5400, "1 h 30 min"), (7260, "2 h 1 min")]
)
def test_times_are_said_as_a_person_would(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc\r\nd", "a b c d"),
        ("\x1b[2J\x1b]0;title\x07gone\x9b1m", "\\x1b[2J\\x1b]0;title\\x07gone\\x9b1m"),
        ("👩\u200d🔧 نم\u200cک", "👩\u200d🔧 نم\u200cک"),
    ],
)
def test_a_text_is_shown_on_one_line_and_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_predict_points_out_what_may_be_a_file_or_a_table(tmp_path: Path) -> None:
    table = tmp_path / "new texts.csv"
    table.write_text("id,text\n1,late\n", encoding="utf-8")
    (doubt,) = doubts_of([str(table), "late", "a.b", "why?"], [])
    assert "its name was used as a text" in doubt and f"--unlabelled '{table}'" in doubt
    lines = table.read_text(encoding="utf-8").splitlines()
    (doubt,) = doubts_of([], lines)
    assert "'id,text', looks like the header of a table" in doubt and "annotate" in doubt
    (doubt,) = doubts_of([], ['{"text": "late"}', '{"text": "early"}'])
    assert "as in JSON Lines" in doubt
    assert not doubts_of([], ['{"question": "why?", "passage": "so"}'])
    assert not doubts_of([], ["the text, it is late", "text", ""]) and not doubts_of(lines, lines)


def test_nothing_of_others_steers_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    evil = "bill\x1b]0;title\x07ing"
    with Terminal(json=False, quiet=False) as terminal:
        terminal.say(evil)
        terminal.warn(evil)
        terminal.table([{"label": evil}])
    stream = io.StringIO()
    ProgressLines(stream)(Event(stage="generate", message=evil))
    console = io.StringIO()
    with ProgressBars(Console(file=console, force_terminal=False)) as bars:
        bars(Event(stage="generate", message=evil))
        bars(Event(stage="generate", message=evil, done=1, total=1, unit="texts"))
    out = capfd.readouterr()
    for text in (out.out, out.err, stream.getvalue(), console.getvalue()):
        assert "\x1b]" not in text and "\x07" not in text and r"bill\x1b]0;title\x07ing" in text


def test_a_note_of_a_distillation_ends_in_one_full_stop(capsys: pytest.CaptureFixture[str]) -> None:
    from fourshot.cli.students import _tell_student
    from fourshot.pipeline.distillation.distilled import DistillSummary

    made = {"annotated_examples": 1, "synthetic_examples": 0, "strategy": "head", "parameters": 1, "megabytes": 1.0}
    summary = DistillSummary(
        folder="d",
        student_path="s",
        table=[],
        train_s=1.0,
        held_out=0,
        held_out_agreement=None,
        **made,  # type: ignore[arg-type]
        notes=["texts.csv: 1 row left out.", "1 text repeated"],
    )
    _tell_student(summary, Terminal())
    assert capsys.readouterr().out.startswith("texts.csv: 1 row left out.\n1 text repeated.\n")


def test_a_plan_shows_whole_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    stage = StageForecast(stage="train", calls=0, tokens=9, steps=4, seconds=157.9)
    Terminal().forecast(Forecast(seconds=157.9, calls=0, tokens=9, memory_bytes=0, stages=(stage,)))
    table = capsys.readouterr().out
    assert "158" in table and "157" not in table
