"""Warn the user about parts of a table that a task made from it does not use, or that cannot be learnt."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fourshot.pipeline.faults import TaskFault, counted, note, shorten, warning
from fourshot.pipeline.rows.columns import Columns
from fourshot.pipeline.rows.labels.words import reads_as
from fourshot.pipeline.tables.file_bytes import table_ending, table_stem
from fourshot.pipeline.tables.files import Table
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.classes import words_elsewhere

SPLITS = {"train", "training", "test", "testing", "dev", "val", "valid", "validation", "eval", "holdout"}
SPLIT_NAMES = {"split", "fold", "is_test", "is_train", "ml_use"}  # "ml_use": Vertex AI
MOST_SPLITS = 10  # values of a column that says which rows are for testing
MOST_SPELLED = 12  # characters for each one of a label that a text may be: some HTML entities have that many
_KEEP_SPLITS = "To keep its splits, write a file for each: docs/tasks.md says how."


def doubts_of_table(
    table: Table,
    columns: Columns,
    examples: Sequence[Example],
    names: Iterable[str],
    asked_words: Mapping[str, str],
) -> list[TaskFault]:
    """Return warnings and notes about unused columns, and about texts or labels from which nothing can be learnt."""
    return [
        *words_elsewhere(table, columns, asked_words),
        *_question(table, columns, names),
        *_own_splits(table, columns),
        *_label_as_text(table, examples),
    ]


def splits_beside(path: Path) -> list[TaskFault]:
    """Return a warning about a test file beside a training file, since it is not used as the test split."""
    stem = table_stem(path)
    if not path.is_file() or not re.search("train", stem, re.IGNORECASE):
        return []
    others = {re.sub("train(ing)?", split, stem, flags=re.IGNORECASE).lower() for split in SPLITS}
    others -= {stem.lower()}
    beside = sorted(
        file.name
        for file in path.parent.iterdir()
        if file.is_file() and table_ending(file) and table_stem(file).lower() in others
    )
    if not beside:
        return []
    problem = f"beside it, {shorten(beside)} is not read: the test rows are drawn from {path.name}."
    return [warning(str(path), problem, _KEEP_SPLITS)]


def _question(table: Table, columns: Columns, names: Iterable[str]) -> list[TaskFault]:
    """Return a note that labels such as true and false need a question as the instruction."""
    if {name.casefold() for name in names} not in ({"true", "false"}, {"yes", "no"}):
        return []
    problem = (
        f"{' and '.join(names)} in the column {columns.labels[0]!r} answer a question that the model does not know."
    )
    return [note(table.path, problem, 'Write it as the instruction, such as "Is the text a complaint?"')]


def _label_as_text(table: Table, examples: Sequence[Example]) -> list[TaskFault]:
    """Return a warning about texts that consist only of their label, from which nothing can be learnt."""
    short = (example for example in examples if len(example.text) <= MOST_SPELLED * len(example.label))
    if not (same := [example.text for example in short if reads_as(example.text) == reads_as(example.label)]):
        return []
    problem = (
        f"{counted(len(same), 'text')} {'is' if len(same) == 1 else 'are'} only the label, such as {same[0][:60]!r}."
    )
    return [warning(table.path, problem, "Are these the columns of texts and labels?")]


def _own_splits(table: Table, columns: Columns) -> list[TaskFault]:
    """Return a warning about a column that assigns rows to splits, since test rows are drawn anew."""
    for column in table.columns:
        if column in (*columns.texts, *columns.labels):
            continue
        counts = Counter(
            ("" if (value := row.get(column)) is None else str(value)).strip().lower() for row in table.rows.values()
        )
        del counts[""]
        in_splits = sum(counts[split] for split in SPLITS)
        is_called_so = column.strip().lower() in SPLIT_NAMES
        if 1 < len(counts) <= MOST_SPLITS and (is_called_so or in_splits > counts.total() / 2):
            problem = f"the column {column!r} ({', '.join(sorted(counts))}) is not used: the test rows are drawn anew."
            return [warning(table.path, problem, _KEEP_SPLITS)]
    return []
