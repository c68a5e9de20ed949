"""Check the texts that a caller passes, and convert them to a list of strings or, for tasks with fields, of objects."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.fields import Given
from fourshot.pipeline.rows.labels.cells import INVISIBLE

VISIBLE = rf"[^{INVISIBLE}]"
NO_LISTS: dict[type, str] = {  # what is no list of texts -> how a message calls it, and the remedy
    str: "one string. Put it in a list.",
    **dict.fromkeys((bytes, bytearray), "bytes. Decode it, and put it in a list."),
    **dict.fromkeys((set, frozenset), "a set, which has no order. Give a list."),
}


def checked_texts(texts: Iterable[Given], function: str) -> list[Given]:
    """Return `listed_texts`. Also raises InputError if one is blank."""
    listed = listed_texts(texts, function)
    if blank := [index for index, text in enumerate(listed) if isinstance(text, str) and not re.search(VISIBLE, text)]:
        raise InputError(f"{function} got blank texts at {blank[:5]}. Leave them out.")
    return listed


def checked_strings(texts: Iterable[str], function: str) -> list[str]:
    """Return `checked_texts` for a ``function`` that only takes strings: objects of fields raise InputError too."""
    listed = checked_texts(texts, function)
    if objects := [index for index, text in enumerate(listed) if not isinstance(text, str)]:
        raise InputError(f"the input at {objects[0]} is an object. {function} takes strings; give one for each input.")
    return [str(text) for text in listed]


def listed_texts(texts: Iterable[Given] | bytes | bytearray, function: str) -> list[Given]:
    """Return ``texts``, which may be an array or a generator, as a list of plain strings and objects.

    Raises InputError, which names the called ``function``, for a single text instead of a list, and for items that are
    not texts.
    """
    expected = f"{function} takes a list of texts"
    if isinstance(texts, str | Mapping | bytes | bytearray | set | frozenset):
        raise InputError(f"{expected}, got {NO_LISTS.get(type(texts), 'one object. Put it in a list.')}")
    if getattr(texts, "ndim", 1) != 1:  # iterating over a data frame gives the names of its columns
        raise InputError(
            f"{expected}, got a {type(texts).__name__}. Give its column of texts; for a task with fields, a dictionary "
            "for each row."
        )
    if not isinstance(texts, Iterable):
        raise InputError(f"{expected}, got {texts!r:.60}. Give a list of strings.")
    items: Iterable[Any] = texts.to_pylist() if hasattr(texts, "to_pylist") else texts  # pyarrow's scalars
    listed = [plain(text) for text in items]
    if none := [index for index, text in enumerate(listed) if not isinstance(text, str | Mapping)]:
        raise InputError(
            f"the input at {none[0]} is {listed[none[0]]!r:.60}, which is not a text ({len(none)} such). Give "
            "strings, or objects of a task's fields, and leave missing values out."
        )
    return listed


def plain(text: Any) -> Any:
    """Return a text as a plain `str`, unlike numpy's strings; an object of fields as a `dict` of these."""
    if isinstance(text, Mapping):
        return {plain(field): plain(value) for field, value in text.items()}
    return str(text) if isinstance(text, str) else text
