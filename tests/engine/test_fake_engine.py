"""The fake engine answers alike whatever shares a batch, and is slow or fails as its name says."""

import pytest

from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.core import EngineSettings, Sampling
from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.fake_engine import FakeEngine, FakeSettings, fake_settings
from fourshot.engine.opening import open_engine
from fourshot.engine.tokens import load_tokenizer

ASKS = "Write one.\n\nLabel: bug\n\nText:"
SEEDED = Sampling(seed=1)


def opened(model: str = "fake") -> FakeEngine:
    engine = open_engine(EngineSettings(model=model))
    assert isinstance(engine, FakeEngine)
    return engine


def test_a_text_follows_from_its_seed_and_its_class_alone() -> None:
    (alone,) = opened().sample([ASKS], SEEDED)
    first, second = opened("fake:delay_s=0.0001").sample([ASKS, ASKS], SEEDED)
    assert first == alone and second.text != alone.text
    assert alone.text.endswith(" bug.") and alone.num_tokens == 12
    assert isinstance(open_engine(EngineSettings(model="any/model", kind="fake")), FakeEngine)


def test_most_texts_are_read_as_the_class_they_were_drawn_for() -> None:
    engine, labels = opened(), ["login", "bug"]
    drawn = engine.sample([ASKS] * 100, SEEDED)
    scores = engine.score([f"Sort it.\n\nText:{completion.text}\nLabel:" for completion in drawn], labels)
    assert scores.shape == (100, 2) and 80 <= (scores.argmax(1) == 1).sum() < 100


def test_its_name_says_how_it_fails() -> None:
    assert fake_settings("fake:delay_s=0.5;dies_on_opening=true") == FakeSettings(delay_s=0.5, dies_on_opening=True)
    (completion,) = opened("fake:otherwise=a, b").sample(["Topics:"], SEEDED)
    assert completion.text == " a, b"
    with pytest.raises(InputError, match="too many tokens"):
        opened("fake:unreadable=xy").score(["Sort it.\n\nText: xylene\nLabel:"], ["a"])
    with pytest.raises(FourshotError, match="no driver"):
        opened("fake:fails_on_opening=1")


def test_as_a_base_model_all_of_its_kinds_are_one_and_a_wrong_name_is_bad_input() -> None:
    slow = resolve_model("fake:delay_s=1")
    assert (slow.name, slow.revision) == (resolve_model("fake").name, resolve_model("fake").revision)
    assert slow.path == "fake:delay_s=1"
    with pytest.raises(InputError, match=r"unknown field `speed`.*Allowed are delay_s, otherwise"):
        resolve_model("fake:speed=3")
    with pytest.raises(InputError, match="has no tokenizer and no weights"):
        load_tokenizer("fake")
