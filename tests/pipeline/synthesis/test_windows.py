"""Long texts are read in parts: all of a text is in some part, and the parts are answered as one."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest

from fourshot.engine.calibration import combine_parts, normalise
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import InputError
from fourshot.engine.fake_engine import FakeEngine
from fourshot.engine.tokens import check_lengths
from fourshot.pipeline.rows.text_words import OVERLAP, count_words, text_windows
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.synthesis.windows import classification_prompts, combined, label_scores, parts_of, score_texts
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task

TASK = load_task("sst2")
FORM = PromptFormat(max_text_words=8, long_texts="windows")
CUT = msgspec.structs.replace(FORM, long_texts="cut")


@pytest.mark.parametrize("number", [1, 8, 9, 14, 15, 40])
def test_windows_overlap_and_leave_nothing_out(number: int) -> None:
    words = [str(place) for place in range(number)]
    windows = [window.split() for window in text_windows("\n ".join(words), 8)]
    assert [len(window) for window in windows] == [min(number, 8)] * len(windows)
    assert list(dict.fromkeys(word for window in windows for word in window)) == words
    for before, after in pairwise(windows):
        assert len({*before} & {*after}) >= OVERLAP * 8


def test_windows_of_a_script_without_blanks_take_no_character_apart() -> None:
    text = "あさがおの花が庭でたくさん咲いている"
    windows = text_windows(text, 4)
    assert all(count_words(window) == 4 and window in text for window in windows)
    assert text.startswith(windows[0]) and text.endswith(windows[-1])


def test_a_prompt_is_asked_for_each_part_as_if_it_were_a_text() -> None:
    long = " ".join(map(str, range(20)))
    prompts = classification_prompts(TASK, long, FORM)
    assert prompts == [classification_prompt(TASK, part, CUT) for part in text_windows(long, 8)] and len(prompts) == 3
    assert prompts[0] == classification_prompt(TASK, long, FORM), "what is learnt is the first part"
    for form in (CUT, msgspec.structs.replace(FORM, long_texts="middle")):
        assert classification_prompts(TASK, long, form) == [classification_prompt(TASK, long, form)]
    assert classification_prompts(TASK, "a short one", FORM) == [classification_prompt(TASK, "a short one", FORM)]


def test_each_part_of_an_input_has_all_its_fields() -> None:
    task = load_task("rte")
    long = " ".join(map(str, range(20)))
    parts = parts_of(task, f"Premise: {long}\nHypothesis: It is wet.", FORM)
    assert [part.splitlines()[1] for part in parts] == ["Hypothesis: It is wet."] * len(parts)
    premises = [part.splitlines()[0].removeprefix("Premise: ") for part in parts]
    assert premises == text_windows(long, 5)
    assert parts_of(task, "Premise: It rains.\nHypothesis: It is wet.", FORM) == [
        "Premise: It rains.\nHypothesis: It is wet."
    ]


def test_a_text_of_several_parts_is_answered_as_one_and_another_as_before() -> None:
    long = " ".join(map(str, range(20)))
    scored: list[str] = []

    def score(prompts: list[str]) -> np.ndarray:
        scored.extend(prompts)
        return np.array([[-1.0, -3.0], [-4.0, -2.0], [-2.0, -2.0], [-5.0, -1.0]][: len(prompts)], dtype=np.float32)

    scores = score_texts(score, TASK, [long, "short"], FORM)
    assert scored == [*classification_prompts(TASK, long, FORM), classification_prompt(TASK, "short", FORM)]
    assert scores.dtype == np.float32 and scores[1].tolist() == [-5.0, -1.0]
    parts = np.array([[-1.0, -3.0], [-4.0, -2.0], [-2.0, -2.0]])
    assert np.exp(scores[0]) == pytest.approx(combine_parts(normalise(parts), [3])[0], rel=1e-5)
    raw = np.array([[-1.0, -3.0]], dtype=np.float32)
    assert combined(raw, [1]) is raw, "other texts are answered as before"


class NarrowEngine(FakeEngine):
    """Refuses longer prompts than others do, before it computes any, and keeps those that it answered."""

    def __init__(self, most: int) -> None:
        super().__init__(EngineSettings(model="fake", max_model_len=most))
        self.answered: list[str] = []

    def score(self, prompts: Sequence[str], *about: Any, **more: Any) -> np.ndarray:
        check_lengths([[0] * count for count in self.count_tokens(prompts)], 0, self.settings.max_model_len)
        self.answered += prompts
        return super().score(prompts, *about, **more)


def test_a_text_that_leaves_no_room_for_all_shots_is_shown_fewer_and_the_others_are_not() -> None:
    """A user's text may be longer than any that is drawn, for which the shots were chosen."""
    shots = [Example(text=f"The plot of film {n} was {w}.", label=w) for n in range(8) for w in TASK.label_names]
    texts = ["A short one.", "A long one, with very many words. " * 40, "Another."]
    engine = NarrowEngine(500)
    scores = label_scores(engine, TASK, texts, PromptFormat(), shots)
    first, long, last = engine.answered
    assert scores.shape == (3, 2)
    assert (first, last) == tuple(classification_prompt(TASK, text, PromptFormat(), shots) for text in texts[::2])
    assert 1 < long.count("Label:") - 1 < len(shots) and long.count(texts[1].strip()) == 1
    label_scores(engine, TASK, texts[1:2], PromptFormat(), shots)
    assert engine.answered[3] == long, "it does not depend on the texts beside it"
    with pytest.raises(InputError, match="too long"):
        label_scores(NarrowEngine(100), TASK, texts, PromptFormat(), shots)
