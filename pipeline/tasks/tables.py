"""From a task's data to examples: which file, which column, which label, and what is left out and why.

What happens to faulty rows (docs/tasks.md says it for users):

- a row without a text is left out, in every split;
- a training text that stands there twice is kept once; one with two different labels is left out, all its copies;
- a test split is otherwise kept as it is, so that scores stay comparable with others; repeats are warned about.

Two texts are the same where they differ in case and whitespace only.
Importing this module loads neither torch, pyarrow nor datasets.
"""

import difflib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.tasks.faults import Fault, errors_in, shorten
from fourshot.pipeline.tasks.table_files import EXTENSIONS, Table, read_hub, read_table
from fourshot.pipeline.tasks.types import DataSource, Example, Task

SPLIT_ALIASES = {"dev": ("dev", "validation", "valid", "val")}


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """The usable examples of one split, in file order, and what was left out."""

    name: str
    examples: list[Example]
    dropped: dict[str, int] = {}  # why -> rows left out: "empty_text", "duplicate", "contradiction", "in_test_set"
    warnings: tuple[str, ...] = ()  # one sentence each, with lines, for the user


def load_split(task: Task, split: str, limit: int | None = None) -> Split:
    """Load "train", "test" or another split (a file's stem, or the hub's name) of the task's data.

    ``limit`` keeps that many examples, in file order, drawn at random with a seed of its own: every run sees the same.
    Raises `InputError` for a missing file or column, a broken file, a label the task does not know.
    """
    table = load_table(task.data, split)
    examples, lines, faults = label_rows(task, table)
    if errors := errors_in(faults):
        raise InputError("\n".join(str(error) for error in errors))
    loaded = clean(split, table.path, examples, lines)
    return msgspec.structs.replace(loaded, examples=limited(loaded.examples, limit))


def limited(examples: list[Example], limit: int | None) -> list[Example]:
    """``limit`` of the examples, or all, in their order, drawn at random with a seed of its own. Raises InputError."""
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}. Leave it out to use the whole split.")
    if limit is None or limit >= len(examples):
        return examples
    return [examples[index] for index in sorted(random.Random(0).sample(range(len(examples)), limit))]


def load_table(source: DataSource, split: str) -> Table:
    """The rows of one split, as they are. Raises `InputError`."""
    stem = {"train": source.train_split, "test": source.test_split}.get(split, split)
    if source.hub:
        return read_hub(source.hub, source.hub_config, stem)
    path = find_split_file(Path(source.folder), stem) if source.folder else None
    if path is None:
        raise InputError(missing_split(source, stem))
    return read_table(path)


