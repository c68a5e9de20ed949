"""What may be amiss with the rows of a table is asked about or told; nothing is left out for it."""

import pytest

from fourshot.engine.errors import InputError
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
