"""Convert inputs of several named fields, such as premise and hypothesis, to a text with a line for each, and back.

Except at interfaces to users, such an input is one string, "Premise: ...\\nHypothesis: ...", in the task's order. So
code that handles texts can handle it. This module has what depends on the fields: joining, splitting and cutting them.

Importing this module loads no heavy library.
"""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import MOST_NAMED, nearest, shorten
from fourshot.pipeline.rows.labels.cells import UNSEEN, read_text_cell
from fourshot.pipeline.rows.text_words import LongTexts, count_words, shown_text, text_windows
from fourshot.pipeline.task import Task

TOKENS_PER_NAME = 4  # name of a field, with its colon
Given = str | Mapping[str, str]  # an input as a user gives it: a text, or an object of fields


def heading(field: str) -> str:
    """Return the name of a field as it is written in prompts: "Premise" for "premise"."""
    name = " ".join(field.replace("_", " ").split())
    return name[:1].upper() + name[1:]


def join_fields(fields: Sequence[str], values: Mapping[str, str]) -> str:
    """Return one line for each field that has a value; runs of white space in a value become one space."""
    return "\n".join(f"{heading(field)}: {' '.join(values[field].split())}" for field in fields if field in values)


def split_fields(fields: Sequence[str], text: str) -> dict[str, str] | None:
    """Reverse `join_fields`, ignoring blank lines, case and outer spaces; None for a missing field or other lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    values = {}
    for field, line in zip(fields, lines, strict=False):
        name, colon, value = line.partition(":")
        if colon and name.strip().casefold() == heading(field).casefold() and value.strip():
            values[field] = value.strip()
    return values if len(values) == len(fields) == len(lines) else None


def values_of(task: Task, text: str) -> dict[str, str]:
    """Return the values of an input's fields; a text without fields, such as "N/A", is the value of each."""
    return split_fields(task.input_fields, text) or dict.fromkeys(task.input_fields, text)


def bare_text(task: Task, text: str) -> str:
    """Return an input without field names: the text, or the values of its fields, one per line."""
    values = split_fields(task.input_fields, text) if task.input_fields else None
    return "\n".join(values.values()) if values else text


def cut_fields(values: Mapping[str, str], max_words: int, long_texts: LongTexts = "cut") -> dict[str, str]:
    """Return each value on one line. If they have more than ``max_words`` words in total, the longest ones are cut.

    Shorter fields are kept complete, because a question below a long passage determines how to understand the passage.
    """
    shares = _shares(values, max_words)
    return {field: shown_text(value, shares[field], long_texts) for field, value in values.items()}


def field_windows(values: Mapping[str, str], max_words: int) -> list[dict[str, str]]:
    """Return the windows of an input: long fields are split, and other fields repeat their only or last window."""
    shares = _shares(values, max_words)
    windows = {field: text_windows(value, shares[field]) for field, value in values.items()}
    most = max(map(len, windows.values()))
    return [{field: parts[min(number, len(parts) - 1)] for field, parts in windows.items()} for number in range(most)]


def _shares(values: Mapping[str, str], max_words: int) -> dict[str, int]:
    """Divide ``max_words`` words among the fields: all of the shorter fields, and the rest for the longer ones."""
    room, open_fields, shares = max_words, len(values), dict[str, int]()
    for field in sorted(values, key=lambda field: count_words(values[field])):
        shares[field] = min(count_words(values[field]), math.ceil(room / open_fields))
        room, open_fields = room - shares[field], open_fields - 1
    return shares


