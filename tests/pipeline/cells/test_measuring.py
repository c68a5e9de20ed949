"""Measuring: what the engine said becomes scores, and calibration never sees a label."""

import numpy as np
import pytest

from fourshot.engine.chat import turns_of
from fourshot.engine.core import Engine
from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.measuring import SplitLogprobs, answer, measure
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.task import Example, Label, Task

PLAIN = PromptFormat()
TASK = Task(
    name="mood",
    instruction="Say whether the text is good or bad.",
    noun="text",
    labels=(Label(name="good"), Label(name="bad")),
)
TEST = [Example(text=text, label=label) for text, label in (("fine", "good"), ("fun", "good"), ("sad", "bad"))]


def answers(*probabilities: tuple[float, float]) -> SplitLogprobs:
    logprobs = np.log(probabilities).astype(np.float32)
    return SplitLogprobs(logprobs=logprobs, seconds=2.0, prompt_tokens=30, cached_tokens=10)


def test_scores_and_the_answers_behind_them() -> None:
    evaluation = measure(answers((0.8, 0.2), (0.3, 0.6), (0.1, 0.3)), TASK, TEST)
    assert (evaluation.predicted, evaluation.gold) == ((0, 1, 1), (0, 0, 1))
    assert evaluation.confidence == pytest.approx((0.8, 0.66667, 0.75), abs=1e-5)
    assert evaluation.scores.accuracy == pytest.approx(2 / 3)
    assert (evaluation.scores.n, evaluation.scores.seconds, evaluation.scores.prompt_tokens) == (3, 2.0, 30)


def test_batch_calibration_takes_away_what_all_answers_share_and_looks_at_no_label() -> None:
    biased = answers((0.6, 0.4), (0.8, 0.2), (0.9, 0.1))
    assert measure(biased, TASK, TEST).predicted == (0, 0, 0)
    calibrated = measure(biased, TASK, TEST, "batch")
    assert calibrated.predicted == (1, 0, 0) or calibrated.predicted == (1, 1, 0)
    swapped = [Example(text=example.text, label="bad" if example.label == "good" else "good") for example in TEST]
    assert measure(biased, TASK, swapped, "batch").predicted == calibrated.predicted


def test_a_temperature_changes_how_sure_answers_are_and_no_answer() -> None:
    raw = answers((0.9, 0.1), (0.2, 0.8), (0.3, 0.7))
    before, after = measure(raw, TASK, TEST), measure(raw, TASK, TEST, temperature=2.0)
    assert after.predicted == before.predicted and after.scores.accuracy == before.scores.accuracy
    assert after.confidence[0] == pytest.approx(0.75)  # odds of 9 become 3
    assert (before.scores.ece_before, after.scores.ece_before) == (None, before.scores.ece)
    assert after.scores.ece != before.scores.ece
    assert after.scores.surest_80 == before.scores.surest_80


def test_an_empty_test_split_is_bad_input(vllm_engine: Engine) -> None:
    with pytest.raises(InputError, match="test split is empty"):
        answer(vllm_engine, TASK, [], form=PLAIN)


def test_shots_lengthen_the_prompt_and_are_counted(vllm_engine: Engine) -> None:
    alone = answer(vllm_engine, TASK, TEST, form=PLAIN)
    shown = answer(vllm_engine, TASK, TEST, form=PLAIN, shots=TEST[:2])
    assert alone.logprobs.shape == shown.logprobs.shape == (3, 2)
    assert shown.prompt_tokens > alone.prompt_tokens > 3 * 10
    assert alone.seconds > 0


def test_what_was_trained_without_the_instruction_is_measured_without_it(vllm_engine: Engine) -> None:
    bare = PromptFormat(wording="bare")
    bare_answers = answer(vllm_engine, TASK, TEST, form=bare)
    prompts = [f"Text: {example.text}\nLabel:" for example in TEST]
    assert np.allclose(bare_answers.logprobs, vllm_engine.score(prompts, TASK.label_words), atol=0.05)
    shown, plain = (answer(vllm_engine, TASK, TEST, form=form, shots=TEST[:2]) for form in (bare, PLAIN))
    assert shown.prompt_tokens == plain.prompt_tokens > bare_answers.prompt_tokens


def test_with_filler_all_that_is_before_a_text_is_computed_once(vllm_engine: Engine) -> None:
    many = [Example(text=f"it was warm on day {day} of the month", label=TEST[0].label) for day in range(12)]
    form = aligned(PLAIN, TASK, vllm_engine.settings)
    assert form.filler
    alone = answer(vllm_engine, TASK, many, form=form)
    assert alone.cached_tokens == (len(many) - 1) * form.filler.prefix_tokens
    without, shown = (answer(vllm_engine, TASK, many, form=PLAIN, shots=TEST, align=align) for align in (False, True))
    computed, computed_aligned = (answers.prompt_tokens - answers.cached_tokens for answers in (without, shown))
    assert computed_aligned < computed and shown.prompt_tokens > without.prompt_tokens


def test_in_chat_what_prompts_share_is_computed_once(vllm_engine: Engine, model: str) -> None:
    many = [Example(text=f"it was warm on day {day} of the month", label=TEST[0].label) for day in range(12)]
    in_chat = PromptFormat(chat=turns_of(model, "embedded"))
    answered = answer(vllm_engine, TASK, many, form=in_chat, shots=TEST)
    plain = answer(vllm_engine, TASK, many, form=PLAIN, shots=TEST)
    assert answered.prompt_tokens > plain.prompt_tokens
    # The template's own system prompt is shorter than a block of the cache: what is found there has shots in it.
    assert answered.cached_tokens >= (len(many) - 1) * 32
    assert np.exp(answered.logprobs).sum(axis=1).min() > 0.01, "the labels are what is said after the open answer"