def find_split_file(folder: Path, stem: str) -> Path | None:
    """The file of a split in a folder, or None. Raises `InputError` for two files: which one counts is unclear."""
    stems = SPLIT_ALIASES.get(stem, (stem,))
    found = [path for s in stems for suffix in EXTENSIONS if (path := folder / f"{s}{suffix}").is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise InputError(f"{folder} has {names} for the same split. Keep one of them.")
    return found[0] if found else None


def missing_split(source: DataSource, stem: str) -> str:
    """The message for a folder without a file for a split."""
    folder = Path(source.folder)
    if not source.folder:
        return (
            "the task says neither a hub data set nor a folder. Set $.data.hub or $.data.folder, or give --data FOLDER."
        )
    if not folder.is_dir():
        return f"no such data folder: {folder}. Set $.data.folder, or give a folder that is there with --data."
    there = shorten(sorted(path.name for path in folder.iterdir()), 8) or "nothing"
    kinds = ", ".join(f"{stem}{suffix}" for suffix in EXTENSIONS)
    return f"no file for the split {stem!r} in {folder}: allowed are {kinds}; there is {there}."


def label_rows(task: Task, table: Table) -> tuple[list[Example], list[int], list[Fault]]:
    """Examples of all rows that have a label of the task, empty texts included; their lines; and every fault."""
    source = task.data
    missing = [column for column in (source.text_column, source.label_column) if column not in table.columns]
    if missing:
        names = " and ".join(repr(column) for column in missing)
        there = ", ".join(repr(column) for column in table.columns)
        keys = "Set $.data.text_column and $.data.label_column."
        return [], [], [_error(table.path, f"no column {names}; the columns are {there}.", keys)]
    examples: list[Example] = []
    lines: list[int] = []
    faults: list[Fault] = []
    unknown: dict[str, list[int]] = defaultdict(list)
    class_names = table.class_names.get(source.label_column, ())
    for row, line in zip(table.rows, table.lines, strict=True):
        text = row.get(source.text_column)
        if text is not None and not isinstance(text, str):
            what = f"the text is a {type(text).__name__}, it must be a string."
            faults.append(_error(f"{table.path}:{line}", what, f"Is {source.text_column!r} the text column?"))
            continue
        label = label_name(task, row.get(source.label_column), class_names)
        if label not in task.label_names:
            unknown[label].append(line)
            continue
        examples.append(Example(text=(text or "").strip(), label=label))
        lines.append(line)
    faults += [_unknown_label(task, table, value, at) for value, at in unknown.items()]
    return examples, lines, faults


def label_name(task: Task, value: Any, class_names: Sequence[str] = ()) -> str:
    """The label name that a value in the data stands for; a value that stands for none comes back as text.

    Integers go through ``label_values``, then through the class names that the data set carries with it.
    """
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():  # an integer column with gaps, as tables libraries write it
        value = int(value)
    key = str(value).strip()
    if key in task.data.label_values:
        return task.data.label_values[key]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(class_names):
        key = class_names[value]
    return task.data.label_values.get(key, key)


def clean(split: str, path: str, examples: Sequence[Example], lines: Sequence[int]) -> Split:
    """Leave out what the rules at the head of this module leave out, and say so."""
    copies: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        copies[normalise(example.text)].append(index)
    empty = copies.pop("", [])
    torn = [i for group in copies.values() if len({examples[i].label for i in group}) > 1 for i in group]
    torn_set = set(torn)
    again = [i for group in copies.values() for i in group[1:] if i not in torn_set]
    out = set(empty)
    dropped = {"empty_text": len(empty)}
    warnings = [f"{path}: {_rows(empty)} without a text left out (line {_at(lines, empty)})."] if empty else []
    fate = "kept, as in every test split" if split == "test" else "left out"
    if again:
        warnings.append(f"{path}: {_rows(again)} repeating an earlier text {fate} (line {_at(lines, again)}).")
    if torn:
        warnings.append(
            f"{path}: {_rows(torn)} with a text that has two different labels {fate} (line {_at(lines, torn)})."
        )
    if split != "test":
        out |= {*again, *torn}
        dropped |= {"duplicate": len(again), "contradiction": len(torn)}
    kept = [example for index, example in enumerate(examples) if index not in out]
    return Split(
        name=split,
        examples=kept,
        dropped={why: count for why, count in dropped.items() if count},
        warnings=tuple(warnings),
    )


def drop_overlap(split: Split, test_texts: Iterable[str]) -> Split:
    """Leave out the examples whose text is also a test text: what is measured must not be learned from."""
    known = {normalise(text) for text in test_texts}
    kept = [example for example in split.examples if normalise(example.text) not in known]
    count = len(split.examples) - len(kept)
    if not count:
        return split
    warning = f"{split.name}: {count} text{'s' if count != 1 else ''} also in the test split left out."
    return msgspec.structs.replace(
        split, examples=kept, dropped={**split.dropped, "in_test_set": count}, warnings=(*split.warnings, warning)
    )


def normalise(text: str) -> str:
    """What two texts have in common that count as the same: case and whitespace ignored."""
    return " ".join(text.split()).casefold()


def count_labels(task: Task, examples: Iterable[Example]) -> dict[str, int]:
    """Examples per label name, in the task's order, zeros included."""
    counts = Counter(example.label for example in examples)
    return {name: counts[name] for name in task.label_names}


def _unknown_label(task: Task, table: Table, value: str, at: list[int]) -> Fault:
    near = difflib.get_close_matches(value, task.label_names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    got = f"label {value!r}" if value else "a row without a label"
    what = f"{got} ({_rows(at)}); the task's labels are {', '.join(task.label_names)}.{hint}"
    remedy = "Add it under [[labels]], map it under [data.label_values], or remove the rows."
    return _error(f"{table.path}:{shorten(at, 3)}", what, remedy)


def _error(where: str, what: str, remedy: str = "") -> Fault:
    return Fault(severity="error", where=where, what=what, remedy=remedy)


def _rows(indices: Sequence[int]) -> str:
    return f"{len(indices)} row{'s' if len(indices) != 1 else ''}"


def _at(lines: Sequence[int], indices: Sequence[int]) -> str:
    return shorten(sorted(lines[index] for index in indices))
