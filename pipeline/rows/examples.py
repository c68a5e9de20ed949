"""Load examples from a task's data: find the file, the columns and the labels, and record what is left out and why.

Rows with problems are handled as follows (docs/tasks.md describes this for users):

- a row without a text is left out, in every split;
- a repeated training text is kept once; if its copies have different labels, all of them are left out;
- a test split is otherwise kept as it is, so that scores stay comparable with others; repeats cause a warning.

Two texts are equal if they differ only in case, whitespace and the encoding of accents.
"""

import random
import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import (
    MOST_NAMED,
    TaskFault,
    counted,
    error,
    nearest,
    note,
    raise_errors,
    shorten,
    warning,
)
from fourshot.pipeline.rows.columns import verdict_columns
from fourshot.pipeline.rows.fields import no_text_in, row_input
from fourshot.pipeline.rows.labels.cells import LabelCell, read_label, visible
from fourshot.pipeline.tables.files import Table, read_settings_of, read_table, table_warnings
from fourshot.pipeline.tables.hub import read_hub
from fourshot.pipeline.tables.split_files import SPLIT_ALIASES, find_split_file, missing_split
from fourshot.pipeline.task import DataSource, Example, Task

ONE_LABEL = "A task has one class per text: keep one label, or leave the row out."
WHOLE = re.compile(r"[+-]?\d+\.0+")  # an integer in a column with gaps, as table libraries write it
T = TypeVar("T")
Lined = tuple[int, Example]  # an example and its line in the file


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """The usable examples of one split, in file order, and what was left out."""

    name: str
    examples: list[Example]
    dropped: dict[str, int] = {}  # reason -> rows left out: "empty_text", "duplicate", "contradiction", "in_test_set"
    lines: dict[str, tuple[int, ...]] = {}  # reason -> lines of all rows left out of the file
    warnings: tuple[str, ...] = ()  # one sentence each, with lines, for the user


def load_split(task: Task, split: str, limit: int | None = None) -> Split:
    """Load "train", "test" or another split (a file's stem, or the hub's name) of the task's data.

    ``limit``: at most this many examples, drawn at random with a fixed seed, in file order. Every run gets the same.
    Raises `InputError` for a missing file or column, a broken file, or a label that the task lacks.
    """
    table = load_table(task.data, split)
    rows, faults = label_rows(task, table)
    raise_errors(faults)
    loaded = clean(split, table.path, rows, task.input_fields)
    if elsewhere := substitute_split_note(task.data, split):
        faults = [note(split, elsewhere), *faults]
    return msgspec.structs.replace(
        loaded,
        examples=limited(loaded.examples, limit),
        dropped={**{part.reason: part.count for part in table.left_out}, **loaded.dropped},
        warnings=(*map(str, table_warnings(table)), *map(str, faults), *loaded.warnings),
    )


def limited(examples: list[T], limit: int | None) -> list[T]:
    """Return ``limit`` examples in their order, drawn with a fixed seed; None: all. Raises InputError if below 1."""
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}. To use the whole split, leave --test-limit out.")
    if limit is None or limit >= len(examples):
        return examples
    return [examples[index] for index in sorted(random.Random(0).sample(range(len(examples)), limit))]


def substitute_split_note(source: DataSource, split: str) -> str:
    """Return a message about which file of the folder is the split, if its name differs; else ""."""
    stem = {"train": source.train_split, "test": source.test_split}.get(split, split)
    if not source.folder or stem == split or stem in SPLIT_ALIASES.get(split, ()):
        return ""
    return f"the texts are those of {stem!r} in {source.folder}."


def load_table(source: DataSource, split: str) -> Table:
    """Read the rows of one split, unchanged. Raises `InputError`."""
    stem = {"train": source.train_split, "test": source.test_split}.get(split, split)
    if source.hub:
        return read_hub(source.hub, source.hub_config, stem)
    path = find_split_file(Path(source.folder), stem) if source.folder else None
    if path is None:
        raise InputError(missing_split(source, stem))
    return read_table(path, read_settings_of(source))


