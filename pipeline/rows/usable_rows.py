"""Convert a table into the examples of a task, and record which rows were left out or had labels rewritten.

Every row of the table is an example, or is counted as left out once. Rows that cannot be used are errors, reported all
at once, unless the user asked to leave them out.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import LeftOut, TaskFault, counted, note, shorten, warning
from fourshot.pipeline.rows.column_looks import plain_cell
from fourshot.pipeline.rows.columns import Columns, find_columns, is_accepted
from fourshot.pipeline.rows.examples import ONE_LABEL, Lined, clean, find_labels
from fourshot.pipeline.rows.fields import input_in, no_text_in
from fourshot.pipeline.rows.labels.cells import TREATMENTS, LabelCell, joined_labels, read_text_cell
from fourshot.pipeline.rows.labels.words import names_alike, reads_as
from fourshot.pipeline.rows.row_doubts import LONG_NAME, doubts_of_rows
from fourshot.pipeline.tables.files import AS_FOUND, ReadSettings, Table
from fourshot.pipeline.task import DataSource, Example

WHAT = {  # reason -> what completes "3 rows ..."
    "empty_text": "without a text",
    "not_text": "whose text is not a string",
    "no_label": "without a label",
    "not_label": "whose label is an object, a nested list or a value without a name",
    "several_labels": "with several labels",
    "marked_missing": "with a label that means none (--missing-label)",
    "duplicate": "repeating an earlier text with the same label",
    "contradiction": "with a text that has two different labels",
}
REFUSED = {  # reason -> the finding, and what to do other than leaving such rows out
    "not_text": ("a text that is not a string", "Is it the text column?"),
    "no_label": ("no label", "Fill it in, or remove the rows."),
    "not_label": (
        "no label that can be read",
        "Write one as a string or a number, not as an object or a nested list. With several annotators, a row each.",
    ),
    "several_labels": ("several labels", ONE_LABEL),
}


class TableChoices(msgspec.Struct, frozen=True, kw_only=True):
    """A user's choices about a table, for what it does not determine itself."""

    text_columns: tuple[str, ...] = ()  # (): found by name and contents
    fields: tuple[str, ...] = ()  # columns that are fields of an input, in place of a text
    label_columns: tuple[str, ...] = ()  # several: of one annotator each
    verdict_column: str = ""  # "none": there is none
    missing_labels: tuple[str, ...] = ()  # labels that mean: not labelled
    merge_labels: bool = False  # make labels that read the same one class
    reading: ReadSettings = AS_FOUND  # its `skip_broken` also leaves out the rows of `REFUSED`


class UsableRows(msgspec.Struct, frozen=True, kw_only=True):
    """The examples of a table, in its order, and what became of the other rows."""

    examples: list[Example]
    columns: Columns
    left_out: tuple[LeftOut, ...]  # with all their lines
    notices: tuple[TaskFault, ...]


BLANK_PART = "blank part"
Lines = dict[str, list[int]]  # reason, or treatment of the label -> lines of the table


