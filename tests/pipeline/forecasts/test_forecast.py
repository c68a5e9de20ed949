"""Forecasts: what a speed and some work come to, and how near that is to what then is asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.engine.core import Adapter, EngineSettings, PerPromptAdapter, Sampling
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.distillation.annotating import AnnotationSummary, annotate_table, forecast_of_annotation
from fourshot.pipeline.distillation.annotators import Annotate, NamedAnnotator
from fourshot.pipeline.distillation.teacher import Teacher
from fourshot.pipeline.events import Event
from fourshot.pipeline.forecasts import forecast as forecasts
from fourshot.pipeline.forecasts.forecast import FORECAST_FILE, Forecast, StageWork, forecast
from fourshot.pipeline.loop.plan import rounds_for
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.runs.compare import ComparisonRequest, do_comparison
from fourshot.pipeline.runs.stages import generate
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.filters import FilterSettings
from fourshot.pipeline.synthesis.settings import AnnotateSettings, GenerateSettings, RunSettings
from fourshot.training.lora.settings import LoraSettings
from tests.pipeline.corpus.small_corpora import SHOTS, TASK, make, named, settings
from tests.pipeline.distillation.test_annotating import annotator, table
from tests.pipeline.forecasts.machine_speeds import SPEED, forecasts_on
from tests.pipeline.loop.filling import InProcessWorker
from tests.pipeline.runs.whole_runs import WholeRuns

NEAR = 0.3  # of what was forecast


@pytest.fixture(autouse=True)
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forecasts_on(monkeypatch, tmp_path / "home")


def test_seconds_are_loading_and_tokens_and_stages_share_their_process() -> None:
    estimate = forecast(
        [
            StageWork(stage="draw", calls=4, prompt_tokens=100, output_tokens=20),
            StageWork(stage="draw", calls=1, shots_tokens=10, adapter_tokens=10),
            StageWork(stage="train", opens="trainer", trainings=2, steps=3, train_tokens=30),
            StageWork(stage="make", output_tokens=20, compiled=True),
        ],
        SPEED,
    )
    seconds = [10 + 1 + 2 + 0.2 + 0.3, 5 + 4 + 15, 10 + forecasts.COMPILE_S + 1]
    assert [stage.seconds for stage in estimate.stages] == pytest.approx(seconds)
    assert [(stage.calls, stage.tokens, stage.steps) for stage in estimate.stages] == [
        (5, 140, 0),
        (0, 30, 3),
        (0, 20, 0),
    ]
    assert estimate.seconds == pytest.approx(sum(seconds)) and estimate.memory_bytes == 3_000
    assert str(estimate).startswith(
        "about 2 min, 5 calls, 190 tokens, 0.0 GB of memory (draw 14 s, train 24 s, make 71 s)"
    )


def test_trainings_side_by_side_take_less_time_and_the_memory_of_each() -> None:
    def seconds_of(trainings: int) -> tuple[float, float]:
        work = [StageWork(stage="train", opens="trainer", trainings=trainings, steps=3, train_tokens=30)]
        alone, pairs = forecast(work, SPEED), forecast(work, SPEED, lambda trainings: min(2, trainings))
        assert pairs.memory_bytes == 2 * alone.memory_bytes > 0
        return alone.seconds - 5, pairs.seconds - 5

    alone, pairs = seconds_of(4)
    assert pairs == pytest.approx(alone / forecasts.SIDE_BY_SIDE, abs=0.1)
    alone, pairs = seconds_of(5)
    assert pairs == pytest.approx(alone / forecasts.SIDE_BY_SIDE * 6 / 5, abs=0.1), "the fifth has nobody beside it"


@pytest.mark.parametrize(("classes", "least", "most"), [(2, 0.5, 0.5), (4, 0.5, 0.5), (18, 0.2, 0.33), (77, 0.1, 0.2)])
def test_more_classes_keep_less_of_their_draws_unless_it_is_known(classes: int, least: float, most: float) -> None:
    assert least <= SPEED.accepted(classes) <= most
    assert msgspec.structs.replace(SPEED, acceptance=0.85).accepted(classes) == 0.85


def test_what_stages_took_stands_beside_it_and_the_whole_is_judged_once_all_are_known() -> None:
    estimate = forecast(
        [StageWork(stage="draw", output_tokens=100), StageWork(stage="read", prompt_tokens=1000)], SPEED
    )
    partial = estimate.with_actual_times({"draw": 30.0, "another": 9.0})
    assert [stage.took_s for stage in partial.stages] == [30.0, None] and not partial.verdict
    assert estimate.with_actual_times({"draw": 30.0, "read": 30.0}).verdict == "forecast 40 s, took 60 s (50% more)"
    assert estimate.with_actual_times({"draw": 10.0, "read": 20.0}).verdict == "forecast 40 s, took 30 s (25% less)"
    assert msgspec.structs.replace(estimate, seconds=0.0, took_s=6.0).verdict == "forecast 0 s, took 6 s"


@pytest.mark.parametrize(
    ("missing", "rate", "first", "equal_rounds", "rounds"),
    [
        (80, 0.8, 64, True, [64, 64]),
        (80, 0.8, 64, False, [64, 36]),
        (50, 0.8, 64, True, [64]),
        (0, 0.5, 64, True, []),
        (50, 0.0, 64, True, [64] * 79),
        (10, 0.2, 40, False, [40, 10]),
    ],
)
def test_rounds_until_a_class_has_enough(
    missing: float, rate: float, first: int, equal_rounds: bool, rounds: list[int]
) -> None:
    assert rounds_for(missing, rate, first, 64, equal_rounds=equal_rounds) == rounds


SMALL = RunSettings(
    k=2,
    generate=GenerateSettings(per_class=20, draws_per_round=32),
    annotate=AnnotateSettings(pool_per_class=24),
    filter=FilterSettings(max_length_factor=9.0),  # the fake engine's texts are longer than the shots
    train=LoraSettings(min_steps=4),
    allow_short=True,
)
OTHERS: dict[str, RunSettings] = {
    "committee": SMALL,
    "in context": msgspec.structs.replace(SMALL, annotate=AnnotateSettings(annotator="icl")),
    "nobody": msgspec.structs.replace(SMALL, annotate=AnnotateSettings(annotator="none")),
    "soft": msgspec.structs.replace(
        SMALL, annotate=AnnotateSettings(targets="soft", folds=0, num_adapters=2, in_context=2)
    ),
    "self-training": msgspec.structs.replace(
        SMALL, annotate=msgspec.structs.replace(SMALL.annotate, self_training=True)
    ),
}


class Counting(FakeEngine):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(EngineSettings(model="fake"))
        self.calls = 0

    def sample(self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None) -> Any:
        self.calls += len(prompts) * sampling.n
        return super().sample(prompts, sampling, adapter)

    def score(self, prompts: Sequence[str], *rest: Any) -> Any:
        self.calls += len(prompts)
        return super().score(prompts, *rest)


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_run_asks_is_near_what_was_forecast(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, run_settings, engine = WholeRuns(tmp_path / "task", monkeypatch), OTHERS[name], Counting()
    monkeypatch.setattr(generate, "open_workers", lambda *_: InProcessWorker(engine))
    monkeypatch.setattr("fourshot.engine.opening.open_engine", lambda _: engine)
    speed = msgspec.structs.replace(SPEED, well_formed=1.0, acceptance=0.85)  # as the fake engine is
    monkeypatch.setattr(forecasts, "known_speed", lambda *_, **__: speed)
    estimate = runs.run(tmp_path / "run", run_settings, forecast=True).forecast
    steps = [call[-1] for call in runs.heard if len(call) == 6]  # of each training
    assert estimate and estimate.calls == pytest.approx(engine.calls, rel=NEAR)
    assert sum(stage.steps for stage in estimate.stages) == pytest.approx(sum(steps), rel=NEAR)
    assert estimate.verdict and all(stage.took_s is not None for stage in estimate.stages)
    assert RunFolder(tmp_path / "run").read(FORECAST_FILE, Forecast) == estimate
    messages = [event.message for event in runs.events]
    assert messages.index(str(estimate)) < min(i for i, event in enumerate(runs.events) if event.total), (
        "it comes first"
    )
    assert runs.run(tmp_path / "run", run_settings, forecast=True).forecast is None, "nothing was left to do"


def test_a_committee_that_answers_is_forecast_by_each_of_its_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, engine = WholeRuns(tmp_path / "task", monkeypatch), Counting()
    monkeypatch.setattr("fourshot.pipeline.runs.compare.refuse_fake", lambda *_: None)
    monkeypatch.setattr("fourshot.engine.opening.open_engine", lambda _: engine)
    monkeypatch.setattr(forecasts, "known_speed", lambda *_, **__: SPEED)
    folder, averaging = tmp_path / "out", AnnotateSettings(average="first")
    settings = msgspec.structs.replace(SMALL, annotate=averaging)
    do_comparison(ComparisonRequest(runs.task, "fake", settings, ["committee"], [0], folder), forecast=True)
    estimate = RunFolder(folder).read(FORECAST_FILE, Forecast)
    # By four adapters: two texts, the same to warm up, and shots, of which each is asked about the half it left out.
    assert (estimate.calls, engine.calls) == (4 * (2 + 2 + 4), 4 * (2 + 2 + 2))
    assert [stage.stage for stage in estimate.stages] == ["train the annotators", "evaluate"]
    assert sum(stage.steps for stage in estimate.stages) == sum(call[-1] for call in runs.heard if len(call) == 6)


def test_a_corpus_is_forecast_by_its_draws_and_when_it_goes_on_by_what_is_missing(tmp_path: Path) -> None:
    run_settings, events = settings(per_class=60), list[Event]()
    model = "fake:delay_s=0.0001"
    summary = make(tmp_path / "c", named("one", "two"), run_settings, model, events.append, forecast=True)
    drawn = sum(outcome.drawn for outcome in summary.classes)
    (stage,) = summary.forecast.stages if summary.forecast else ()
    assert stage.calls / 2 == pytest.approx(drawn, rel=0.15), "every draw is read"
    assert stage.seconds == pytest.approx(drawn * 0.0001, abs=0.1) and stage.took_s
    again = make(tmp_path / "c", named("one", "two", "three"), run_settings, model, events.append, forecast=True)
    assert again.forecast and again.forecast.calls == pytest.approx(stage.calls / 2, rel=0.1)
    assert [event.message[:5] for event in events if event.stage == "forecast"] == ["about", "about"]


def test_an_annotation_is_forecast_by_its_annotators_and_the_texts_that_are_left(tmp_path: Path) -> None:
    texts_table, events = open_texts(table(tmp_path)), list[Event]()
    annotators = tuple(Annotator(adapter=Adapter(name=name, path=f"/{name}"), wording="bare") for name in "abc")
    teacher = Teacher(
        name="committee of 3",
        task=TASK,
        model_path="fake",
        settings=RunSettings(annotate=AnnotateSettings(in_context=1, folds=0)),
        shots=SHOTS,
        annotators=(*annotators, Annotator(adapter=None)),
    )
    somebody = NamedAnnotator(name=teacher.name, task=TASK, open=lambda *_: annotator(), teacher=teacher)

    def annotate(out: str, by: Annotate) -> AnnotationSummary:
        return annotate_table(
            texts_table,
            tmp_path / out,
            ("warm", "cold"),
            somebody.name,
            by,
            forecast=lambda texts: forecast_of_annotation(somebody, texts_table, texts, events.append),
        )

    summary = annotate("out.csv", annotator())
    assert summary.forecast and summary.forecast.calls == 4 * 4, "four texts, four annotators"
    assert [stage.took_s is not None for stage in summary.forecast.stages] == [True]
    assert events[0].message.startswith("about 0 s, 16 calls")
    assert (
        forecast_of_annotation(somebody._replace(teacher=None), texts_table, 4, events.append) is None
        and len(events) == 1
    )
