"""What a caller gives in place of a list of texts is refused in the name of the function that was called."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.text_lists import checked_strings, checked_texts, listed_texts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("one text", "generate takes a list of texts, got one string. Put it in a list."),
        ({"subject": "Hello"}, "generate takes a list of texts, got one object."),
        (b"bytes", "got bytes. Decode it, and put it in a list."),
        (bytearray(b"bytes"), "got bytes. Decode it, and put it in a list."),
        ({"a", "b"}, "got a set, which has no order. Give a list."),
        (frozenset({"a", "b"}), "got a set, which has no order. Give a list."),
        (np.array([["a"], ["b"]]), "got a ndarray. Give its column of texts; for a task with fields, a dictionary for"),
        (7, "generate takes a list of texts, got 7. Give a list of strings."),
        (["good", None], "the input at 1 is None, which is not a text"),
        (["good", " "], "generate got blank texts at [1]. Leave them out."),
        (["good", {"subject": "Hello"}], "the input at 1 is an object. generate takes strings"),
    ],
)
def test_it_is_an_input_error_that_names_the_function(given: object, message: str) -> None:
    with pytest.raises(InputError) as error:
        checked_strings(given, "generate")  # type: ignore[arg-type]
    assert message in str(error.value)


def test_arrays_and_generators_are_lists_of_plain_strings() -> None:
    by_text = {"one": 1, "two": 2}
    for given in (np.array(["one", "two"]), (text for text in ("one", "two")), ("one", "two"), by_text.keys()):
        texts = checked_texts(given, "predict")
        assert texts == ["one", "two"] and {type(text) for text in texts} == {str}


def test_objects_of_fields_and_blank_texts_may_be_in_a_list() -> None:
    assert listed_texts([{"subject": "Hello"}, " "], "classify") == [{"subject": "Hello"}, " "]


def test_objects_of_any_kind_are_plain_ones_of_plain_strings() -> None:
    given: Mapping[str, str] = MappingProxyType({np.str_("subject"): np.str_("Hello")})
    (listed,) = checked_texts([given], "predict")
    assert type(listed) is dict and {type(part) for pair in listed.items() for part in pair} == {str}
