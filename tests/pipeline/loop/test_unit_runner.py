"""A worker's side: a unit asks the same whenever it is done, and a text that cannot be read takes no other with it."""

import math
import queue
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from fourshot.engine.chat import turns_of
from fourshot.engine.core import Adapter, Completion, Engine, EngineSettings
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.loop.plan import class_slice, in_place_unit, round_slices, split_slice
from fourshot.pipeline.loop.unit_runner import Inbox, UnitRunner, run_units
from fourshot.pipeline.loop.units import AnnotationUnit, DrawUnit, TaskBrief, Unit, UnitProgress, UnitResult
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.settings import AnnotateSettings
from tests.pipeline.chat import CHAT
from tests.pipeline.corpus.small_corpora import TASK, brief, settings

BUG = in_place_unit(TASK.name, 2, class_slice(settings(), TASK.name, "bug", 32, 8))
LOGIN = in_place_unit(TASK.name, 3, class_slice(settings(), TASK.name, "login", 0, 8))


def fake_engine(model: str = "fake") -> FakeEngine:
    return FakeEngine(EngineSettings(model=model))


def done(engine: Engine, *units: Unit, task_brief: TaskBrief | None = None) -> list[UnitResult]:
    """The units' results in the order they came, without the engine's counters."""
    inbox: Inbox = queue.SimpleQueue()
    for item in (task_brief or brief(), *units, None):
        inbox.put(item)
    results: list[UnitResult | UnitProgress] = []
    run_units(engine, inbox, results.append)
    return [result for result in results if isinstance(result, UnitResult)]


def test_a_unit_gives_the_same_alone_and_among_others() -> None:
    (alone,) = done(fake_engine(), BUG)
    login, among = done(fake_engine(), LOGIN, BUG)
    assert among.draws == alone.draws and login.unit == LOGIN
    assert not {draw.candidate.text for draw in login.draws} & {draw.candidate.text for draw in alone.draws}


def test_draws_are_numbered_and_show_the_shots_of_their_class_in_changing_order() -> None:
    (result,) = done(fake_engine(), BUG)
    assert [draw.candidate.id for draw in result.draws] == [f"bug-{number:08d}" for number in range(32, 40)]
    assert len({draw.candidate.shots for draw in result.draws}) > 1
    assert len({draw.seed for draw in result.draws}) == 8


def test_a_task_s_chat_turns_stand_around_every_prompt() -> None:
    asked_prompts = list[str]()

    class Overheard(FakeEngine):
        def sample(self, prompts: Sequence[str], *more: Any) -> Generator[Completion, None, None]:
            asked_prompts.extend(prompts)
            return super().sample(prompts, *more)

        def score(self, prompts: Sequence[str], *more: Any) -> np.ndarray:
            asked_prompts.extend(prompts)
            return super().score(prompts, *more)

    done(Overheard(EngineSettings(model="fake")), BUG, task_brief=msgspec.structs.replace(brief(), chat=CHAT))
    assert len(asked_prompts) > 8
    assert all(prompt.startswith(CHAT.begin) for prompt in asked_prompts)
    assert {prompt.rpartition(CHAT.open)[2] for prompt in asked_prompts} == {"Text:", "Label:"}


def test_other_draws_of_the_same_class_are_others() -> None:
    later = in_place_unit(TASK.name, 2, class_slice(settings(), TASK.name, "bug", 40, 8))
    first, second = done(fake_engine(), BUG, later)
    assert not {draw.candidate.text for draw in first.draws} & {draw.candidate.text for draw in second.draws}


def test_a_text_that_cannot_be_read_is_told_and_the_others_are_read() -> None:
    (readable,) = done(fake_engine(), BUG)
    word = readable.draws[3].candidate.text.split()[0]
    (result,) = done(fake_engine(f"fake:unreadable={word}"), BUG)
    (fault,) = result.faults
    assert (fault.task, fault.label, fault.draw, fault.step) == (TASK.name, "bug", 35, "score")
    assert "too many tokens" in fault.message
    assert result.draws == (*readable.draws[:3], *readable.draws[4:])


def test_a_real_engine_draws_several_units_at_once_and_reads_them(narrow_engine: Engine) -> None:
    run_settings = msgspec.structs.replace(
        settings(max_tokens=48), annotate=AnnotateSettings(annotator="icl", calibration="contextual")
    )
    first = msgspec.structs.replace(LOGIN, number=0)
    results = done(narrow_engine, first, BUG, task_brief=brief(TASK, run_settings))
    assert [result.unit for result in results] == [first, BUG]
    for result in results:
        assert len(result.draws) == 8 and not result.faults
        read = [draw for draw in result.draws if draw.reason is None]
        assert read and all(len(draw.scores) == 5 and max(draw.scores) < 0 for draw in read)
        assert all(draw.scores == () for draw in result.draws if draw.reason)
        assert all(0 < draw.candidate.num_tokens <= 48 for draw in result.draws)
    assert results[1].stats.requests >= results[0].stats.requests
    assert Counter(draw.candidate.label for draw in results[0].draws) == {"login": 8}


