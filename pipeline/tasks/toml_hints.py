"""Hints on what to write if a task file is not valid TOML, or a value has the wrong type."""

from collections.abc import Collection, Sequence
from typing import Any

SYNTAX = "The syntax is described at https://toml.io."
# Message of Python's parser -> remedy for the usual mistake.
_REASONS = {
    "Cannot overwrite a value": "The key occurs twice. Remove one.",
    "Invalid value": 'Write a text in double quotes, such as "billing"; numbers and lists without.',
    "Unescaped '\\' in a string": "Write each backslash twice, or the text in 'single quotes'.",
}
_CURLY = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2018\u2019"


def toml_hint(reason: str, line: Sequence[str]) -> str:
    """Return what to do about a document that cannot be read. ``line``: the line of the fault, or empty if unknown."""
    if reason == "Cannot declare ('labels',) twice":
        return "Each label begins with [[labels]], in two brackets."
    if reason.startswith("Cannot declare"):
        return "This table occurs twice. Merge the two."
    if any(char in "".join(line) for char in _CURLY) and not reason.startswith("Cannot"):
        return 'The line has typographic quotes. Write them straight: "...".'
    return _REASONS.get(reason, SYNTAX)


def misplaced(at: str, key: str, of_task: Collection[str], of_data: Collection[str]) -> str:
    """Return where an unknown key belongs if another table has it; else ""."""
    if at != "$" and key in of_task:
        return "It belongs above the first line in brackets: everything below one is part of that table."
    return "It belongs below [data]." if at != "$.data" and key in of_data else ""


def type_hint(at: str, expected: type, value: Any) -> str:
    """Return what to write at the key ``at`` instead of a value of the wrong type; "" if that is obvious."""
    if expected is str and isinstance(value, bool):
        return f'Write it in quotes: "{str(value).lower()}".'
    if expected is str and isinstance(value, int | float):
        return f'Write it in quotes: "{value}".'
    if expected is str and isinstance(value, dict) and at.startswith("$.data.label_values."):
        return 'A key with a dot must be in quotes, such as "1.0" = "billing".'
    if at == "$.labels" or (at.startswith("$.labels[") and expected is dict):
        return 'Write [[labels]] on a line of its own for each label, and name = "..." below it.'
    if expected is bool:
        return "Write true or false, without quotes."
    if expected is dict and at == "$.data":
        return 'Write [data] on a line of its own, and folder = "..." below it.'
    if expected is list and isinstance(value, str):
        return f'Write it in brackets: ["{value}"].'
    return ""
