"""Shots that a prompt has room for."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer

from fourshot.engine.alignment import BLOCK_TOKENS
from fourshot.engine.core import Adapter, EngineSettings, PerPromptAdapter, Verbalizer
from fourshot.engine.errors import InputError
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.annotate import InContextAnnotator
from fourshot.pipeline.synthesis.committee import Annotator, Committee
from fourshot.pipeline.synthesis.drawing import PromptSource
from fourshot.pipeline.synthesis.fitting import (
    NoRoomError,
    check_room,
    prompt_fits,
    scores_behind_shots,
    shots_that_fit,
)
from fourshot.pipeline.synthesis.prompt_style import ANSWER_TOKENS
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt, generation_prompt
from fourshot.pipeline.synthesis.settings import GenerateSettings, RunSettings
from fourshot.pipeline.task import Example, Label, Task
from fourshot.pipeline.token_counter import TokenCounter
from tests.engine.test_alignment import base

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
FAKE = EngineSettings(model="fake", kind="fake")
TEXTS = ["short", "a text that is longer than the other one"]


def shown(max_model_len: int) -> tuple[Example, ...]:
    engine = FakeEngine(EngineSettings(model="fake", kind="fake", max_model_len=max_model_len))
    kept = shots_that_fit(engine, TASK, SHOTS, PLAIN, TEXTS)
    prompts = [classification_prompt(TASK, text, PLAIN, kept) for text in TEXTS]
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


def test_prompts_that_draw_texts_show_as_many_shots_as_fit_and_one_at_least() -> None:
    engine = FakeEngine(EngineSettings(model="fake", kind="fake", max_model_len=70))
    settings = RunSettings(generate=GenerateSettings(max_tokens=16)).for_soft
    label = TASK.labels[0]
    roomy = PromptSource(TASK, label, SHOTS, settings)
    short = PromptSource(TASK, label, SHOTS, settings, fits=lambda prompt: prompt_fits(engine, prompt, 16))
    never = PromptSource(TASK, label, SHOTS, settings, fits=lambda prompt: False)
    sizes = set()
    for number in range(20):
        full, cut, least = (source.draw(random.Random(number)) for source in (roomy, short, never))
        assert cut.shots == full.shots[: len(cut.shots)] and cut.mixed == full.mixed
        assert engine.count_tokens([cut.prompt])[0] + 16 <= 70 < engine.count_tokens([full.prompt])[0] + 16
        assert least.shots == full.shots[:1]
        sizes.add(len(cut.shots))
    assert sizes and max(sizes) > 1


def test_prompts_of_many_shots_are_counted_a_few_times_each() -> None:
    """One shot after another was left out, and the rest counted again: a prompt of 1,000 shots took 80 seconds."""
    label, counted = TASK.labels[0], list[str]()
    shots = [Example(text=f"text {'word ' * (number % 40)}{number}", label=label.name) for number in range(400)]

    def fits(prompt: str) -> bool:
        counted.append(prompt)
        return len(prompt) < 5000

    settings = RunSettings()
    roomy, short = PromptSource(TASK, label, shots, settings), PromptSource(TASK, label, shots, settings, fits=fits)
    for number in range(40):
        full, cut = (source.draw(random.Random(number)) for source in (roomy, short))
        length = len(cut.shots)
        longer = generation_prompt(
            TASK, label, [shots[index] for index in full.shots[: length + 1]], max_text_words=settings.max_text_words
        )
        assert cut.shots == full.shots[:length] and len(cut.prompt) < 5000 <= len(longer)
    assert len(counted) < 40 * 9, "fewer than the bisection of all shots takes"


def test_the_longest_text_is_that_as_it_is_shown() -> None:
    """A long text that is cut may be shorter than another."""
    form = PromptFormat(max_text_words=5)
    cut, uncut = "a b c d e " * 40, "considerably longer words everywhere here"
    engine = FakeEngine(EngineSettings(model="fake", kind="fake", max_model_len=120))
    kept = shots_that_fit(engine, TASK, SHOTS, form, [cut, uncut])
    assert engine.count_tokens([classification_prompt(TASK, uncut, form, kept)])[0] + ANSWER_TOKENS <= 120


def test_filler_leaves_room_for_a_text_of_more_tokens_than_is_usual(tmp_path: Path) -> None:
    """Shots were shown as long as they fitted before it: filler would make the prompt too long."""
    model = base(tmp_path)
    form, text = PromptFormat(max_text_words=10), " ".join(["http://here.example/ab?c=123456789"] * 10)
    prompts = [classification_prompt(TASK, text, form, shown) for shown in (SHOTS[:number] for number in range(6, 20))]
    fillers = 0
    for prompt, number in zip(prompts, range(6, 20), strict=True):
        settings = EngineSettings(model=model, max_model_len=TokenCounter(model)(prompt) + ANSWER_TOKENS)
        assert aligned(form, TASK, settings, SHOTS[:number], text).filler is None
        wide = msgspec.structs.replace(settings, max_model_len=settings.max_model_len + 2 * BLOCK_TOKENS)
        fillers += aligned(form, TASK, wide, SHOTS[:number], text).filler is not None
    assert fillers


def test_tokens_are_counted_beyond_what_a_tokenizer_s_file_cuts_at(tmp_path: Path) -> None:
    model, text = base(tmp_path), "a text that is longer than forty tokens " * 9
    assert (whole := TokenCounter(model)(text)) > 40
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(40)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert TokenCounter(model)(text) == whole


class Strict(FakeEngine):
    """Refuses prompts that are too long, as engines do, and remembers the others."""

    def score(
        self,
        prompts: Sequence[str],
        labels: Sequence[str],
        adapter: PerPromptAdapter = None,
        verbalizer: Verbalizer = "word",
    ) -> np.ndarray:
        self.prompts = [*getattr(self, "prompts", []), *prompts]
        if max(self.count_tokens(prompts)) > self.settings.max_model_len:
            raise InputError("a prompt is too long")
        return super().score(prompts, labels, adapter, verbalizer)


def test_before_a_text_without_room_for_all_shots_as_many_are_shown_as_fit() -> None:
    engine = Strict(msgspec.structs.replace(FAKE, max_model_len=240))
    shots = shots_that_fit(engine, TASK, SHOTS, PLAIN, TEXTS)
    texts = [f"text 1 of {TASK.label_names[2]}", f"{'word ' * 60}of {TASK.label_names[4]}", "short"]
    scores = scores_behind_shots(engine, TASK, texts, PLAIN, shots, Adapter(name="a", path="/a"))
    alone = [engine.score([classification_prompt(TASK, text, PLAIN)], TASK.label_words)[0] for text in texts]
    assert scores.tolist() == np.stack(alone).tolist(), "each text has its own scores"
    asked = {text: next(prompt for prompt in engine.prompts if text in prompt) for text in texts}
    assert asked[texts[0]] == classification_prompt(TASK, texts[0], PLAIN, shots)
    fewer = shots_that_fit(engine, TASK, shots, PLAIN, texts[1:2])
    assert 0 < len(fewer) < len(shots)
    assert asked[texts[1]] == classification_prompt(TASK, texts[1], PLAIN, fewer)
    with pytest.raises(InputError, match="too long"):
        scores_behind_shots(engine, TASK, ["word " * 250], PLAIN, shots)


def test_annotators_that_see_shots_label_a_text_longer_than_the_one_their_shots_were_chosen_for() -> None:
    """A single text of a user that was longer than all candidates ended the run, at each start."""
    shots = tuple(Example(text=f"{shot.text} {'and so on ' * 12}", label=shot.label) for shot in SHOTS)
    long = "word " * 290
    engine = Strict(msgspec.structs.replace(FAKE, max_model_len=600))
    member = Annotator(adapter=Adapter(name="a", path="/a"), shown=tuple(range(len(shots))))
    for settings in (RunSettings(), RunSettings(long_texts="windows", max_text_words=200)):
        committee = Committee(engine, TASK, [member], settings, shots)
        assert committee.probabilities(["short", long]).shape == (2, len(TASK.labels))
        assert InContextAnnotator(engine, TASK, shots, settings, None).scores([long, "short"]).shape == (2, 6)
