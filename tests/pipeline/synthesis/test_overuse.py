"""Which words are pushed down, and how far."""

import math

import pytest

from fourshot.pipeline.synthesis.overuse import FEWEST_TEXTS, WordUse
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task

SHOTS = [Example(text=text, label="good") for text in ("the film sings", "the cast", "a joy", "the end")]
OTHERS = [Example(text=f"no {n} of it", label="bad") for n in range(4)]


def used(texts: list[str], strength: float = 1.0) -> dict[str, float]:
    use = WordUse(load_task("sst2"), [*SHOTS, *OTHERS], "good", strength)
    use.add(texts)
    return dict(use.biases())


def test_a_word_is_pushed_down_by_what_it_is_used_too_often() -> None:
    # In 10 of 20 texts; in one of four shots, so a third is allowed. "new" is in no shot: a sixth.
    biases = used(["film new"] * 10 + ["other"] * 2 + [f"text {n}" for n in range(8)])
    assert biases["film"] == pytest.approx(-math.log(0.5 * 3), abs=1e-4)
    assert biases["new"] == pytest.approx(-math.log(0.5 * 6), abs=1e-4)
    assert next(iter(biases)) == "new", "the strongest comes first"
    assert "other" not in biases, "a tenth of the texts is fewer than a sixth"


def test_what_real_texts_say_as_often_is_left_alone() -> None:
    assert "the" not in used(["the one"] * 12 + ["another"] * 8)


def test_what_other_classes_say_often_may_be_said_here() -> None:
    # "no" is in none of the class's shots, but in half of all: (4 + 1) / (8 + 2).
    assert "no" not in used(["no"] * 9 + [f"x{n}" for n in range(11)])
    assert used(["no"] * 15 + [f"x{n}" for n in range(5)])["no"] == pytest.approx(-math.log(0.75 * 2), abs=1e-4)


def test_a_bias_grows_with_use_and_with_the_strength() -> None:
    few, many = ([*["dull"] * n, *["x"] * (20 - n)] for n in (6, 18))
    assert used(many)["dull"] < used(few)["dull"] < 0
    assert used(few, strength=2)["dull"] == pytest.approx(2 * used(few)["dull"], abs=1e-3)


def test_a_word_counts_once_a_text_and_as_it_is_spelt() -> None:
    biases = used(["dull dull dull"] * 3 + [f"x{n}" for n in range(17)])
    assert not biases, "three texts of twenty have it"
    assert set(used(["Dull dull"] * 20)) == {"Dull", "dull"}


def test_a_few_texts_say_nothing_yet() -> None:
    assert not used(["dull"] * (FEWEST_TEXTS - 1))
    assert used(["dull"] * FEWEST_TEXTS)


def test_the_names_of_fields_are_no_words_of_a_text() -> None:
    text = "Premise: {} falls.\nHypothesis: It is wet."
    shots = [Example(text=text.format(word), label="entailment") for word in ("Rain", "Snow")]
    use = WordUse(load_task("rte"), shots, "entailment", 1.0)
    use.add(text.format(f"Sleet {n}") for n in range(FEWEST_TEXTS))
    assert {"Premise", "Hypothesis"}.isdisjoint(dict(use.biases())) and "Sleet" in dict(use.biases())
