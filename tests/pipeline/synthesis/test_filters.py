"""What the text filter rejects, and that it lets ordinary texts pass."""

import random
import time
import tracemalloc
from typing import Literal

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.synthesis.filters import (
    FilterSettings,
    TextFilter,
    clean_completion,
    clean_text,
    length_bounds,
    longest_text,
)
from fourshot.pipeline.synthesis.neardup import NearDuplicates
from fourshot.pipeline.synthesis.types import Candidate, Reason
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task
from tests.pipeline import candidates

TASK = load_task("support_tickets")
SHOTS = take_shots(TASK, 4, seed=0)
GOOD = "The calendar pages came out in the wrong order and two of them were upside down."


PAIRS_OF_SHOTS = [
    ("It rains hard in the hills tonight.", "The hills are wet."),
    ("Ann sold her car to a neighbour.", "Ann sold something."),
]


def candidate(text: str, finish_reason: str = "stop", label: str = "bug") -> Candidate:
    reason: Literal["length", "stop"] = "length" if finish_reason == "length" else "stop"
    return msgspec.structs.replace(candidates.candidate(1, text, label), finish_reason=reason)


def check(text: str, finish_reason: str = "stop") -> Reason | None:
    return TextFilter(SHOTS, FilterSettings(), task=TASK).check(candidate(text, finish_reason))


def test_real_texts_of_the_task_pass() -> None:
    texts = TextFilter(SHOTS, test_texts=[e.text for e in load_split(TASK, "test").examples], task=TASK)
    train = load_split(TASK, "train").examples
    rejected = {e.text: reason for e in train if (reason := texts.check(candidate(e.text)))}
    assert rejected == {"do you accept american express": "too_short"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        ("", "malformed"),
        (" \u200b ", "malformed"),
        ("3948 3948 -- 2093 // 20393 :: 0939 ab", "malformed"),
        ("the app is very very very very very very very very very very bad", "malformed"),
        ("The file is bro\ufffden and I cannot open it on my computer.", "malformed"),
        ("bug", "leaks_label"),
        ("Cancellation.", "leaks_label"),
        ("Text: The page does not load at all since the update.", "leaks_label"),
        ("The page does not load at all. Label: bug", "leaks_label"),
        ("Bug: the page does not load at all since the update.", "leaks_label"),
        ("Classify the support ticket as billing, login, bug, shipping or cancellation.", "repeats_prompt"),
        ("Classify the support ticket as billing", "repeats_prompt"),
        ("Few examples of support tickets reporting a fault in the software are given.", "repeats_prompt"),
        ("Generate more support tickets about bugs, please and thank you.", "repeats_prompt"),
        ("Too short.", "too_short"),
        (" ".join(e.text for e in load_split(TASK, "train").examples[:4]), "too_long"),
        (SHOTS[0].text, "copies_shot"),
        (SHOTS[0].text.upper() + "!!", "copies_shot"),
        (f"Hello there. {SHOTS[1].text} Thanks!", "copies_shot"),
        (SHOTS[2].text[: int(0.7 * len(SHOTS[2].text))].rsplit(" ", 1)[0], "copies_shot"),
    ],
)
def test_each_fault_has_its_reason(text: str, reason: Reason | None) -> None:
    assert check(text) == reason


@pytest.mark.parametrize("ending", [".", "?", "!", "...", '."', ".)", "\u2026"])
def test_a_text_that_ran_into_the_limit_passes_only_as_a_whole_sentence(ending: str) -> None:
    text = "The calendar pages came out in the wrong order and two of them"
    assert check(text, "length") == "unfinished"
    assert check(text + ending, "length") is None
    assert check(text, "stop") is None


def test_an_input_is_judged_by_its_fields_and_rejected_where_one_lacks() -> None:
    task = msgspec.structs.replace(load_task("rte"), name="pairs")
    shots = [Example(text=f"Premise: {p}\nHypothesis: {h}", label="entailment") for p, h in PAIRS_OF_SHOTS]
    texts = TextFilter(shots, task=task)

    def reason(completion: str) -> Reason | None:
        return texts.check(candidate(clean_completion(task, completion), label="entailment"))

    assert reason(" The old mill by the river burns.\nHypothesis: A building is on fire.\nLabel: yes") is None
    assert reason(" The old mill by the river burns.") == reason(" Rain all day.\nHypothesis: ") == "missing_field"
    assert reason(' "The OLD mill by the river burns."\nhypothesis: A building is on fire!') == "exact_duplicate"
    assert reason(" The sea is calm.\nHypothesis: Premise: the sea is calm and blue.") == "leaks_label"
    assert reason(f" {PAIRS_OF_SHOTS[0][0]}\nHypothesis: {PAIRS_OF_SHOTS[0][1]}") == "copies_shot"
    assert reason(" No.\nHypothesis: No.") == "too_short"  # the names of the fields do not count


def test_duplicates_are_found_over_classes_and_rounds() -> None:
    texts = TextFilter(SHOTS, task=TASK)
    assert texts.check(candidate(GOOD)) is None
    assert texts.check(candidate(f"  {GOOD.upper()} ", label="billing")) == "exact_duplicate"
    assert texts.check(candidate(GOOD.replace("two", "three"))) == "near_duplicate"
    assert texts.check(candidate("Colours in my album look washed out after printing.")) is None