def usable_rows(table: Table, choices: TableChoices) -> UsableRows:
    """Return the examples of a table. Raises `InputError` for ambiguous columns, or for all unusable rows at once."""
    texts = choices.fields or choices.text_columns
    columns = find_columns(table, texts, choices.label_columns, choices.verdict_column)
    rows, out, treated_lines = _sort_rows(table, columns, choices)
    blank_lines = treated_lines.pop(BLANK_PART, [])
    place = f"{table.path}: column {' and '.join(map(repr, columns.labels))}"
    notices = [
        note(place, f"{counted(len(lines), 'label')} {TREATMENTS[key]}{_at(table, lines)}.")
        for key, lines in treated_lines.items()
    ]
    if blank_lines:
        what = f"{counted(len(blank_lines), 'text')} with a blank part{_at(table, blank_lines)}"
        where = f"{table.path}: column {' and '.join(map(repr, columns.texts))}"
        notices.append(note(where, f"{what}: only the other parts are used."))
    joined = joined_labels({example.label for _, example in rows})
    out["several_labels"] += [line for line, example in rows if example.label in joined]
    _refuse(table, columns, out, choices, joined)
    rows, renamed = _in_one_spelling([row for row in rows if row[1].label not in joined], choices.merge_labels)
    notices += [
        note(place, f"{old!r} was read as {new!r} in {counted(len(lines), 'row')}{_at(table, lines)}.")
        for (old, new), lines in renamed.items()
    ]
    split = clean("train", table.path, rows)
    left_out = [
        LeftOut(reason=reason, what=_noun(reason, columns, choices), count=len(lines), lines=tuple(sorted(lines)))
        for reason in dict.fromkeys([*out, *split.lines])
        if (lines := [*out[reason], *split.lines.get(reason, ())])
    ]
    return UsableRows(
        examples=split.examples,
        columns=columns,
        left_out=(*table.left_out, *left_out),
        notices=(
            *table.notices,
            *notices,
            *doubts_of_rows(place, table, columns, rows, split.examples),
            *_skipped_for_name(table, columns),
            *_unused(place, out, choices),
        ),
    )


def _at(table: Table, lines: Sequence[int]) -> str:
    """`` (line 3, 5, 8 and 4 more)``."""
    return f" ({table.unit} {shorten(sorted(lines))})"


def _sort_rows(table: Table, columns: Columns, choices: TableChoices) -> tuple[list[Lined], Lines, Lines]:
    """Return the rows with a text and one label, the lines left out by reason, and the used lines by treatment."""
    rows: list[Lined] = []
    out: Lines = defaultdict(list)
    treated_lines: Lines = defaultdict(list)
    for line, row in table.rows.items():
        verdict = plain_cell(row.get(columns.verdict))
        parts = [read_text_cell(row.get(column)) for column in columns.texts]
        text = input_in(row, choices.fields, columns.texts) or ""
        if columns.verdict and not is_accepted(row.get(columns.verdict)):
            out[f"{columns.verdict}={verdict}"].append(line)
        elif None in parts:
            out["not_text"].append(line)
        elif not text:
            out["empty_text"].append(line)
        else:
            try:
                cell = _agreed(table, columns.labels, row, choices.missing_labels)
            except ValueError:
                out["not_label"].append(line)
                continue
            if not cell.labels or (len(cell.labels) == 1 and cell.labels[0] in choices.missing_labels):
                out["marked_missing" if cell.labels else "no_label"].append(line)
            elif cell.treatment == "differ":
                out["contradiction"].append(line)
            elif len(cell.labels) > 1:
                out["several_labels"].append(line)
            else:
                rows.append((line, Example(text=text, label=cell.labels[0])))
                if "" in parts:
                    treated_lines[BLANK_PART].append(line)
                if cell.treatment:
                    treated_lines[cell.treatment].append(line)
    return rows, out, treated_lines


def _agreed(table: Table, columns: Sequence[str], row: Mapping[str, Any], missing: Sequence[str]) -> LabelCell:
    """Return the labels of a row if all its annotators agree; if not, the treatment is "differ".

    Empty cells, and labels in ``missing``, do not count. Raises ValueError if a cell's content is not a label.
    """
    cells = [find_labels(DataSource(label_column=column), table, row.get(column), {}) for column in columns]
    filled_cells = [cell for cell in cells if cell.labels and not (len(cell.labels) == 1 and cell.labels[0] in missing)]
    alike = {tuple(map(reads_as, cell.labels)) for cell in filled_cells}
    return (
        LabelCell(filled_cells[0].labels, "differ")
        if len(alike) > 1
        else (filled_cells or sorted(cells, key=lambda cell: not cell.labels))[0]
    )


def _noun(reason: str, columns: Columns, choices: TableChoices) -> str:
    if reason == "empty_text" and choices.fields:
        return f"without a text in one of {', '.join(choices.fields)}"
    verdict = reason.removeprefix(f"{columns.verdict}=")
    return WHAT.get(reason, f"with {verdict!r} in the column {columns.verdict!r}")