def encoder_text(task: Task, text: str, max_tokens: int) -> str:
    """Return an input for an encoder of ``max_tokens`` tokens, with long fields cut so that every field is used.

    The encoder itself would cut the text at its end, where the last field is. A text without fields is unchanged.
    """
    fields = task.input_fields
    if not fields:
        return text
    words = max(len(fields), (max_tokens - TOKENS_PER_NAME * len(fields)) * 2 // 3)  # 1.5 tokens per word
    return join_fields(fields, cut_fields(values_of(task, text), words))


def row_input(task: Task, row: Mapping[str, Any]) -> str | None:
    """Return the input in a row of the task's data: "" if it or one of its fields is empty, None if it is not text."""
    return input_in(row, task.input_fields, (task.data.text_column,))


def input_in(row: Mapping[str, Any], fields: Sequence[str], text_columns: Sequence[str]) -> str | None:
    """Return what `row_input` does. Without ``fields``, the text is one column, or several joined by line ends."""
    if not fields:
        parts = [read_text_cell(row.get(column)) for column in text_columns]
        return None if None in parts else "\n".join(part for part in parts if part)
    values = {field: read_text_cell(row.get(field)) for field in fields}
    if None in values.values():
        return None
    return join_fields(fields, {field: value or "" for field, value in values.items()}) if all(values.values()) else ""


def no_text_in(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return the first of the columns whose cell is not text."""
    return next(column for column in columns if read_text_cell(row.get(column)) is None)


def as_text(task: Task, raw: Given) -> str:
    """Return a user's input as the text to classify. Raises InputError if it does not have the task's form.

    For a task with fields, the input is an object, the same object as JSON, or its lines as in a prompt.
    """
    fields = task.input_fields
    if not fields:
        if isinstance(raw, str):
            return raw
        raise InputError(f"the task {task.name} takes a text, got an object with {_keys(raw)}. Give a string.")
    example = _example(fields)
    values: Any = raw
    if isinstance(raw, str):
        if (lines := split_fields(fields, raw)) is not None:
            return join_fields(fields, lines)
        try:
            values = msgspec.json.decode(raw) if raw.lstrip().startswith("{") else None
            if values:
                json.loads(raw, object_pairs_hook=each_once)
        except (msgspec.DecodeError, ValueError, RecursionError) as failure:
            raise InputError(f"{raw[:60]!r} is not valid JSON: {failure}. Give an object such as {example}") from None
    if not isinstance(values, Mapping):
        raise InputError(
            f"an input of the task {task.name} is an object with the fields {', '.join(fields)}, got the text "
            f"{str(raw)[:60]!r}. Give one such as {example}"
        )
    for key in values:
        if key not in fields:
            near = nearest(str(key), fields, f"Give one such as {example}")
            raise InputError(f"unknown field {key!r:.60}; the fields are {', '.join(fields)}. {near}")
    for field in fields:
        value = values.get(field)
        if not isinstance(value, str) or not value.strip() or UNSEEN.fullmatch(value.strip()):
            lack = "is missing" if field not in values else "is blank" if isinstance(value, str) else "is not a string"
            raise InputError(f"the field {field!r} {lack}; got {_keys(values)}. Give one such as {example}")
    return join_fields(fields, values)


def each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object as a hook of `json.loads`. Raises ValueError for a repeated name, which JSON leaves undefined."""
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"Object contains the field `{name}` twice")
        fields[name] = value
    return fields


def _example(fields: Sequence[str]) -> str:
    """Return an example object of the fields, as JSON."""
    return msgspec.json.encode(dict.fromkeys(fields, "...")).decode()


def sample_argument(task: Task) -> str:
    """Return an example input, quoted as an argument of `fourshot predict FOLDER`."""
    return shlex.quote(_example(task.input_fields) if task.input_fields else "A text of your own")


def as_texts(task: Task, inputs: Iterable[Given]) -> list[str]:
    """Apply `as_text` to each input. Raises InputError with the index of the faulty one."""
    texts = []
    for index, raw in enumerate(inputs):
        try:
            texts.append(as_text(task, raw))
        except InputError as error:
            raise InputError(f"The input at {index}: {error}") from None
    return texts


def as_given(task: Task, text: str) -> Given:
    """Return an input as it is shown to users: an object of its fields, or the text if the task has none."""
    return (split_fields(task.input_fields, text) or text) if task.input_fields else text


def _keys(values: Mapping[str, Any]) -> str:
    return shorten((f"{key!r:.60}" for key in values), MOST_NAMED) or "nothing"


def written_fields(fields: Sequence[str], completion: str) -> dict[str, str]:
    """Return the values that a model generated after the first field's name, up to the first missing field.

    They are in the task's order. A value ends where a line begins with the next field's name, the last with its line.
    """
    values, field, later = {fields[0]: ""}, fields[0], list(fields[1:])
    names = {heading(name).casefold() for name in fields}
    for line in completion.splitlines():
        name, colon, value = line.partition(":")
        if colon and (name := name.strip().casefold()) in names:
            if later and name == heading(later[0]).casefold():
                field = later.pop(0)
            elif values.get(field) or name != heading(field).casefold():  # else a model repeats the name it was given
                break
            line = value
        elif not later and values[field]:
            break
        values[field] = f"{values.get(field, '')} {line}".strip()
    return values


def is_field_name(field: str) -> bool:
    """Return whether a line of a prompt can begin with this name of a field."""
    is_line = bool(field) and ":" not in field and field == field.strip() and len(field.splitlines()) == 1
    return is_line and heading(field).casefold() != "label"
