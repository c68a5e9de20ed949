"""What may be amiss with the rows of a table is asked about or told; nothing is left out for it."""

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.usable_rows import TableChoices
from tests.pipeline.rows.test_usable_rows import labels_of, texts, use


@pytest.mark.parametrize("sign", [" or ", " - ", ": ", "\u3001", "\uff1b", "\u061b"])
def test_a_cell_of_labels_that_are_classes_is_several_labels_in_any_script(sign: str) -> None:
    with pytest.raises(InputError, match="several labels"):
        use(texts("lock", "damage", f"lock{sign}damage"))


@pytest.mark.parametrize("sign", ["\n", " "])
def test_a_class_made_of_the_names_of_others_is_pointed_out(sign: str) -> None:
    used = use(texts("lock", "damage", f"lock{sign}damage", "damage report"))
    [warned] = [fault for fault in used.notices if fault.severity == "warning"]
    assert "'lock damage' became a class of 1 row. Are these several labels?" in str(warned)


@pytest.mark.parametrize("names", [("HOME", "\u041dOME"), ("A", "\u0410"), ("R&D", "R&amp;D"), ("1", "\u0661")])
def test_names_in_two_scripts_that_look_the_same_are_asked_about(names: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"labels that read the same.*--merge-labels"):
        use(texts(*names, "lock"))


def test_yes_and_no_in_several_spellings_are_asked_about() -> None:
    with pytest.raises(InputError, match="'N' and 'No'; 'Y' and 'Yes'"):
        use(texts("Yes", "No", "Y", "N"))
    assert len(set(labels_of(use(texts("yes", "no", "not sure"))))) == 3


def warned(rows: list[tuple[str, str]]) -> list[str]:
    return [str(fault) for fault in use(rows).notices if fault.severity == "warning"]


@pytest.mark.parametrize("marks", ["''", "\u201e\u201c", "\u00ab\u00bb", '""'])
def test_quotes_around_each_text_are_pointed_out(marks: str) -> None:
    rows = [(f"{marks[0]}{word} text{marks[1]}", "lock") for word in ("one", "two", "three")]
    [message] = warned(rows)
    assert f"each text begins with {marks[0]!r} and ends with {marks[1]!r}" in message
    assert warned([*rows, ("It jams", "lock")]) == []
    assert warned([(f"({word} text)", "lock") for word in ("one", "two")]) == []


@pytest.mark.parametrize("name", ["2024-01-04", "2024-01-04 00:00:00", "04-Jan", "Jan-04", "4. Jan", "1-M\u00e4r"])
def test_classes_that_are_dates_are_pointed_out(name: str) -> None:
    [message] = warned(texts(name, "25+", "5 - 24"))
    assert f"{name!r} became a class: dates. Did a spreadsheet convert" in message
    assert warned(texts("25+", "1-4", "Mar-a-Lago", "24-hour")) == []


def test_a_class_whose_name_is_nearly_that_of_another_is_pointed_out() -> None:
    many = texts("billing", "level 1", "complete", times=6)
    [message] = warned([*many, ("a", "biling"), ("b", "level 2"), ("c", "incomplete"), ("d", "billing")])
    assert "'biling' became a class of 1 row. Is it 'billing'? Then write it the same way." in message
    assert warned(texts("billing", "biling", times=6)) == []


def test_texts_that_stand_for_none_are_pointed_out() -> None:
    [message] = warned([("None", "lock"), ("[deleted]", "lock"), ("It jams", "damage")])
    assert "2 texts such as 'None'" in message


def test_a_column_of_paths_in_place_of_texts_is_pointed_out() -> None:
    for path in ("s3://bucket/docs/{}.txt", "https://x.org/{}", "data\\texts\\{}.txt", "docs/{}.txt"):
        [message] = warned([(path.format(name), label) for name, label in (("a", "lock"), ("b", "damage"))])
        assert "each text is a path or an address" in message
    assert warned([("his/her", "lock"), ("and/or", "damage")]) == []


@pytest.mark.parametrize(("names", "merged"), [(["1,5", "1.5", "2"], "1,5"), (["5%", "5 %", "10%"], "5 %")])
def test_a_number_in_two_spellings_is_asked_about(names: list[str], merged: str) -> None:
    with pytest.raises(InputError, match="labels that read the same"):
        use(texts(*names))
    assert labels_of(use(texts(*names), TableChoices(merge_labels=True))) == [merged, merged, names[2]]
    assert labels_of(use(texts("1,000", "2,000", "2000"))) == ["1,000", "2,000", "2000"]  # thousands, perhaps


def test_classes_that_have_parts_in_common_are_pointed_out_the_first_of_them() -> None:
    notices = use(texts("billing;other", "login; other", "bug")).notices
    assert [fault.what.split(" became")[0] for fault in notices] == ["'billing;other'", "'login; other'"]
    notices = use(texts(*(f"genre{first}|genre{second}" for first in range(5) for second in range(first)))).notices
    assert [fault.remedy.split(" A task")[0] for fault in notices] == [
        "Are these several labels? 5 other classes may be, too."
    ] * 5
    assert not use(texts("Paris, TX", "Austin, TX", "bug")).notices