def _refuse(
    table: Table, columns: Columns, out: Lines, choices: TableChoices, joined: Mapping[str, tuple[str, ...]]
) -> None:
    """Raise `InputError` with all rows that cannot be used, unless the user asked to leave them out."""
    faults = []
    for reason, (finding, remedy) in REFUSED.items():
        if lines := sorted(out.get(reason, ())):
            column = " and ".join(map(repr, columns.texts if reason == "not_text" else columns.labels))
            row = table.rows[lines[0]]
            cell = row.get(no_text_in(row, columns.texts) if reason == "not_text" else columns.labels[0])
            sample = " ".join(str(cell).split())[:LONG_NAME]
            such = f", such as {sample!r}" if sample and (reason != "no_label" or isinstance(cell, str)) else ""
            if such and reason == "no_label":
                remedy += " If it is a class, rename it."
            faults.append(
                f"{table.path}: {finding} in {table.unit} {shorten(lines)} "
                f"({counted(len(lines), 'row')}, column {column}{such}). {remedy}"
            )
    if not faults or choices.reading.skip_broken:
        return
    if joined:
        name, parts = next(iter(joined.items()))
        faults.append(
            f"{name!r} was read as {' and '.join(map(repr, parts))}, which are labels too. If it is a class of its "
            "own, give it a name without the separator."
        )
    faults += [str(notice) for notice in table.notices if notice.severity == "warning"]  # they may say why
    raise InputError("\n".join([*faults, "To leave out and count such rows: --skip-broken."]))


def _in_one_spelling(rows: Sequence[Lined], merge: bool) -> tuple[list[Lined], dict[tuple[str, str], list[int]]]:
    """Return the rows with one name per class, and (old name, new name) -> lines of the renamed rows.

    If all labels are whole numbers, a fraction of zero is removed. Spellings of true or false that differ in case are
    merged. Other labels that read the same are merged if ``merge``; else raises `InputError` with a proposal.
    """
    counts = Counter(example.label for _, example in rows)
    new = {name: name for name in counts}
    if all(re.fullmatch(r"[+-]?\d+(\.0+|,00?)?", name) for name in counts):
        new = {name: re.sub(r"^-0$", "0", re.split("[.,]", name)[0]) for name in counts}
    by_number = sorted(counts, key=lambda name: (-counts[name], name))
    doubts = {}
    for alike in names_alike(dict.fromkeys(new[name] for name in by_number)):
        names = [name for name in by_number if new[name] in alike]
        if len(alike) > 1:
            new |= dict.fromkeys(names, names[0])
            if not merge and {name.casefold() for name in names} not in ({"true"}, {"false"}):
                doubts[" and ".join(map(repr, sorted(names)))] = names[0]
    if doubts:
        raise InputError(
            f"labels that read the same: {'; '.join(doubts)}. Write each class in one way only, or rename one. To "
            f"merge them into the classes {', '.join(map(repr, doubts.values()))}: --merge-labels."
        )
    renamed: dict[tuple[str, str], list[int]] = defaultdict(list)
    for line, example in rows:
        if new[example.label] != example.label:
            renamed[example.label, new[example.label]].append(line)
    return [(line, Example(text=example.text, label=new[example.label])) for line, example in rows], renamed


def _skipped_for_name(table: Table, columns: Columns) -> list[TaskFault]:
    """Return a note about columns with suitable contents that were not used because of their names."""
    problem = f"not used as texts or labels, because of their names: {shorten(map(repr, columns.skipped_for_name))}."
    remedy = "To use one: --text-column NAME, --label-column NAME."
    return [note(table.path, problem, remedy)] if columns.skipped_for_name else []


def _unused(place: str, out: Lines, choices: TableChoices) -> list[TaskFault]:
    """Return a warning if no row has one of the labels that mean "not labelled"."""
    if not choices.missing_labels or out.get("marked_missing"):
        return []
    names = " or ".join(map(repr, choices.missing_labels))
    return [warning(place, f"no label is {names}, as --missing-label says.", "Check its spelling.")]
