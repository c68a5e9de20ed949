"""Create a task folder from a table: a task file, training and test rows, and a record of what was left out."""

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import append_lines, settle, staged_folder
from fourshot.pipeline.faults import LeftOut, TaskFault, errors_in, warning
from fourshot.pipeline.rows.fields import split_fields
from fourshot.pipeline.rows.labels.words import is_meaningless, label_word, propose_words
from fourshot.pipeline.rows.text_table import MADE_FROM
from fourshot.pipeline.rows.usable_rows import TableChoices, UsableRows, usable_rows
from fourshot.pipeline.tables.file_bytes import table_stem
from fourshot.pipeline.tables.files import Table, read_table
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.classes import label_counts
from fourshot.pipeline.tasks.table_doubts import doubts_of_table, splits_beside
from fourshot.pipeline.tasks.task_check import field_faults, name_problem
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.wording import MOST_LISTED

TEST_SHARE = 0.2
SHOTS_LEFT_FOR_TRAIN = 4  # rows of a class that are never used for testing
MOST_CLASSES = 1000  # of a label column that the user did not name: more are probably ids or texts
NO_TEST = f"no row is left for testing: only classes with more than {SHOTS_LEFT_FOR_TRAIN} rows provide some."
TEST_WANTED = (
    "Add rows, or write test.jsonl or test.csv beside the task file, with the columns of train.jsonl: "
    "otherwise runs measure nothing."
)
UNDECIDED = TableChoices()


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """How a table was used: each of its rows is in the task or counted as left out. Stored beside the task."""

    task_file: str
    table: str
    rows: int  # of the table
    unit: str  # what the numbers of its rows count: "line" or "row"
    train: int
    test: int
    text_columns: tuple[str, ...]
    fields: tuple[str, ...] | UnsetType = UNSET  # these columns, where they are fields of an input
    label_columns: tuple[str, ...]
    verdict_column: str  # "" where there is none
    other_text_columns: tuple[str, ...]  # that may have been meant
    other_label_columns: tuple[str, ...]
    labels: dict[str, int]  # name -> rows in the task
    asked_words: dict[str, str]  # name of a label whose word is meaningless to a model -> a proposed word, or ""
    left_out: tuple[LeftOut, ...]
    notices: tuple[TaskFault, ...]


def new_task(
    table_path: str | Path,
    out_dir: str | Path,
    choices: TableChoices = UNDECIDED,
    name: str | None = None,
    seed: int = 0,
) -> NewTask:
    """Write a task folder from a table that `read_table` reads. Return how its rows were used.

    The folder contains ``<name>.toml``, ``train.jsonl``, ``test.jsonl`` and `MADE_FROM`. A fifth of each class, drawn
    with ``seed``, is for testing, as long as four rows of the class remain for training. ``name`` defaults to that of
    the table. Columns that are not given are determined if that is unambiguous. The folder appears complete or not at
    all.

    Raises `InputError` for an unreadable or empty table, ambiguous columns, rows that cannot be used, a single class,
    or labels that read the same. It is also raised for more than 1,000 classes in a column that was not named, and for
    a folder that is not empty.
    """
    path, out = Path(table_path), Path(out_dir)
    is_table = path.exists() and out.exists() and out.samefile(path)  # a table without a suffix
    if out.exists() and not is_table and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out} exists and is not empty; nothing was written. Choose another folder, or remove this one."
        )
    task_name = re.sub(r"[^a-z0-9]+", "_", table_stem(path).lower()).strip("_") or "task" if name is None else name
    if problem := name_problem(task_name):
        raise InputError(f"{problem} Give one: --name NAME")
    _check_fields(choices)
    reading = choices.reading
    if reading.header is None and (choices.text_columns or choices.fields) and choices.label_columns:
        reading = msgspec.structs.replace(reading, header=True)  # given column names imply a header line
    table = read_table(path, reading)
    if is_table:
        raise InputError(f"{out} is the table itself; nothing was written. Name the task's folder: --out FOLDER.")
    usable = usable_rows(table, choices)
    train, test = split_by_label(usable.examples, seed)
    task = _summary(f"{task_name}.toml", table, choices, usable, len(train), len(test))
    place = out.resolve()
    with staged_folder(place.parent, place.name) as staged:
        append_lines(staged / "train.jsonl", _rows(train, choices.fields))
        if test:
            append_lines(staged / "test.jsonl", _rows(test, choices.fields))
        (staged / MADE_FROM).write_bytes(msgspec.json.format(msgspec.json.encode(task)))
        task_file = staged / task.task_file
        task_file.write_text(_task_file(task_name, task, usable.examples), encoding="utf-8")
        load_task(task_file)
        if out.exists():  # empty; it may be a link, or the user's working directory, which cannot be replaced
            for file in sorted(staged.iterdir(), key=lambda file: file == task_file):  # the task file comes last
                file.rename(place / file.name)
        else:
            settle(staged, place)
    return msgspec.structs.replace(task, task_file=str(out / task.task_file))


