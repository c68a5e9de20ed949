"""Which column of a table holds the texts, and which the labels."""

from collections.abc import Callable, Sequence, Set
from typing import Any

from fourshot.engine.errors import InputError
from fourshot.pipeline.tasks.table_files import Table

MOST_CLASSES = 100
TEXT_NAMES = {"text", "sentence", "message", "body", "content", "question", "review", "comment"}
TEXT_NAMES |= {"description", "utterance"}
LABEL_NAMES = {"label", "class", "category", "intent", "topic", "target", "sentiment", "tag"}


def find_columns(table: Table, text_column: str | None = None, label_column: str | None = None) -> tuple[str, str]:
    """(text column, label column) of a table: those given, and a guess for those that are not.

    A column's usual name counts first, then what is in it. Raises `InputError` with the columns there are where one is
    missing, or where several might be meant.
    """
    there = ", ".join(repr(column) for column in table.columns)
    for column in (text_column, label_column):
        if column is not None and column not in table.columns:
            raise InputError(f"{table.path} has no column {column!r}; the columns are {there}.")
    texts = [text_column] if text_column else _guess(table, TEXT_NAMES, _looks_like_text, label_column)
    labels = [label_column] if label_column else _guess(table, LABEL_NAMES, _looks_like_label, text_column)
    if len(texts) == 1 and len(labels) == 1 and texts != labels:
        return texts[0], labels[0]
    wanted = " and ".join(kind for kind, columns in (("text", texts), ("label", labels)) if len(columns) != 1)
    raise InputError(
        f"cannot tell which column of {table.path} is the {wanted or 'text and which the label'}; "
        f"the columns are {there}. Name them: --text-column NAME --label-column NAME."
    )


def _guess(table: Table, names: Set[str], looks_right: Callable[[Sequence[Any]], bool], taken: str | None) -> list[str]:
    """The columns that may be meant: by name if any is named so, else by what is in them."""
    free = [column for column in table.columns if column != taken]
    named = [column for column in free if column.lower() in names]
    return named or [column for column in free if looks_right([row.get(column) for row in table.rows.values()])]


def _looks_like_text(values: Sequence[Any]) -> bool:
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    spaced = sum(" " in text.strip() for text in texts)
    return bool(texts) and spaced > len(values) / 2 and len(set(texts)) > len(texts) / 2


def _looks_like_label(values: Sequence[Any]) -> bool:
    distinct = {str(value).strip() for value in values}
    return 1 < len(distinct) <= min(MOST_CLASSES, len(values) / 2) and all(len(value) <= 40 for value in distinct)