def label_rows(task: Task, table: Table) -> tuple[list[Lined], list[TaskFault]]:
    """Return (line, example) for the rows with a label of the task, including empty texts; and all faults."""
    source = task.data
    columns = (*task.input_columns, source.label_column)
    missing = [column for column in columns if column not in table.columns]
    if missing:
        named = ", ".join(map(repr, table.columns))
        problem = f"no column {' and '.join(map(repr, missing))}; the columns are {named}."
        keys = "$.fields" if task.input_fields else "$.data.text_column"
        no, do = ("a", "remove") if source.header is False else ("no", "set")
        remedy = (
            f"Rename the columns of this file to {' and '.join(map(repr, columns))}; or, if all files of the task have "
            f"others, set {keys} and $.data.label_column. If {no} line names the columns, {do} $.data.header = false."
        )
        if missing == [source.label_column]:
            remedy += " Rows without labels cannot be used for training or testing: remove such a file."
        return [], [error(table.path, problem, remedy)]
    rows, faults = read_rows(task, table)
    gone = {line: example.label for line, example in rows if example.label in (source.leave_out or ())}
    if gone:
        names = shorten(sorted(set(gone.values())), MOST_NAMED)
        faults.append(warning(table.path, f"{counted(len(gone), 'row')} left out, as $.data.leave_out says: {names}."))
        rows = [(line, example) for line, example in rows if line not in gone]
    unknown: dict[str, list[int]] = defaultdict(list)
    for line, example in rows:
        if example.text and example.label not in task.label_names:
            unknown[example.label].append(line)
    faults += [_unknown_label(task, table, value, lines) for value, lines in unknown.items()]
    faults += [
        warning(
            table.path,
            f"the column {column!r} says which rows a person rejected; they are used anyway.",
            f"Remove them, or make the task with: fourshot tasks new TABLE --verdict-column {shlex.quote(column)}",
        )
        for column in verdict_columns(table)
        if column not in columns
    ]
    return [(line, example) for line, example in rows if example.label not in unknown], faults


def read_rows(task: Task, table: Table) -> tuple[list[Lined], list[TaskFault]]:
    """Return the rows with a string as text and at most one label, and a fault for each other. No label is ""."""
    rows: list[Lined] = []
    faults: list[TaskFault] = []
    source, names = task.data, task.label_names
    # Content of a cell -> label: its name, also in its normalised Unicode form.
    label_of = {visible(name): name for name in names} | {name: name for name in names}
    for line, row in table.rows.items():
        place, text = f"{table.path}:{line}", row_input(task, row)
        if text is None:
            column = no_text_in(row, task.input_columns)
            problem = f"the text is a {type(row[column]).__name__}, it must be a string."
            faults.append(error(place, problem, f"Is {column!r} the text column?"))
            continue
        try:
            labels = find_labels(source, table, row.get(source.label_column), label_of).labels
        except ValueError as failure:
            faults.append(error(place, f"the label is {failure}.", "Write one label as a string or a number."))
            continue
        if len(labels) > 1:
            faults.append(error(place, f"the labels {', '.join(map(repr, labels))} in one cell. {ONE_LABEL}"))
            continue
        rows.append((line, Example(text=text, label=labels[0] if labels else "")))
    return rows, faults


def find_labels(source: DataSource, table: Table, value: Any, label_of: Mapping[str, str]) -> LabelCell:
    """Return the labels in a cell, mapped with ``label_values`` and ``label_of``; unknown ones are returned as text.

    Integers are looked up in ``label_values``, and then in the class names stored with the data set. Raises ValueError
    if the cell's content is not a label.
    """
    class_names = table.class_names.get(source.label_column, ())
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    key = str(value).strip()
    if key.casefold() in ("true", "false") and key not in source.label_values:  # TOML and JSON write true, Excel TRUE
        key = next((name for name in source.label_values if name.casefold() == key.casefold()), key)
    if WHOLE.fullmatch(key) and key not in source.label_values and key not in label_of:
        integer = key.partition(".")[0]
        if integer in source.label_values or integer in label_of:
            key = value = integer
    if key in source.label_values and value is not None:
        return LabelCell((source.label_values[key],))
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(class_names):
        value = key = class_names[value]
    if class_names and isinstance(value, list):
        value = [
            class_names[item] if isinstance(item, int) and 0 <= item < len(class_names) else item for item in value
        ]
    if class_names and value == -1:  # how `datasets` marks a row without a label
        return LabelCell(())
    if class_names and isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"the class number {value}, but the file has names for 0 to {len(class_names) - 1}")
    if key in label_of and isinstance(value, str):
        return LabelCell((source.label_values.get(key, label_of[key]),))
    if isinstance(value, bool):  # it has no spelling of its own: the label may be called True, true or TRUE
        key = next((name for name in label_of if name.casefold() == str(value).casefold()), key)
        return LabelCell((source.label_values.get(key, key),))
    cell = read_label(value)
    return cell._replace(labels=tuple(source.label_values.get(key, label_of.get(key, key)) for key in cell.labels))


