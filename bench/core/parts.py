"""What a report is made of, as data: paragraphs, tables, sections of a page. And the same as Markdown."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from markupsafe import Markup

from fourshot.engine.errors import InputError

MISSING = "-"
T = TypeVar("T")


class TablePart(NamedTuple):
    """Rows of cells, the first of each its heading. None is printed as a dash; numbers as they are given."""

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    left: int = 1  # in Markdown: columns of words, which stand to the left; those after them to the right
    chosen: int | None = None  # on a page: the row that it is about
    words: bool = False  # on a page: cells are texts, broken into lines

    @classmethod
    def of(cls, rows: Iterable[T], columns: Mapping[str, str | Callable[[T], object]], **options: Any) -> "TablePart":
        """A row for each of ``rows``, a column for each heading: a format of the row's keys, or a function of it."""
        cells = [
            [column.format_map(row) if isinstance(column, str) else column(row) for column in columns.values()]  # type: ignore[arg-type]
            for row in rows
        ]
        return cls(list(columns), cells, **options)


class FoldedPart(NamedTuple):
    """Parts behind a summary that opens them, on a page."""

    summary: str
    parts: "Sequence[Part]"


class CodePart(NamedTuple):
    """Lines to be copied."""

    lines: str


Part = str | TablePart | FoldedPart | CodePart  # a str is a paragraph; a Markup, which is a str too, is taken as it is


class Section(NamedTuple):
    """A heading and what stands below it, in this order."""

    title: str
    parts: Sequence[Part]


class Page(NamedTuple):
    """The page of a result. Its targets and what it was measured on are put behind ``sections``."""

    title: str
    sections: Sequence[Section]
    lead: str = ""  # the sentence below the title
    origin: Sequence[Part] = ()  # more about where the numbers come from


def rows_table(result: Mapping[str, Any]) -> list[Part]:
    """The report of a result whose ``rows`` say everything: a column for each of their keys."""
    rows: list[dict[str, Any]] = result["rows"]
    return [TablePart(list(rows[0]), [list(row.values()) for row in rows])]


def markdown(parts: Sequence[Part]) -> str:
    """Paragraphs and tables with an empty line between them."""
    return "\n\n".join(text for part in parts if (text := _markdown(part)))


def _markdown(part: Part) -> str:
    match part:
        case TablePart():
            rules = ["---"] * part.left + ["---:"] * (len(part.headings) - part.left)
            lines = [part.headings, rules, *part.rows]
            table = "\n".join(f"| {' | '.join(MISSING if c is None else str(c) for c in line)} |" for line in lines)
            return f"{table}\n\n{part.note}" if part.note else table
        case CodePart():
            return "\n".join(f"    {line}" for line in part.lines.splitlines())
        case FoldedPart():
            return markdown(part.parts)
        case Markup():
            return ""  # a figure
    return part


def fill(document: str, blocks: Mapping[str, str]) -> str:
    """``document`` with each block between ``<!-- name:start -->`` and ``<!-- name:end -->``, for what was there.

    Raises `InputError` where a pair of markers is not there exactly once.
    """
    for name, block in blocks.items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(document)) != 1:
            raise InputError(f"The document must have {start} and, after it, {end} exactly once. Put them in.")
        document = pattern.sub(lambda _, filled=f"{start}\n{block}\n{end}": filled, document)  # type: ignore[misc]
    return document
