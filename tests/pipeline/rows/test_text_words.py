"""What is a word in scripts with and without blanks, and what of a long text is shown."""

import time
import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from fourshot.pipeline.rows.text_words import (
    GAP,
    characters,
    count_words,
    cut_texts,
    script_runs,
    shown_text,
    text_windows,
    word_pieces,
)

SPACED = [
    "The kettle boils, and I like it!",
    "  two\tlines\n of 3.5 words — naïve, no\u00a0break ",
    "Der Käsekuchen war, ehrlich gesagt, großartig. 🎉🎉 👨‍👩‍👧",
    "اشتريت هذه الغلاية الأسبوع الماضي وهي تعمل بشكل جيد",
    "मुझे यह केतली बहुत पसंद है।",
    "주전자가 물을 빨리 끓여서 마음에 들어요.",
    "https://example.org/a/very/long/address?without=any&blank=at-all " * 3,
    "",
    " \n",
]
KETTLE = "先週買った電気ケトルは、お湯が沸くのが早い。"  # 22 characters
FAMILY = "👨‍👩‍👧"


@pytest.mark.parametrize("word", ["x" * 100_000, "a/b+" * 900, "\u0623" * 3_000, "e\u0301" * 2_000])
def test_what_is_too_long_for_a_word_is_cut_as_a_text_is(word: str) -> None:
    text = f"see {word} end"
    assert len(shown_text(text, 300)) <= 4 * 300 and text.startswith(shown_text(text, 300))
    assert len(text_windows(text, 300)) > 1 and text_windows(text, 300)[-1].endswith(" end")
    assert "".join(word_pieces(text)) == text and count_words("a " * 5 + "b" * 100) == 6


@pytest.mark.parametrize("text", SPACED)
def test_where_there_are_blanks_words_stand_between_them_and_nothing_else_is_one(text: str) -> None:
    words = text.split()
    assert count_words(text) == len(word_pieces(text)) == len(words)
    for most in range(1, len(words) + 2):
        assert shown_text(text, most) == " ".join(words[:most])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (KETTLE, 11),
        ("猫", 1),
        ("iPhone15を買った", 3),
        ("上周买的电热水壶", 4),
        ("I saw 東京 twice", 4),
        ("กาต้มน้ำดีมาก", 5),  # nine letters, four marks on them
    ],
)
def test_where_there_are_none_two_characters_are_a_word(text: str, words: int) -> None:
    assert count_words(text) == words
    assert "".join(word_pieces(text)) == text


def test_a_cut_takes_no_mark_from_its_letter_and_no_emoji_apart() -> None:
    thai, kana = "ที่นี่น้ำดีกว่า", "か\u3099き\u3099く\u3099"  # every letter with a mark or two
    assert [shown_text(kana, most) for most in (1, 2, 3)] == [kana[:4], kana, kana]
    ends = {shown_text(thai, most) for most in range(1, 9)}
    assert len(ends) > 2 and not any(unicodedata.category(f"{thai} "[len(text)]).startswith("M") for text in ends)
    joined = f"とても良い{FAMILY}🇯🇵1️⃣店"
    uncut = ("とても良い", f"とても良い{FAMILY}🇯🇵1️⃣", joined)
    assert all(joined.startswith(shown_text(joined, most)) for most in range(9))
    assert {shown_text(joined, most) for most in (3, 4, 9)} == set(uncut)


@pytest.mark.parametrize("text", ["🇯🇵" * 50_000, "猫" + "🇯" * 99_999 + "\u0301"])
def test_a_row_of_flags_takes_no_time_by_the_square_of_its_length(text: str) -> None:
    """Minutes, before, of a service that others wait for."""
    began = time.perf_counter()
    assert "".join(characters(text)) == "".join(script_runs(text)) == "".join(word_pieces(text)) == text
    assert time.perf_counter() - began < 5


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from([*"🇯🇵🇫猫กำ👩🏽", FAMILY, "\u200d", "\u0301", "\u0600", "\ufe0f", "a"])).map("".join))
def test_a_character_is_what_unicode_calls_a_grapheme_cluster(text: str) -> None:
    assert characters(text) == regex.findall(r"\X", text)


def test_the_middle_is_left_out_where_the_end_says_what_a_text_is_about() -> None:
    text = " ".join(map(str, range(100)))
    assert shown_text(text, 8, "middle") == "0 1 … 94 95 96 97 98 99"
    assert shown_text(text, 100, "middle") == text == shown_text(text, 100)
    assert [shown_text("a b c d", most, "middle") for most in (1, 2, 3)] == ["a …", "a … d", "a … c d"]
    assert shown_text(KETTLE, 4, "middle") == "先週 … くのが早い。"


def test_what_is_left_out_is_counted() -> None:
    cut = cut_texts(["one two three", "one", KETTLE], 2)
    assert (cut.texts, cut.cut, cut.words, cut.left_out, cut.longest) == (3, 2, 15, 10, 11)
    assert str(cut) == "2 of 3 texts have more than 2 words (the longest 11): the end is not used, 10 of 15 words."
    assert str(cut_texts(["one two three", "one"], 2, "middle")).startswith("1 of 2 texts has more than 2 words")
    assert str(cut_texts(["one two"], 2)) == str(cut_texts([])) == ""


PIECES = st.sampled_from(["猫", "か\u3099", "กี่", FAMILY, "🇯🇵", "1️⃣", "\u200d", "\u0301", " ", "\u3000", "שָׁ", "ab"])


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(PIECES | st.characters(), max_size=20).map("".join), st.integers(1, 12))
def test_any_text_is_counted_and_cut_as_it_is_counted(text: str, most: int) -> None:
    line = " ".join(text.split())
    assert "".join(word_pieces(text)) == line and count_words(text) == len(word_pieces(text))
    shown = shown_text(text, most)
    assert line.startswith(shown) and (shown == line) == (count_words(text) <= most)
    middle = shown_text(text, most, "middle")
    assert (middle == line) if count_words(text) <= most else f" {GAP}" in middle
