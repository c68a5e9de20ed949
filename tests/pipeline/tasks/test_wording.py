"""How the words of a task file read in a prompt."""

import pytest

from fourshot.pipeline.tasks.wording import noun_form


@pytest.mark.parametrize(
    ("noun", "several"),
    [("e-mail to a bakery", "e-mail to a bakerys"), ("query", "querys"), ("news", "newss"), ("pitch", "pitchs")],
)
def test_a_noun_whose_plural_is_more_than_an_s_is_told(noun: str, several: str) -> None:
    (fault,) = noun_form({"noun": noun})
    assert fault.severity == "warning" and repr(several) in str(fault) and "noun_plural" in str(fault)
    assert noun_form({"noun": noun, "noun_plural": "some of them"}) == []


@pytest.mark.parametrize("noun", ["support ticket", "essay", "note", "Kundenanfrage", "お問い合わせ", ""])
def test_most_nouns_are_not(noun: str) -> None:
    assert noun_form({"noun": noun}) == []
