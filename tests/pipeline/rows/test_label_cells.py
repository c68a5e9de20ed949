"""Whatever tables make of a label, the label in it is found, or it is said that there is none."""

from typing import Any

import pytest

from fourshot.pipeline.rows.labels.cells import joined_labels, perhaps_joined, read_label, read_text_cell, visible


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("billing", ("billing",)),
        (" late\u00a0 fee\t", ("late fee",)),
        (None, ()),
        (float("nan"), ()),
        ("NaN", ()),
        ("<NA>", ()),
        ("  ", ()),
        ("None", ("None",)),  # may be a class; `usable_rows` points at it
        (2.0, ("2",)),
        (-1, ("-1",)),
        (0.5, ("0.5",)),
        (True, ("True",)),
        (b"billing", ("billing",)),
        ("b'billing'", ("billing",)),
        ('b"it\'s"', ("it's",)),
        (b"\xff", ("\\xff",)),
        ("b'\\xff'", ("\\xff",)),
        ("b", ("b",)),
        ("['it\\'s']", ("it's",)),
        ('["late \\"fee\\""]', ('late "fee"',)),
        ("[null]", ()),
        ('"billing"', ("billing",)),
        ("'billing'", ("billing",)),
        ('"', ('"',)),
        ("__label__billing", ("billing",)),
        ("__label__billing __label__lock", ("billing", "lock")),
        (["billing"], ("billing",)),
        (["billing", "lock"], ("billing", "lock")),
        (["billing", "billing"], ("billing",)),
        ([], ()),
        ([None], ()),
        ([3.0], ("3",)),
        ("['billing']", ("billing",)),
        ('["late fee", "lock"]', ("late fee", "lock")),
        ("['billing' 'lock']", ("billing", "lock")),  # numpy
        ("array(['billing'])", ("billing",)),
        ("array(['billing', 'lock'], dtype=object)", ("billing", "lock")),
        ("array([], dtype=float64)", ()),
        ("frozenset({'billing'})", ("billing",)),
        ("np.str_('billing')", ("billing",)),
        ("np.int64(1)", ("1",)),
        ("set(up)", ("set(up)",)),
        (float("inf"), ()),
        ("inf", ("inf",)),
        ("[billing]", ("billing",)),  # Spark
        ("[0, 1]", ("0", "1")),
        ("('billing',)", ("billing",)),
        ("{'billing'}", ("billing",)),
        ("[]", ()),
        ('{"choices": ["billing", "lock"]}', ("billing", "lock")),  # Label Studio's CSV
        ({"choices": ["billing"]}, ("billing",)),
        ({"billing": 1.0, "lock": 0}, ("billing",)),  # spaCy
        ({"billing": False, "": True}, ()),
        ("(other)", ("(other)",)),
        ("#REF!", ()),
        ("#WERT!", ()),
        ("#refund", ("#refund",)),
        ("[ok", ("[ok",)),
        ("[" * 9999 + "]", ("[" * 9999 + "]",)),
        ("]", ("]",)),
    ],
)
def test_the_labels_in_a_cell(cell: Any, labels: tuple[str, ...]) -> None:
    assert read_label(cell).labels == labels


@pytest.mark.parametrize(
    "cell",
    [
        "{}",
        '{"title": {"value": "lock"}}',
        '[["lock"]]',
        {"a": 0.4},
        {"a": "b"},
        {},
        {"a": [1], "b": [2]},
        [[0, 4, "PER"]],
        [{"label": "x"}],
    ],
)
def test_objects_and_nested_lists_are_no_labels(cell: Any) -> None:
    with pytest.raises(ValueError, match=r"an object|a list of lists or objects"):
        read_label(cell)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("negative", "\u200bnegative"),
        ("negative", "neg\u00adative\ufeff"),
        ("negative", "neg\u200cative"),
        ("\u2764", "\u2764\ufe0f"),
        ("late fee", "late\u2009fee"),
        ("late fee", "\x00late\x1b \tfee\x7f"),
    ],
)
def test_what_looks_the_same_is_the_same(first: str, second: str) -> None:
    assert visible(first) == visible(second) == visible(visible(second))


@pytest.mark.parametrize("text", ["می\u200cخواهم", "👩\u200d🔧", "🏴\U000e0067\U000e0062\U000e007f", "İ", "ﬁ"])  # noqa: RUF001
def test_characters_that_a_script_needs_stay(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        ("nan", ""),
        (" a ", "a"),
        (b"a", "a"),
        ("\u200b", ""),
        ("\u202e\x00 \u2800\u3164", ""),
        ("\\N", ""),
        ("#NAME?", ""),
        (b"\xff", None),
        (5, None),
        (True, None),
    ],
)
def test_the_text_in_a_cell(cell: Any, text: str | None) -> None:
    assert read_text_cell(cell) == text


def test_several_labels_in_one_cell_are_known_by_their_parts() -> None:
    names = {"lock", "damage", "Sci/Tech", "lock#damage", "damage, lock", "R&D", "lock and damage"}
    assert joined_labels(names) == {
        "lock#damage": ("lock", "damage"),
        "damage, lock": ("damage", "lock"),
        "lock and damage": ("lock", "damage"),
    }
    assert perhaps_joined(["lock", "lock, bell", "R&D; ops", "1,5", "1", "C#", "C"]) == ["lock, bell"]
