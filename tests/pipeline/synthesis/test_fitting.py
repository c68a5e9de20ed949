"""Shots that a prompt has room for."""

from collections import Counter

import pytest

from fourshot.engine.core import EngineSettings
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.synthesis.fitting import NoRoomError, check_room, shots_that_fit
from fourshot.pipeline.synthesis.prompt_style import ANSWER_TOKENS
from fourshot.pipeline.synthesis.prompts import PromptFormat, reading_prompt
from fourshot.pipeline.tasks.types import Example, Label, Task

TASK = Task(
    name="many",
    instruction="Sort the texts.",
    noun="text",
    labels=tuple(Label(name=f"class {number}") for number in range(6)),
)
SHOTS = tuple(
    Example(text=f"text {turn} of {label}", label=label) for turn in range(4) for label in reversed(TASK.label_names)
)
PLAIN = PromptFormat()
TEXTS = ["short", "a text that is longer than the other one"]


def shown(max_model_len: int) -> tuple[Example, ...]:
    engine = FakeEngine(EngineSettings(model="fake", kind="fake", max_model_len=max_model_len))
    kept = shots_that_fit(engine, TASK, SHOTS, PLAIN, TEXTS)
    prompts = [reading_prompt(TASK, text, PLAIN, kept) for text in TEXTS]
    assert max(engine.count_tokens(prompts)) + ANSWER_TOKENS <= max_model_len
    return kept


def test_all_shots_are_shown_where_they_fit() -> None:
    assert shown(2048) == SHOTS


def test_as_many_as_fit_are_shown_the_same_number_of_every_class_but_for_one() -> None:
    for room in (120, 180, 240):
        kept = shown(room)
        counts = Counter(shot.label for shot in kept)
        assert max(counts.values()) - min(counts[name] for name in TASK.label_names) <= 1
        assert list(kept) == [shot for shot in SHOTS if shot in kept], "their order is the one that was drawn"
        assert 0 < len(kept) < len(SHOTS)
    assert len(shown(120)) < len(shown(180)) < len(shown(240))
    assert shown(54) == ()


def test_no_shots_stay_none() -> None:
    engine = FakeEngine(EngineSettings(model="fake", kind="fake", max_model_len=40))
    assert shots_that_fit(engine, TASK, (), PLAIN, TEXTS) == ()


def test_without_a_shot_of_each_class_a_prompt_is_no_baseline() -> None:
    engine = FakeEngine(EngineSettings(model="fake", kind="fake", max_model_len=120))
    one_each = SHOTS[: len(TASK.labels)]
    check_room(engine, SHOTS, one_each)
    check_room(engine, (), ())
    with pytest.raises(NoRoomError, match=r"120 tokens has no room for one shot of each of 6 classes.*; 5 fit"):
        check_room(engine, SHOTS, one_each[1:])
