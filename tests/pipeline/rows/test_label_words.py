"""What a model reads for a class, and when a word is asked for."""

import pytest

from fourshot.pipeline.rows.labels.words import (
    is_meaningless,
    label_word,
    names_alike,
    propose_words,
    reads_as,
    retyped,
)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("billing_issue", "billing issue"),
        ("lostCard", "lost card"),
        ("FAQ", "faq"),
        ("a - b", "a b"),
        ("\u0130ade Tarihi", "iade tarihi"),
        ("__", "__"),
        ("-1", "-1"),
        ("4.5", "4.5"),
        ("A-", "a minus"),
        ("BBB+", "bbb plus"),
        ("C++", "c++"),
    ],
)
def test_label_words_are_names_that_a_model_can_read(name: str, word: str) -> None:
    assert label_word(name) == word


@pytest.mark.parametrize(
    "names", [("A", "A-"), ("A+", "A-"), ("-1", "1"), ("C", "C++"), ("1.5", "15"), ("+", "-"), ('5"', "5'")]
)
def test_signs_tell_names_apart(names: tuple[str, str]) -> None:
    assert reads_as(names[0]) != reads_as(names[1])


@pytest.mark.parametrize(
    "names",
    [
        ("Bug", "bug"),
        ("bug_report", "bugReport"),
        ("late-fee", "late fee"),
        ("\uff42\uff55\uff47", "bug"),
        ("aB", "Ab"),
        ("sign-in", "sign\u2013in"),
        ("can't pay", "can\u2019t pay"),
        ("-1", "\u22121"),
        ("'billing", "billing"),
        ("Billing", "b\u0456lling"),
        ("\u041e\u0420", "op"),
        ("R&D", "R&amp;D"),
        ("\u0648\u0631\u0632\u0634\u064a", "\u0648\u0631\u0632\u0634\u06cc"),
        ("1", "\u0661"),
    ],
)
def test_capitals_separators_and_widths_do_not(names: tuple[str, str]) -> None:
    assert reads_as(names[0]) == reads_as(names[1])


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["MOBILE", "lock", "\u041cOBILE", "mobile"], [["MOBILE", "\u041cOBILE", "mobile"], ["lock"]]),
        (["\u0422\u041e\u041c", "TOM", "\u0442\u043e\u043c"], [["\u0422\u041e\u041c", "TOM", "\u0442\u043e\u043c"]]),
        (["tom", "\u0442\u043e\u043c"], [["tom"], ["\u0442\u043e\u043c"]]),
        (["B", "\u0412", "\u0392"], [["B", "\u0412", "\u0392"]]),
        (["mm", "\u03bcm", "\u00b5m"], [["mm"], ["\u03bcm", "\u00b5m"]]),
        (["Yes", "Y", "No", "N"], [["Yes", "Y"], ["No", "N"]]),
        (["TRUE", "WAHR", "0"], [["TRUE", "WAHR"], ["0"]]),
        (["yes", "y", "maybe"], [["yes"], ["y"], ["maybe"]]),
        (["1", "0"], [["1"], ["0"]]),
    ],
)
def test_names_are_alike_that_read_or_look_the_same_or_mean_yes(names: list[str], groups: list[list[str]]) -> None:
    assert names_alike(names) == groups


@pytest.mark.parametrize(
    ("names", "is_same"),
    [
        (("true", "WAHR"), True),
        (("FALSE", "Faux"), True),
        (("007", "7"), True),
        (("1.50", "1,5"), True),
        (("+1", "1.0"), True),
        (("1,500", "1.5"), False),
        (("1,500", "1500"), False),
        (("-1", "1"), False),
        (("true", "1"), False),
    ],
)
def test_cells_that_a_spreadsheet_types_anew_are_the_same(names: tuple[str, str], is_same: bool) -> None:
    assert (retyped(names[0]) == retyped(names[1])) is is_same


@pytest.mark.parametrize("word", ["0", "-1", "4.5", "+", "A", "c++", "C17", "LABEL_0", "class 2", "intent_0", "?"])
def test_numbers_signs_and_codes_say_nothing(word: str) -> None:
    assert is_meaningless(word)


@pytest.mark.parametrize("word", ["no", "a minus", "好", "sci tech", "level", "b2b sales", "बिल", "ບິນ"])
def test_words_say_something(word: str) -> None:
    assert not is_meaningless(word)


def test_words_are_proposed_for_scales_that_are_known_and_for_no_others() -> None:
    assert propose_words(["1", "-1", "0"]) == {"-1": "negative", "0": "neutral", "1": "positive"}
    assert propose_words(["Y", "N"]) == {"N": "no", "Y": "yes"}
    assert propose_words(["0", "7"]) == {}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["\u2605", "\u2605\u2605", "\u2605\u2605\u2605"], ["negative", "neutral", "positive"]),
        (["\u2605\u2606\u2606", "\u2605\u2605\u2606", "\u2605\u2605\u2605"], ["negative", "neutral", "positive"]),
        (["1/5", "2/5", "3/5", "4/5", "5/5"], ["terrible", "bad", "okay", "good", "great"]),
        (["\U0001f44e", "\U0001f44d"], ["bad", "good"]),
        (["A", "A-", "B", "B+"], ["excellent", "very good", "good", "rather good"]),
        (["A", "B"], []),
        (["1/5", "2/3"], []),
        (["1/2", "2/2"], []),
    ],
)
def test_stars_points_thumbs_and_grades_are_scales(names: list[str], words: list[str]) -> None:
    assert propose_words(names) == dict(zip(names, words, strict=False))
