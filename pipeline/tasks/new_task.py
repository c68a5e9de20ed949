"""A task folder from a table: a task file, and the rows split into train and test.

Importing this module loads neither torch, pyarrow nor datasets.
"""

import json
import random
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.pipeline.tasks.columns import MOST_CLASSES, find_columns
from fourshot.pipeline.tasks.faults import shorten
from fourshot.pipeline.tasks.table_files import Table, read_table
from fourshot.pipeline.tasks.tables import clean, label_name
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.types import DataSource, Example, Label, Task

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
    task_name = name if name is not None else re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_") or "task"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", task_name):
        raise InputError(f"{task_name!r} cannot be a task's name: letters, digits, '_', '-' and '.' are allowed.")
    labels = _labels(examples, label_column)
    train, test = split_by_label(examples, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        staging.chmod(0o755)  # mkdtemp makes folders that only their owner may read
        _write_rows(staging / "train.jsonl", train)
        if test:
            _write_rows(staging / "test.jsonl", test)
        task_file = staging / f"{task_name}.toml"
        task_file.write_text(_toml(task_name, labels, path.name), encoding="utf-8")
        load_task(task_file)
        staging.rename(out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
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
    reader = Task(name="new", instruction="", noun="", labels=(), data=DataSource())
    class_names = table.class_names.get(label_column, ())
    examples: list[Example] = []
    lines: list[int] = []
    unlabelled: list[int] = []
    for row, line in zip(table.rows, table.lines, strict=True):
        text, label = row.get(text_column), label_name(reader, row.get(label_column), class_names)
        if text is not None and not isinstance(text, str):
            kind = type(text).__name__
            raise InputError(
                f"{table.path}:{line}: {text_column!r} holds a {kind}, texts are strings. Is it the text column?"
            )
        if not label:
            unlabelled.append(line)
        else:
            examples.append(Example(text=(text or "").strip(), label=label))
            lines.append(line)
    if unlabelled:
        raise InputError(
            f"{table.path}: no label in line {shorten(unlabelled)}. Fill in {label_column!r} or remove the rows."
        )
    return clean("train", table.path, examples, lines).examples


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


def _toml(name: str, labels: Sequence[Label], table_name: str) -> str:
    words = [label.read_as for label in labels]
    instruction = f"Classify the text as {', '.join(words[:-1])} or {words[-1]}."
    head = [
        f"# Made from {_one_line(table_name)}. The model reads the instruction, the noun and the label words:",
        "# make them fit, then run: fourshot tasks check FILE",
        f"name = {_quoted(name)}",
        f"instruction = {_quoted(instruction)}",
        'noun = "text" # what one text is, such as "movie review" or "support ticket"',
        "\n[data]",
        'folder = "." # train.jsonl and test.jsonl beside this file',
    ]
    for label in labels:
        head.append(f"\n[[labels]]\nname = {_quoted(label.name)}")
        head.append(f"word = {_quoted(label.word)} # what the model reads and answers; one common word is best")
        head.append(
            f"description = {_quoted(f'labelled {label.word}')} # completes: few examples of texts ... are given"
        )
    return "\n".join(head) + "\n"


def _quoted(text: str) -> str:
    """A TOML basic string. JSON escapes the same way, but leaves DEL as it is, which TOML does not allow."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _write_rows(path: Path, examples: Sequence[Example]) -> None:
    lines = (json.dumps({"text": e.text, "label": e.label}, ensure_ascii=False) for e in examples)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