def _summary(task_file: str, table: Table, choices: TableChoices, usable: UsableRows, train: int, test: int) -> NewTask:
    """Return the record of a table of whose rows ``train`` are for training and ``test`` for testing.

    Raises InputError as `label_counts` does, such as for more than 1,000 classes in a column that was not named.
    """
    columns = usable.columns
    counts = label_counts(table, usable, most=None if choices.label_columns else MOST_CLASSES)
    proposals = propose_words(list(counts))
    asked_words = {
        name: proposals.get(name, "") for name in counts if is_meaningless(name) or is_meaningless(label_word(name))
    }
    notices = [
        *usable.notices,
        *doubts_of_table(table, columns, usable.examples, counts, asked_words),
        *splits_beside(Path(table.path)),
    ]
    if not test:
        notices.append(warning(table.path, NO_TEST, TEST_WANTED))
    return NewTask(
        task_file=task_file,
        table=table.path,
        rows=len(table.rows) + sum(part.count for part in table.left_out),
        unit=table.unit,
        train=train,
        test=test,
        text_columns=columns.texts,
        fields=choices.fields or UNSET,
        label_columns=columns.labels,
        verdict_column=columns.verdict,
        other_text_columns=columns.other_texts,
        other_label_columns=columns.other_labels,
        labels=counts,
        asked_words=asked_words,
        left_out=usable.left_out,
        notices=tuple(notices),
    )


def _check_fields(choices: TableChoices) -> None:
    """Raise InputError for fields that a task cannot have, and for fields beside text columns."""
    fields = choices.fields
    if not fields:
        return
    if choices.text_columns:
        raise InputError("--field and --text-column were both given; an input has fields or is a text. Leave one out.")
    if len(fields) < 2:
        raise InputError(f"one --field ({fields[0]!r}); an input has two or more. For one column: --text-column.")
    if faults := errors_in(field_faults(list(fields))):
        raise InputError("--field: " + " ".join(map(str, faults)))


def _rows(examples: Sequence[Example], fields: Sequence[str]) -> Sequence[Example | dict[str, str]]:
    """Return the rows as they are written to the files of a task: with ``fields``, a column each."""
    if not fields:
        return examples
    return [{**(split_fields(fields, example.text) or {}), "label": example.label} for example in examples]


def split_by_label(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Return (train, test): a fifth of each class is for testing, drawn with ``seed``. Both keep the examples' order.

    At least `SHOTS_LEFT_FOR_TRAIN` examples of each class are for training.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        places[example.label].append(index)
    chosen: set[int] = set()
    for label, indices in places.items():
        count = max(0, min(round(TEST_SHARE * len(indices)), len(indices) - SHOTS_LEFT_FOR_TRAIN))
        chosen.update(random.Random(f"{seed}/{label}").sample(indices, count))
    train = [example for index, example in enumerate(examples) if index not in chosen]
    return train, [examples[index] for index in sorted(chosen)]


def _task_file(name: str, task: NewTask, examples: Sequence[Example]) -> str:
    """Return the task file, with comments for the user who completes it. `tomli_w` cannot write comments."""
    words = [label_word(label) for label in task.labels]
    joined = f"\n# Each text is the columns {' and '.join(map(repr, task.text_columns))}, one after the other."
    names = ", ".join(_pair("", field).partition(" = ")[2] for field in task.fields or ())
    fields = f"fields = [{names}] # of an input, each on a line of its own\n" if task.fields else ""
    blocks = [
        f"""\
# Made from {_inline(Path(task.table).name)}. The model reads the instruction, the noun and the label words:
# make them fit, then run: fourshot tasks check FILE{joined if len(task.text_columns) > 1 and not task.fields else ""}
{_pair("name", name)}
{_pair("instruction", _instruction(words))}
noun = "text" # what one text is, such as "movie review" or "support ticket"; several: noun_plural
{fields}
[data]
folder = "." # train.jsonl{" and test.jsonl" if task.test else ""} beside this file; {MADE_FROM} says what was left out
"""
    ]
    for label, word in zip(task.labels, words, strict=True):
        blocks.append(f"""\
[[labels]]
{_pair("name", label)}
{_word_comment(label, task.asked_words.get(label, ""), examples) if label in task.asked_words else ""}\
{_pair("word", word)} # what the model reads and answers; one common word is best
{_pair("description", f"labelled {word}")} # completes: few examples of texts ... are given
""")
    return "\n".join(blocks)


def _instruction(words: Sequence[str]) -> str:
    if len(words) > MOST_LISTED:
        return f"Classify the text. There are {len(words)} labels, such as {', '.join(words[:3])}."
    if any("," in word or " or " in word for word in words):  # else it is unclear where one ends
        words = [f'"{word}"' for word in words]
    return f"Classify the text as {', '.join(words[:-1])} or {words[-1]}."


def _word_comment(label: str, proposal: str, examples: Sequence[Example]) -> str:
    """Return the comments above a meaningless word: a proposal, and the beginnings of two texts of the class."""
    texts = islice((_inline(example.text)[:80] for example in examples if example.label == label), 2)
    such = f"Proposed: {_pair('word', proposal)}" if proposal else "Such texts are:"
    lines = [f"The word below means nothing to a model. Write what the class means. {such}", *texts]
    return "".join(f"# {line}\n" for line in lines)


def _inline(text: str) -> str:
    """Return ``text`` in a form for comments: on one line, without control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _pair(key: str, value: str) -> str:
    import tomli_w

    return tomli_w.dumps({key: value}).rstrip("\n")
