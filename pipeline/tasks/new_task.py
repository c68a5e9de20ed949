"""A task folder from a table: a task file, and the rows split into train and test."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.engine.files import append_lines, settle, staged_folder
from fourshot.pipeline.tasks.columns import MOST_CLASSES, find_columns
from fourshot.pipeline.tasks.faults import raise_errors, shorten
from fourshot.pipeline.tasks.table_files import Table, read_table
from fourshot.pipeline.tasks.tables import clean, read_rows
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.types import DataSource, Example, Label

TEST_SHARE = 0.2
SHOTS_LEFT_FOR_TRAIN = 4  # a class gives rows to the test split only beyond these


def new_task(
    table_path: str | Path,
    out_dir: str | Path,
    name: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    seed: int = 0,
) -> Path:
    """Write a task folder from a JSONL, CSV, TSV or Parquet table; returns the path of the task file in it.

    The folder holds ``<name>.toml``, ``train.jsonl`` and ``test.jsonl``: a fifth of each class, drawn with ``seed``, is
    for testing, as long as four rows of the class are left for training. ``name`` defaults to the table's. Columns are
    guessed where there is no doubt. The folder appears complete or not at all.

    Raises `InputError`: unreadable or empty table, columns in doubt, one class only, more than 100 classes, labels that
    read the same, a folder that has something in it.
    """
    path, out = Path(table_path), Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out} exists and is not empty; nothing was written. Choose another folder, or remove this one."
        )
    table = read_table(path)
    text_column, label_column = find_columns(table, text_column, label_column)
    examples = _examples(table, text_column, label_column)
    task_name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_") or "task" if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", task_name):
        raise InputError(f"{task_name!r} cannot be a task's name: letters, digits, '_', '-' and '.' are allowed.")
    labels = _labels(examples, label_column)
    train, test = split_by_label(examples, seed)
    with staged_folder(out.parent, out.name) as staged:
        append_lines(staged / "train.jsonl", train)
        if test:
            append_lines(staged / "test.jsonl", test)
        task_file = staged / f"{task_name}.toml"
        task_file.write_text(_task_file(task_name, labels, path.name), encoding="utf-8")
        load_task(task_file)
        settle(staged, out)
    return out / task_file.name


def split_by_label(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """(train, test): a fifth of each class for testing, drawn with ``seed``; both keep the order of ``examples``."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        places[example.label].append(index)
    chosen: set[int] = set()
    for label, indices in places.items():
        count = max(0, min(round(TEST_SHARE * len(indices)), len(indices) - SHOTS_LEFT_FOR_TRAIN))
        chosen.update(random.Random(f"{seed}/{label}").sample(indices, count))
    train = [example for index, example in enumerate(examples) if index not in chosen]
    return train, [examples[index] for index in sorted(chosen)]


def label_word(name: str) -> str:
    """The word a model reads for a label's name: "billing_issue", "billingIssue" -> "billing issue"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[_\-/.:|]+", " ", spaced).split()).lower() or name


def _examples(table: Table, text_column: str, label_column: str) -> list[Example]:
    rows, faults = read_rows(DataSource(text_column=text_column, label_column=label_column), table)
    raise_errors(faults)
    if unlabelled := [line for line, example in rows if not example.label]:
        raise InputError(
            f"{table.path}: no label in line {shorten(unlabelled)}. Fill in {label_column!r} or remove the rows."
        )
    return clean("train", table.path, rows).examples


def _labels(examples: Sequence[Example], column: str) -> list[Label]:
    counts = Counter(example.label for example in examples)
    if len(counts) < 2:
        got = f"only {next(iter(counts))!r}" if counts else "nothing usable"
        raise InputError(f"a task needs at least 2 classes; the column {column!r} has {got}. Is it the label column?")
    if len(counts) > MOST_CLASSES or len(counts) > max(2, len(examples) / 2):
        raise InputError(
            f"the column {column!r} has {len(counts)} different values in {len(examples)} rows; allowed are at most "
            f"{MOST_CLASSES} classes, of two rows or more on average. Is it the label column? To name another: "
            "--label-column NAME."
        )
    by_word: dict[str, list[str]] = defaultdict(list)
    for name in sorted(counts):
        by_word[label_word(name)].append(name)
    if same := [names for names in by_word.values() if len(names) > 1]:
        groups = "; ".join(" and ".join(map(repr, names)) for names in same)
        raise InputError(f"labels that read the same: {groups}. Write each class in one way only, or rename one.")
    return [Label(name=names[0], word=word) for word, names in by_word.items()]


def _task_file(name: str, labels: Sequence[Label], table_name: str) -> str:
    """The task file, with comments for whoever completes it: they are why it is not one call of `tomli_w`."""
    words = [label.read_as for label in labels]
    blocks = [
        f"""\
# Made from {" ".join(table_name.split())}. The model reads the instruction, the noun and the label words:
# make them fit, then run: fourshot tasks check FILE
{_pair("name", name)}
{_pair("instruction", f"Classify the text as {', '.join(words[:-1])} or {words[-1]}.")}
noun = "text" # what one text is, such as "movie review" or "support ticket"

[data]
folder = "." # train.jsonl and test.jsonl beside this file
"""
    ]
    for label in labels:
        blocks.append(f"""\
[[labels]]
{_pair("name", label.name)}
{_pair("word", label.word)} # what the model reads and answers; one common word is best
{_pair("description", f"labelled {label.word}")} # completes: few examples of texts ... are given
""")
    return "\n".join(blocks)


def _pair(key: str, value: str) -> str:
    import tomli_w

    return tomli_w.dumps({key: value}).rstrip("\n")
