"""The tables of a run that a person edits in a page, while a spreadsheet or another tab may change them, too."""

import os

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.review import ASK, REVIEW, decisions, has_table, open_review, written_rows
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.faults import MOST_NAMED, shorten
from fourshot.pipeline.rows.review_table import (
    ReviewAnswer,
    ReviewRow,
    check_alone,
    label_named,
    own_columns,
    read_review,
    write_review,
)
from fourshot.pipeline.task import Task


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's decision on one text."""

    label: str
    keep: bool
    before: ReviewAnswer  # the answer that they were shown


class ShownRow(ReviewRow, frozen=True, kw_only=True):
    """A text with its current answer in the table."""

    said: ReviewAnswer


class TableView(msgspec.Struct, frozen=True, kw_only=True):
    """All that the page shows of one table."""

    task: str
    instruction: str
    labels: tuple[str, ...]
    table: str  # name of its file
    has_report: bool
    rows: list[ShownRow]


class ChangedElsewhereError(InputError):
    """A decision on an outdated answer: the table has changed meanwhile, and now says ``present``."""

    def __init__(self, present: ReviewAnswer) -> None:
        self.present = present
        now = "deleted" if present.is_deleted else "kept" if present.keep else "dropped"
        label = f" as {present.label}" if present.label and not present.is_deleted else ""
        super().__init__(f"It was changed elsewhere and is {now}{label} now. Decide again.")


class ReviewTable:
    """One table in memory. It is reread if its file is no longer the version that was last read or written here."""

    def __init__(self, folder: RunFolder, name: str, task: Task) -> None:
        self.folder, self.name, self.task = folder, name, task
        self.path = folder.path / f"{name}.csv"
        self._version: tuple[int, ...] = ()  # of the file from which the fields below were read
        self._rows: dict[str, ReviewRow] = {}
        self._answers: dict[str, ReviewAnswer] = {}
        self._own_columns: list[str] = []

    def shown_rows(self) -> list[ShownRow]:
        """Return the rows as they are in the file now. Raises InputError with every fault of the table."""
        self._refresh()
        return [ShownRow(**msgspec.structs.asdict(row), said=self._answers[row.id]) for row in self._rows.values()]

    def decide(self, text_id: str, decision: Decision) -> ReviewAnswer:
        """Write a decision to the table, and return the text's answer in it.

        Raises ChangedElsewhereError if the person was shown an outdated answer, unless the current one equals their
        decision. Raises InputError for an invalid decision, and if the table is in use or has faults.
        """
        with self.folder.lock():
            self._refresh()
            if text_id not in self._rows:
                raise InputError(f"there is no text {text_id!r} in {self.path}.")
            label, present = label_named(decision.label, self.task.label_names), self._answers[text_id]
            if label is None or (decision.keep and not label and self._rows[text_id].label):
                allowed = shorten(self.task.label_names, MOST_NAMED)
                raise InputError(f"unknown label {decision.label!r}; allowed are {allowed}.")
            if self._own_columns:
                names = ", ".join(self._own_columns)
                raise InputError(f"{self.path} has columns of your own ({names}), so continue in the spreadsheet.")
            if (present.label, present.keep) == (label, decision.keep):
                return present
            if present != decision.before:
                raise ChangedElsewhereError(present)
            answers = self._answers | {text_id: ReviewAnswer(label=label, keep=decision.keep)}
            write_review(self.path, [*self._rows.values()], answers, task=self.task)
            self._answers, self._version = answers, self._version_now()
            return answers[text_id]

    def _refresh(self) -> None:
        check_alone(self.path, ".json")
        version = self._version_now()
        if version != self._version:
            rows = written_rows(self.folder, self.name)
            self._answers = read_review(self.path, rows, self.task)
            self._own_columns = own_columns(self.path, self.task)
            self._rows, self._version = {row.id: row for row in rows}, version

    def _version_now(self) -> tuple[int, ...]:
        try:
            state = os.stat(self.path)
        except FileNotFoundError:
            raise InputError(f"{self.path} does not exist any more. Put it back, or reload the page.") from None
        return state.st_ino, state.st_size, state.st_mtime_ns


class ReviewDesk:
    """The tables of one run for a person: the texts they are asked about until all are answered, then the review."""

    def __init__(self, folder: RunFolder) -> None:
        """Writes the review if it is next and does not exist. Raises InputError for a table with faults."""
        self.folder, self.task = folder, folder.manifest().task
        self.tables = {f"{name}.csv": ReviewTable(folder, name, self.task) for name in (ASK, REVIEW)}
        self.view(self.next_table())

    def next_table(self) -> str:
        """Return the file name of the table to work on now. Writes the review if that is next and does not exist."""
        if has_table(self.folder, ASK) and decisions(self.folder, ASK, self.task).open:
            return f"{ASK}.csv"
        if not has_table(self.folder, REVIEW):
            with self.folder.lock():
                open_review(self.folder)
        return f"{REVIEW}.csv"

    def view(self, table_name: str) -> TableView:
        return TableView(
            task=self.task.name,
            instruction=self.task.instruction,
            labels=self.task.label_names,
            table=table_name,
            has_report=self.folder.has("report.html"),
            rows=self.table(table_name).shown_rows(),
        )

    def table(self, name: str) -> ReviewTable:
        if name not in self.tables:
            raise InputError(f"there is no table {name!r}; there are {' and '.join(self.tables)}.")
        return self.tables[name]