def clean(split: str, path: str, rows: Sequence[Lined], fields: Sequence[str] = ()) -> Split:
    """Leave out rows by the rules in this module's docstring, and record them with warnings."""
    copies: dict[str, list[Lined]] = defaultdict(list)
    for line, example in rows:
        copies[normalised_text(example.text)].append((line, example))
    empty = copies.pop("", [])
    contradicting, again = [], []
    for group in copies.values():
        if len({example.label for _, example in group}) > 1:
            contradicting += group
        else:
            again += group[1:]
    of_fields = f" in one of {', '.join(fields)}" if fields else ""
    fate = "kept, as in every test split" if split == "test" else "left out"
    left_out: dict[str, list[Lined]] = {}
    warnings = []
    for reason, group, description in (
        ("empty_text", empty, f"without a text{of_fields} left out"),
        ("duplicate", again, f"repeating an earlier text {fate}"),
        ("contradiction", contradicting, f"with a text that has two different labels {fate}"),
    ):
        if group:
            lines = shorten(sorted(line for line, _ in group))
            warnings.append(f"{path}: {counted(len(group), 'row')} {description} (line {lines}).")
            if split != "test" or reason == "empty_text":
                left_out[reason] = group
    out = {line for group in left_out.values() for line, _ in group}
    return Split(
        name=split,
        examples=[example for line, example in rows if line not in out],
        dropped={reason: len(group) for reason, group in left_out.items()},
        lines={reason: tuple(sorted(line for line, _ in group)) for reason, group in left_out.items()},
        warnings=tuple(warnings),
    )


def drop_overlap(split: Split, test_texts: Iterable[str]) -> Split:
    """Leave out the examples whose text is also a test text, because test texts must not be trained on."""
    tested = {normalised_text(text) for text in test_texts}
    usable = [example for example in split.examples if normalised_text(example.text) not in tested]
    count = len(split.examples) - len(usable)
    if not count:
        return split
    warning = f"{split.name}: {counted(count, 'text')} also in the test split left out."
    return msgspec.structs.replace(
        split, examples=usable, dropped={**split.dropped, "in_test_set": count}, warnings=(*split.warnings, warning)
    )


def normalised_text(text: str) -> str:
    """Return the form by which texts are compared, without differences in case, whitespace and encoding of accents."""
    return unicodedata.normalize("NFC", " ".join(text.split()).casefold())


def count_labels(task: Task, examples: Iterable[Example]) -> dict[str, int]:
    """Return the number of examples per label name, in the task's order, including zeros."""
    counts = Counter(example.label for example in examples)
    return {name: counts[name] for name in task.label_names}


def _unknown_label(task: Task, table: Table, value: str, lines: list[int]) -> TaskFault:
    subject = f"label {value!r}" if value else "a row without a label"
    labels = f"the task's labels are {shorten(task.label_names, MOST_NAMED)}."
    alike = [name for name in task.label_names if name.casefold() == value.casefold()]
    hint = f"Did you mean {alike[0]!r}?" if alike else nearest(value, task.label_names)
    if left_out := [name for name in task.data.leave_out or () if name.casefold() == value.casefold()]:
        hint = f"$.data.leave_out has {left_out[0]!r}, in another spelling."
    problem = f"{subject} ({counted(len(lines), 'row')}); {labels} {hint}".rstrip()
    remedy = "Add it under [[labels]], map it under [data.label_values], or remove the rows"
    remedy += f" (leave_out = [{value!r}] under [data] leaves them out)."
    if not value:
        remedy = "Fill it in, or remove the rows."
    if value in ("-1", "") and len(lines) == len(table.rows):
        problem = f"{subject} ({counted(len(lines), 'row')}) and no other: the split has no labels, and {labels}"
        remedy = 'Public test splits often have none. Name one with labels, such as $.data.test_split = "validation".'
    return error(f"{table.path}:{shorten(lines, 3)}", problem, remedy)
