"""Plain text or chat turns: what is asked for, or what the base reads the shots better in."""

from collections.abc import Sequence

import numpy as np
import pytest

from fourshot.engine.core import EngineSettings, Verbalizer
from fourshot.engine.errors import InputError
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.synthesis.prompt_style import MOST_READ, StyleTrial, in_turn, tried_style, untried_style
from fourshot.pipeline.task import Example, Label, Task
from tests.pipeline.chat import CHAT

TASK = Task(
    name="moods",
    instruction="Which mood?",
    noun="line",
    labels=(Label(name="happy"), Label(name="sad")),
)
SHOTS = tuple(
    Example(text=f"{word} {number}", label=label)
    for label, word in (("happy", "hurrah"), ("sad", "alas"))
    for number in range(4)
)


class Scripted(FakeEngine):
    """Answers rightly with ``sure`` nats over the other label: in chat and in plain text."""

    def __init__(self, in_chat: float, plain: float) -> None:
        super().__init__(EngineSettings(model="fake", kind="fake", max_model_len=200))
        self.sure = {True: in_chat, False: plain}
        self.prompts: list[str] = []

    def score(
        self, prompts: Sequence[str], labels: Sequence[str], adapter: object = None, verbalizer: Verbalizer = "word"
    ) -> np.ndarray:
        self.prompts += prompts
        scores = np.zeros((len(prompts), len(labels)), dtype=np.float32)
        for row, prompt in zip(scores, prompts, strict=True):
            text = prompt.rpartition("Text: ")[2]
            row[0 if text.startswith("hurrah") else 1] = self.sure[CHAT.begin in prompt]
        return scores


def trial(shots: Sequence[Example] = SHOTS) -> StyleTrial:
    return StyleTrial(task=TASK, shots=tuple(shots), chat=CHAT, max_text_words=300)


def test_the_style_that_reads_the_shots_better_is_chosen_and_plain_text_wins_ties() -> None:
    assert tried_style(Scripted(in_chat=2.0, plain=1.0), trial()).chat == CHAT
    assert tried_style(Scripted(in_chat=1.0, plain=2.0), trial()).chat is None
    assert tried_style(Scripted(in_chat=1.0, plain=1.0), trial()).chat is None
    assert tried_style(Scripted(in_chat=-1.0, plain=1.0), trial()).chat is None


def test_the_choice_says_why() -> None:
    chosen = tried_style(Scripted(in_chat=2.0, plain=-1.0), trial())
    assert str(chosen) == (
        "prompt style chat: of 8 shots, each read in context of the others, 0 % are read rightly as plain text and "
        "100 % in chat (log-probability -1.31 and -0.13)"
    )
    assert chosen.plain_score is not None
    assert (chosen.plain_score.accuracy, chosen.plain_score.shots) == (0.0, 8)


def test_no_shot_is_read_in_context_of_itself() -> None:
    engine = Scripted(in_chat=1.0, plain=1.0)
    tried_style(engine, trial())
    assert len(engine.prompts) == 2 * len(SHOTS)
    assert all(prompt.count(shot.text) <= 1 for prompt in engine.prompts for shot in SHOTS)
    assert all(sum(prompt.count(shot.text) for shot in SHOTS) == len(SHOTS) for prompt in engine.prompts)


def test_many_shots_are_read_in_part_and_of_every_class() -> None:
    many = [Example(text=f"{label} {n}", label=label) for label in ("happy", "sad") for n in range(100)]
    first = in_turn(TASK, many)[:6]
    assert [shot.label for shot in first] == ["happy", "sad"] * 3
    engine = Scripted(in_chat=1.0, plain=1.0)
    assert engine.settings.max_model_len < max(engine.count_tokens([" ".join(shot.text for shot in many)] * 2))
    chosen = tried_style(engine, trial(many))
    assert chosen.plain_score is not None
    assert chosen.chat_score is not None
    assert 2 <= chosen.plain_score.shots < MOST_READ  # no more than fit into the model, in either style
    assert chosen.chat_score.shots == chosen.plain_score.shots


def test_what_is_asked_for_needs_no_trial(model: str) -> None:
    plain = untried_style("plain", "/nowhere", "base")
    assert plain is not None
    assert plain.chat is None
    chat = untried_style("chat", model, "base")
    assert chat is not None
    assert chat.chat is not None
    assert untried_style("auto", model, "base") is None


def test_a_base_without_a_template_is_asked_in_plain_text_unless_chat_is_wanted() -> None:
    with pytest.raises(InputError, match="has no tokenizer"):
        untried_style("chat", "fake", "fake")
    auto = untried_style("auto", "fake", "fake")
    assert auto is not None
    assert auto.chat is None
    assert "no tokenizer" in auto.reason
