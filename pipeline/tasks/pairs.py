"""Load the pairs of a text generation task: find the columns, record what is left out and why, and report faults."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import TaskFault, counted, error, errors_in, note, raise_errors, shorten, warning
from fourshot.pipeline.rows.examples import load_table, normalised_text
from fourshot.pipeline.rows.fields import heading
from fourshot.pipeline.rows.labels.cells import read_text_cell
from fourshot.pipeline.rows.text_table import check_only_name
from fourshot.pipeline.tables.files import ReadSettings, Table, read_settings_of, read_table, scan_table, table_warnings
from fourshot.pipeline.tables.split_files import find_split_file, missing_split
from fourshot.pipeline.tasks.generation import GenerationTask, Pair, PairSource

USUAL_REAL = 100  # pairs to train on by default
COLUMNS = "Set $.data.input_columns and $.data.target_column."


class Pairs(msgspec.Struct, frozen=True, kw_only=True):
    """The usable pairs of one split, in file order, and notes about the others."""

    pairs: list[Pair]
    notes: tuple[str, ...] = ()


class InputRows(msgspec.Struct, frozen=True, kw_only=True):
    """A table without targets: its rows, and the input of each, "" if it has none."""

    path: Path
    columns: tuple[str, ...]
    input_columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    inputs: list[str]
    notes: tuple[str, ...] = ()


def load_pairs(task: GenerationTask, split: str) -> Pairs:
    """Load the pairs of "train" or "test". Raises `InputError` for a missing file or column, or a cell without text.

    Rows without an input or a target are left out, and so are repeated training pairs.
    """
    table = load_table(task.data.tables, split)
    pairs, faults = read_pairs(task.data, table, split)
    raise_errors(faults)
    return Pairs(pairs=pairs, notes=(*map(str, table_warnings(table)), *map(str, faults)))


def read_pairs(source: PairSource, table: Table, split: str) -> tuple[list[Pair], list[TaskFault]]:
    """Return the usable pairs of a table, and all faults of its other rows."""
    needed = [*source.input_columns, source.target_column]
    needed += [source.references_column] if source.references_column and split == "test" else []
    if missing := [column for column in needed if column not in table.columns]:
        column_names = ", ".join(map(repr, table.columns))
        problem = f"no column {' and '.join(map(repr, missing))}; the columns are {column_names}."
        return [], [error(table.path, problem, COLUMNS)]
    pairs, faults, earlier_keys = list[Pair](), list[TaskFault](), set[tuple[str, str]]()
    without, again = list[int](), list[int]()
    for line, row in table.rows.items():
        try:
            text = input_of(row, source.input_columns)
            right = _texts(row.get(source.target_column))
            right += [reference for reference in _texts(row.get(source.references_column)) if reference not in right]
        except TypeError as failure:
            faults.append(error(f"{table.path}:{line}", f"{failure}.", COLUMNS))
            continue
        if not text or not right:
            without.append(line)
            continue
        key = normalised_text(text), normalised_text(right[0])
        if key in earlier_keys:
            again.append(line)
            if split != "test":
                continue
        earlier_keys.add(key)
        pairs.append(Pair(input=text, target=right[0], references=tuple(right) if len(right) > 1 else ()))
    if without:
        problem = f"{counted(len(without), 'row')} without an input or a target left out (line {shorten(without)})."
        faults.append(warning(table.path, problem))
    if again:
        fate = "kept, as in every test split" if split == "test" else "left out"
        problem = f"{counted(len(again), 'row')} repeating an earlier input and target {fate} (line {shorten(again)})."
        faults.append(warning(table.path, problem))
    if not pairs and not errors_in(faults):
        faults.append(error(table.path, "no row has both an input and a target.", COLUMNS))
    return pairs, faults


def input_of(row: dict[str, Any], columns: Sequence[str]) -> str:
    """Return the input in a row. Several columns have a line each, with the name in front; empty ones are omitted.

    Raises TypeError if a cell's content cannot be read as texts.
    """
    parts = [(column, "\n".join(_texts(row.get(column)))) for column in columns]
    if len(parts) == 1:
        return parts[0][1]
    return "\n".join(f"{heading(column)}: {text}" for column, text in parts if text)


def _texts(value: Any) -> list[str]:
    """Return the texts in a cell: one, the items of a list, or one line for an object. Raises TypeError for others."""
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, dict):
        parts = {key: ", ".join(_texts(item)) for key, item in value.items()}
        return ["; ".join(f"{key} = {text}" for key, text in parts.items() if text)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value) if value == value else None
    text = read_text_cell(value)
    if text is None:
        raise TypeError(f"a cell holds {type(value).__name__}, it must hold a text, a list of texts or objects")
    return [text] if text else []


def load_inputs(path: str | Path, source: PairSource, column: str | None = None, encoding: str = "") -> InputRows:
    """Load the inputs of a table without targets. ``column`` and ``encoding`` override those of the task.

    The only column of a table need not be named. Raises `InputError`.
    """
    encoding = encoding or source.encoding
    header = True if column else None  # a given name implies a header line
    table = read_table(Path(path), ReadSettings(encoding=encoding, header=header, offers=("--encoding",)))
    columns = (column,) if column else source.input_columns
    if not column and len(table.columns) == 1 and table.columns[0] not in columns:
        check_only_name(Path(path), table.columns[0])
        columns = table.columns
    if missing := [name for name in columns if name not in table.columns]:
        column_names = ", ".join(map(repr, table.columns))
        raise InputError(
            f"{path} has no column {' and '.join(map(repr, missing))}; the columns are {column_names}. Name that of "
            "the inputs: --text-column NAME."
        )
    inputs, faults = [], []
    for line, row in table.rows.items():
        try:
            inputs.append(input_of(row, columns))
        except TypeError as failure:
            faults.append(error(f"{path}:{line}", f"{failure}.", "Name the column of the inputs: --text-column NAME."))
    raise_errors(faults)
    if not any(inputs):
        raise InputError(f"{path}: all inputs in {' and '.join(map(repr, columns))} are blank. Give at least one.")
    return InputRows(
        path=Path(path),
        columns=table.columns,
        input_columns=columns,
        rows=list(table.rows.values()),
        inputs=inputs,
        notes=tuple(map(str, table_warnings(table))),
    )


def without_tested(pairs: Sequence[Pair], test: Iterable[Pair]) -> tuple[list[Pair], list[str]]:
    """Return the pairs without those whose input is a test input, and notes about those left out.

    Test inputs must not be trained on.
    """
    tested = {normalised_text(pair.input) for pair in test}
    usable_pairs = [pair for pair in pairs if normalised_text(pair.input) not in tested]
    gone = len(pairs) - len(usable_pairs)
    return usable_pairs, [f"train: {counted(gone, 'input')} also in the test split left out"] if gone else []


def load_real(task: GenerationTask) -> tuple[list[Pair], list[Pair], list[str]]:
    """Return the pairs to train on, the test pairs (none without a test file), and notes for the user."""
    source, test = task.data, Pairs(pairs=[])
    if not source.folder or find_split_file(Path(source.folder), source.test_split):
        test = load_pairs(task, "test")
    train = load_pairs(task, "train")
    usable, notes = without_tested(train.pairs, test.pairs)
    return usable, test.pairs, [*test.notes, *train.notes, *notes]


def take_real(pairs: Sequence[Pair], count: int | None, seed: int) -> list[Pair]:
    """Return ``count`` of the pairs in their order, drawn with ``seed``. 0: all; None: `USUAL_REAL`, or all if fewer.

    Raises `InputError` without pairs, or for more than there are.
    """
    if not pairs:
        raise InputError("the train split has no usable pair. Add some.")
    if count is None:
        count = min(USUAL_REAL, len(pairs))
    if count > len(pairs):
        raise InputError(
            f"--real {count}: the train split has {counted(len(pairs), 'pair')}. Give more, or take --real all."
        )
    chosen = random.Random(f"{seed}/real").sample(range(len(pairs)), count or len(pairs))
    return [pairs[index] for index in sorted(chosen)]


def pair_faults(task: GenerationTask) -> list[TaskFault]:
    """Return the faults of a task's data: those of both splits, and a warning about inputs in both."""
    source = task.data
    if not source.hub and not Path(source.folder).is_dir():
        return [error("$.data", missing_split(source.tables, source.train_split))]
    faults, splits = list[TaskFault](), dict[str, list[Pair]]()
    for split, stem in (("train", source.train_split), ("test", source.test_split)):
        try:
            table, table_faults = _scan(source, split, stem)
        except InputError as failure:
            faults.append(error("$.data", str(failure)))
            continue
        if table is None:
            problem = missing_split(source.tables, stem)
            remedy = "Without it nothing is measured."
            faults.append(error("$.data", problem) if split == "train" else warning("$.data", problem, remedy))
            continue
        faults += table_faults
        if not errors_in(table_faults):
            splits[split], more = read_pairs(source, table, split)
            faults += more
            if lengths := sorted(len(pair.target.split()) for pair in splits[split]):
                problem = f"{counted(len(lengths), 'pair')}; targets have {lengths[0]} to {lengths[-1]} words."
                faults.append(note(table.path, problem))
    _, shared = without_tested(splits.get("train", []), splits.get("test", []))
    return faults + [warning("$.data", f"{line}.") for line in shared]


def _scan(source: PairSource, split: str, stem: str) -> tuple[Table | None, list[TaskFault]]:
    if source.hub:
        return load_table(source.tables, split), []
    path = find_split_file(Path(source.folder), stem)
    return scan_table(path, read_settings_of(source.tables)) if path else (None, [])
