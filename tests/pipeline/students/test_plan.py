"""What students will take, beside what they then do."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.engine.errors import FourshotError
from fourshot.pipeline.events import Event
from fourshot.pipeline.forecasts import speed as speeds
from fourshot.pipeline.forecasts.forecast import SWITCH, Forecast, StageForecast
from fourshot.pipeline.runs.stages.student import StudentItem, StudentStage
from fourshot.pipeline.students import plan
from fourshot.pipeline.students import speed as encoder_speeds
from fourshot.pipeline.students.plan import forecast_at_speed, forecast_of_students, training_work, with_students
from fourshot.pipeline.students.speed import EncoderProbe, EncoderSpeed, known_encoder_speed, measure, padded_tokens
from fourshot.pipeline.task import Example, Label, Task
from fourshot.training.students.encoders import ResolvedEncoder
from fourshot.training.students.examples import StudentJob, TaughtExample
from fourshot.training.students.settings import StudentSettings
from fourshot.training.students.train import train_student
from tests.pipeline.forecasts.machine_speeds import ENCODER_SPEED, forecasts_on
from tests.training.students.tiny_encoders import make_encoder

TASK = Task(name="two", instruction="Sort.", noun="text", labels=(Label(name="warm"), Label(name="cold")))
TEST = tuple(Example(text=text, label=label) for text, label in (("sun and tea", "warm"), ("ice", "cold")))
FOUR_CHARACTERS = "abcd"  # a token, of an encoder without a tokenizer


def job(texts: int, encoder: str = "/none", **changes: Any) -> StudentJob:
    """Of so many texts of three tokens, and one that a person labelled."""
    examples = [TaughtExample(text=FOUR_CHARACTERS, probabilities=(1.0, 0.0))] * texts
    examples.append(TaughtExample(text=FOUR_CHARACTERS, probabilities=(0.0, 1.0), is_real=True))
    settings = StudentSettings(max_tokens=32, **changes)
    return StudentJob(
        name="two",
        title="two",
        encoder=encoder,
        encoder_revision="1",
        labels=TASK.label_names,
        examples=tuple(examples),
        settings=settings,
    )


def stage_of(folder: Path, *jobs: StudentJob, test: tuple[Example, ...] = (), onnx: bool = False) -> StudentStage:
    items = [
        StudentItem(job=one_job, task=TASK, test=test, out=str(folder / one_job.key), onnx=onnx) for one_job in jobs
    ]
    return StudentStage(model_path="", items=tuple(items), store=str(folder))


def test_a_text_costs_the_tokens_of_the_longest_in_its_batch() -> None:
    assert padded_tokens([1, 3], 1) == 2.0
    assert padded_tokens([3, 1], 2) == 2.5, "of four pairs three have the longer one"
    assert padded_tokens([1, 3], 40) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("changes", "passes", "fits", "held_out"),
    [
        ({"strategy": "plain"}, 14, 1, 10),  # 40 steps take 14 passes of three steps, more than 6 epochs
        ({"strategy": "geometric"}, 14, 15, 10),
        ({"few_texts": 50}, 14, 1, 10),
        ({"held_out": 0.0, "min_steps": 1}, 6, 2, 0),
        ({"strategy": "head"}, 0, 1, 10),
    ],
)
def test_a_training_is_its_steps_at_most_and_what_it_reads_between_them(
    changes: dict[str, Any], passes: int, fits: int, held_out: int
) -> None:
    work = training_work(job(100, **changes), ENCODER_SPEED)
    learnt = 101 - held_out
    steps, read = passes * -(-learnt // 32), 3 * (fits * learnt + (3 + passes) * held_out)
    assert work.steps == steps and work.tokens == pytest.approx(3 * passes * learnt + read)
    assert work.seconds == pytest.approx(1.0 + 0.1 * steps + 0.01 * 3 * passes * learnt + 0.001 * read)


def test_the_steps_are_those_that_a_training_plans(tmp_path: Path) -> None:
    encoder = str(make_encoder("distilbert", tmp_path / "encoder"))
    brief, planned = job(20, encoder, batch_size=8, min_steps=7, num_epochs=2.0), set[int]()
    train_student(brief, tmp_path / "store", lambda step, steps, loss: planned.add(steps))
    assert planned == {training_work(brief, ENCODER_SPEED).steps}


def test_what_is_measured_and_exported_counts_and_what_is_finished_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student_job, alone = job(20), job(0, held_out=0.0)
    trained = forecast_at_speed(stage_of(tmp_path, student_job, alone), ENCODER_SPEED)
    parts = [training_work(one_job, ENCODER_SPEED) for one_job in (student_job, alone)]
    assert trained.seconds == pytest.approx(4.0 + sum(part.seconds for part in parts), abs=0.1)
    assert trained.memory_bytes == 5_000 and trained.doubt == plan.AT_MOST
    assert trained.stages[0].steps == sum(part.steps for part in parts) and trained.calls == 0
    measured = forecast_at_speed(stage_of(tmp_path, student_job, alone, test=TEST * 40), ENCODER_SPEED)
    # 80 texts in a batch and 50 alone; of "sun and tea" three tokens, of "ice" one, and two more of each.
    each = 80 * 4 * 0.001 + 50 * 0.02
    assert measured.calls == 160 and measured.seconds == pytest.approx(trained.seconds + 2 * each, abs=0.15)
    exported = forecast_at_speed(stage_of(tmp_path, student_job, onnx=True), ENCODER_SPEED)
    assert exported.seconds > forecast_at_speed(stage_of(tmp_path, student_job), ENCODER_SPEED).seconds + 8
    encoder = str(make_encoder("distilbert", tmp_path / "encoder"))
    first, second = (job(texts, encoder, strategy="head") for texts in (4, 5))
    train_student(first, tmp_path)
    left = forecast_at_speed(stage_of(tmp_path, first, second), ENCODER_SPEED)
    assert left == forecast_at_speed(stage_of(tmp_path, second), ENCODER_SPEED)
    assert (
        forecast_of_students(stage_of(tmp_path, first), ResolvedEncoder(path="", name="", revision="1"), print) is None
    )


def test_the_teacher_and_the_students_are_one_forecast_and_requests_are_counted_alone() -> None:
    def forecast_of(stage: str, **changes: Any) -> Forecast:
        stages = (StageForecast(stage=stage, calls=5, tokens=70, steps=0, seconds=0.0),)
        fields: dict[str, Any] = {"seconds": 0.0, "calls": 5, "tokens": 70, "memory_bytes": 9_000, "stages": stages}
        return Forecast(**{**fields, **changes})

    students = forecast_at_speed(stage_of(Path("/none"), job(0, held_out=0.0), test=TEST), ENCODER_SPEED)
    both = with_students(forecast_of("annotate", seconds=10.0, doubt="busy"), students)
    assert both.seconds == pytest.approx(10 + students.seconds)
    assert (both.calls, both.tokens, both.memory_bytes) == (5 + 2, 70 + students.tokens, 9_000)
    assert str(both).endswith(f"train the students {students.seconds:.0f} s); busy; less if a student stops early")
    assert both.with_actual_times({"annotate": 1.0, plan.STUDENTS: 2.0}).took_s == 3.0
    remote = with_students(forecast_of("annotate", asks="large", cost=0.5), students)
    assert str(remote) == (
        f"5 requests to large (annotate 5), about 70 tokens, cost about 0.5; then about {students.seconds:.0f} s here; "
        "less if a student stops early"
    )
    assert with_students(both, None) == both
    loads = [f"measured while other work kept {load} of 2 cores busy" for load in ("1.8", "1.7")]
    busy = msgspec.structs.replace(students, doubt=f"less if a student stops early; {loads[1]}")
    twice = with_students(forecast_of("annotate", doubt=f"about half; {loads[0]}"), busy)
    assert twice.doubt == f"about half; {loads[0]}; less if a student stops early", "and not of the same load again"


def test_an_encoder_is_measured_once_and_what_cannot_be_measured_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forecasts_on(monkeypatch, tmp_path / "home")
    encoder, measured = ResolvedEncoder(path="/none", name="none", revision="r1"), list[str]()

    def measuring(of: ResolvedEncoder, max_tokens: int) -> EncoderSpeed:
        measured.append(of.revision)
        return ENCODER_SPEED

    monkeypatch.setattr(encoder_speeds, "_measured", measuring)
    events, stage = list[Event](), stage_of(tmp_path, job(5))
    estimates = [forecast_of_students(stage, encoder, events.append, anew=anew) for anew in (False, False, True)]
    assert estimates == 3 * [forecast_at_speed(stage, ENCODER_SPEED)] and measured == ["r1", "r1"]
    assert [event.message for event in events] == 2 * [plan.MEASURING]
    busy = msgspec.structs.replace(ENCODER_SPEED, load=1.8, cores=2)
    monkeypatch.setattr(encoder_speeds, "_measured", lambda *_: busy)
    monkeypatch.setattr(speeds, "busy_cores", lambda: 1.9)
    assert known_encoder_speed(encoder, 32, anew=True) == known_encoder_speed(encoder, 32) == busy
    assert "1.8 of 2 cores busy" in forecast_at_speed(stage, busy).doubt

    def fail(*_: object) -> EncoderSpeed:
        raise FourshotError("no memory")

    monkeypatch.setattr(encoder_speeds, "_measured", fail)
    monkeypatch.setattr(speeds, "busy_cores", lambda: 0.0)
    assert forecast_of_students(stage, encoder, events.append) is None
    assert events[-1].message == "none for the students, because this machine could not be measured: no memory"
    with pytest.raises(FourshotError, match="no memory"):
        forecast_of_students(stage, encoder, events.append, anew=True)
    monkeypatch.setenv(SWITCH, "0")
    assert forecast_of_students(stage, encoder, events.append) is None and len(events) == 5


def test_a_real_encoder_is_measured_in_all_its_parts(tmp_path: Path) -> None:
    encoder, opened = make_encoder("distilbert", tmp_path / "encoder"), list[int]()
    probe = EncoderProbe(encoder=str(encoder), max_tokens=32, folder=str(tmp_path))
    fields = measure(probe, lambda: opened.append(1))
    assert opened == [1] and all(value >= 0 for value in fields.values())
    assert min(fields[name] for name in ("learn_token_s", "read_token_s", "alone_s")) > 0
    process = {"open_s": 1.0, "process_bytes": 1}
    assert msgspec.convert({**fields, **process}, EncoderSpeed).doubt == ""