def test_a_real_engine_has_the_requests_of_a_unit_before_its_texts_are_asked_for(narrow_engine: Engine) -> None:
    runner = UnitRunner(narrow_engine)
    runner.introduce(brief(TASK, settings(max_tokens=8)))
    before = narrow_engine.stats().requests
    runner.begin(BUG)
    runner.begin(LOGIN)
    first = runner.finish()
    finished = narrow_engine.stats().requests - before
    read = sum(draw.reason is None for draw in first.draws)
    assert finished > 8 + read, "texts of the second unit were drawn while the first was drawn and read"
    assert runner.finish().unit == LOGIN and not runner.is_busy


@pytest.mark.parametrize("keep", [1, 2])
def test_of_two_tries_one_is_taken(keep: int) -> None:
    (result,) = done(fake_engine(), BUG, task_brief=brief(TASK, settings(keep_likelier_of=keep)))
    assert len(result.draws) == 8 and result.stats.output_tokens == 12 * 8 * keep + 8


def test_adapters_read_what_the_base_has_drawn(narrow_engine: Engine, narrow_adapters: tuple[Adapter, Adapter]) -> None:
    run_settings = msgspec.structs.replace(settings(max_tokens=48), annotate=AnnotateSettings())
    annotators = tuple(Annotator(adapter=adapter) for adapter in narrow_adapters)
    task_brief = msgspec.structs.replace(brief(TASK, run_settings), annotators=annotators)
    first, _ = done(narrow_engine, LOGIN, BUG, task_brief=task_brief)
    read = [draw for draw in first.draws if draw.reason is None]
    assert read and all(sum(map(math.exp, draw.scores)) == pytest.approx(1, abs=1e-3) for draw in read)


def test_a_round_in_parts_is_the_same_round() -> None:
    """The parts of a class, wherever they are drawn: the same prompts, seeds and ids."""
    run_settings = settings(draws_per_round=12)
    unit = DrawUnit(brief=TASK.name, number=0, batch=1, slices=round_slices(run_settings, 1, {"bug": 12, "login": 12}))
    slices = [part for slice_of_class in unit.slices for part in split_slice(slice_of_class, 5)]
    parts = [msgspec.structs.replace(unit, slices=(part,), number=number) for number, part in enumerate(slices)]
    (alone,) = done(fake_engine(), unit, task_brief=brief(TASK, run_settings))
    drawn = [
        draw
        for result in done(fake_engine(), *reversed(parts), task_brief=brief(TASK, run_settings))
        for draw in result.draws
    ]
    assert sorted(drawn, key=lambda draw: draw.candidate.id) == list(alone.draws)
    assert [draw.candidate.id for draw in alone.draws] == [f"r01-{number:06d}" for number in range(24)]


def test_texts_are_read_with_the_scores_that_they_have_where_they_are_drawn() -> None:
    (drawn,) = done(fake_engine(), BUG)
    texts = tuple(draw.candidate.text for draw in drawn.draws if draw.reason is None)
    (read,) = done(fake_engine(), AnnotationUnit(brief=TASK.name, number=0, texts=texts))
    assert read.scores == tuple(draw.scores for draw in drawn.draws if draw.reason is None)


def test_a_unit_says_how_far_it_is_where_that_is_asked() -> None:
    heard: list[UnitProgress] = []
    runner = UnitRunner(fake_engine(), heard.append)
    runner.introduce(brief())
    runner.begin(msgspec.structs.replace(BUG, reports=4))
    runner.finish()
    assert [progress.done for progress in heard] == [2, 4, 6, 8] and {progress.unit for progress in heard} == {BUG.key}
    heard.clear()
    runner.begin(BUG)
    runner.finish()
    assert not heard


def test_an_annotator_that_cannot_be_had_fails_its_unit_and_no_other() -> None:
    run_settings = msgspec.structs.replace(settings(), annotate=AnnotateSettings())
    read = AnnotationUnit(brief=TASK.name, number=0, texts=("one",))
    failed, drawn = done(
        fake_engine(), read, msgspec.structs.replace(BUG, annotates=False), task_brief=brief(TASK, run_settings)
    )
    assert failed.failure and "none was given" in failed.failure.message and failed.failure.kind == "InputError"
    assert len(drawn.draws) == 8


def test_texts_drawn_in_chat_are_lines_without_a_trace_of_turns(vllm_engine: Engine, model: str) -> None:
    run_settings = settings(max_tokens=64)
    in_chat = msgspec.structs.replace(brief(run_settings=run_settings), chat=turns_of(model, "embedded"))
    plain_settings = msgspec.structs.replace(in_chat.settings, annotate=AnnotateSettings(annotator="none"))
    unit = in_place_unit(TASK.name, 2, class_slice(run_settings, TASK.name, "bug", 0, 6))
    (result,) = done(vllm_engine, unit, task_brief=msgspec.structs.replace(in_chat, settings=plain_settings))
    texts = [draw.candidate.text for draw in result.draws]
    assert len(texts) == 6 and sum(map(bool, texts)) > 3
    assert not any("<|" in text or "\n" in text for text in texts)
    assert any(draw.candidate.finish_reason == "stop" for draw in result.draws)