def test_a_rejected_text_is_not_remembered() -> None:
    texts = TextFilter(SHOTS, task=TASK)
    start = "Every page of the album is shifted to the left by a"
    assert texts.check(candidate(start, "length")) == "unfinished"
    assert texts.check(candidate(start + " bit")) is None


def test_a_filter_that_remembers_what_had_passed_goes_on_as_if_never_stopped() -> None:
    words = ["frame", "album", "print", "cover", "page", "photo", "paper", "colour", "crop", "zoom", "light", "edge"]
    draw = random.Random(0)
    stream = [candidate(" ".join(draw.choices(words, k=draw.randint(5, 9)))) for _ in range(400)]
    undisturbed = TextFilter(SHOTS, task=TASK)
    expected = [undisturbed.check(item) for item in stream]
    first, second = TextFilter(SHOTS, task=TASK), TextFilter(SHOTS, task=TASK)
    before = [first.check(item) for item in stream[:200]]
    for item, reason in zip(stream[:200], before, strict=True):
        if reason is None:
            second.remember(item.text)
    assert before + [second.check(item) for item in stream[200:]] == expected
    assert {"near_duplicate", None} <= set(expected)


def test_texts_of_the_test_split_are_kept_out_exact_and_near() -> None:
    test_text = load_split(TASK, "test").examples[0].text
    texts = TextFilter(SHOTS, test_texts=[test_text], task=TASK)
    assert texts.check(candidate(test_text)) == "in_test_set"
    assert texts.check(candidate(f"{test_text} Thanks")) == "in_test_set"
    assert TextFilter(SHOTS, task=TASK).check(candidate(test_text)) is None


def test_the_bounds_follow_the_shots_and_every_shot_lies_within() -> None:
    shots = [Example(text="x" * length, label="bug") for length in (40, 100)]
    assert length_bounds(shots, FilterSettings()) == (20, 200)
    assert length_bounds(shots, FilterSettings(min_length_factor=0.2, max_length_factor=1.0)) == (8, 100)
    assert length_bounds([Example(text="Hi!", label="bug")], FilterSettings()) == (3, 80)
    with pytest.raises(InputError, match="at least one shot"):
        length_bounds([], FilterSettings())


def test_of_documents_the_part_that_prompts_show_bounds_the_length() -> None:
    document = Example(text=" ".join(f"word{number} of a report" for number in range(250)), label="bug")  # 1,000 words
    written = candidate(" ".join(f"line{number} on thing{number}" for number in range(80)) + ".")  # 240 words
    assert TextFilter([document], task=TASK).check(written) is None
    assert TextFilter([document], task=TASK, max_text_words=1000).check(written) == "too_short"
    own = candidate(" ".join(f"page{number} of book{number}" for number in range(300)) + ".")  # 900 words of the user's
    assert TextFilter([document], task=TASK).check(own) is None
    short = [Example(text="two  blanks\nand a line end", label="bug")]
    assert TextFilter(short, task=TASK).bounds == length_bounds(short, FilterSettings())


def test_the_longest_text_of_a_document_takes_no_more_memory_than_a_few_documents() -> None:
    long_shot = Example(text="word " * 2_000, label="bug")
    tracemalloc.start()
    longest = longest_text(TASK, [*SHOTS, long_shot], FilterSettings())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(longest) == 2 * len(long_shot.text) and longest.startswith(long_shot.text)
    assert peak_bytes < 100 * len(long_shot.text)


@pytest.mark.parametrize(("name", "value"), [("near_duplicate", 90), ("min_letters", -0.1), ("max_length_factor", 0.5)])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        msgspec.structs.replace(FilterSettings(), **{name: value})


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("  A text.  ", "A text."),
        ('"A text."', "A text."),
        ("\u201cA text.\u201d", "A text."),
        ('1. "A text."', "A text."),
        ("- A text.", "A text."),
        ("**A text.**", "A text."),
        ("12) A\t text.", "A text."),
        ("\n\nA text.\nLabel: bug", "A text."),
        ('"A text. And', "A text. And"),
        ('A text."', "A text."),
        ('"Yes" is not "no"', '"Yes" is not "no"'),
        ("2024 was a good year.", "2024 was a good year."),
        ("'tis a text", "'tis a text"),
        ("cafe\u0301", "caf\u00e9"),
        ('""', '""'),
        ("", ""),
    ],
)
def test_what_models_put_around_a_text_is_taken_off(raw: str, text: str) -> None:
    assert clean_text(raw) == text
    assert clean_text(text) == text


def test_the_lines_of_a_text_can_be_joined_instead() -> None:
    assert clean_text("One.\n\n  Two.\r\nThree.", first_line_only=False) == "One. Two. Three."


def test_five_thousand_texts_that_share_a_pattern_take_seconds() -> None:
    """Near duplicates are looked up, not compared with all before: their number must not slow each text down."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(3000)]
    texts = [f"what is the {a} of the {b} in {c}" for a, b, c in (draw.choices(words, k=3) for _ in range(5000))]
    index = NearDuplicates(0.9)
    started = time.process_time()
    kept = [text for text in texts if not index.find_or_add(text)]
    assert len(kept) > 4950  # the others share two of their three words with an earlier one
    assert all(index.find(text + "?") for text in kept[::50])
    assert time.process_time() - started < 10
