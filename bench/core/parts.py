"""The parts of a report as data (paragraphs, tables, targets, sections, pages), and their Markdown and HTML.

A page is one HTML file without scripts or external resources, readable on a phone and on paper. It extends the style
sheet of the run's report, and its figures are those of `pipeline.report.figures`. All text is escaped, except
`markupsafe.Markup`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from markupsafe import Markup

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.report.text import flatten, now
from fourshot.pipeline.report.write import environment

MISSING = "-"
TEMPLATE = "page.html.j2"
T = TypeVar("T")


class TablePart(NamedTuple):
    """Rows of cells, the first of each its heading. None is printed as a dash; numbers are printed as given."""

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    left: int = 1  # in Markdown: number of left-aligned columns; the others are right-aligned
    chosen: int | None = None  # on a page: index of the row to highlight
    words: bool = False  # on a page: cells are texts, which wrap

    @classmethod
    def of(cls, rows: Iterable[T], columns: Mapping[str, str | Callable[[T], object]], **options: Any) -> "TablePart":
        """Make a table of ``rows``. ``columns``: heading -> a format string of the row's keys, or a function of it."""
        cells = [
            [column.format_map(row) if isinstance(column, str) else column(row) for column in columns.values()]  # type: ignore[arg-type]
            for row in rows
        ]
        return cls(list(columns), cells, **options)


class FoldedPart(NamedTuple):
    """Parts that a page shows when its reader opens the summary; Markdown shows the parts without it."""

    summary: str
    parts: "Sequence[Part]"


Part = str | TablePart | FoldedPart  # a str is a paragraph; a Markup, which is a str too, is inserted unescaped


class Section(NamedTuple):
    """A heading and the parts below it, in order."""

    title: str
    parts: Sequence[Part]


class Page(NamedTuple):
    """The page of a result. `write_page` appends its targets and its origin (hardware, versions) to ``sections``."""

    title: str
    sections: Sequence[Section]
    lead: str = ""  # the sentence below the title
    origin: Sequence[Part] = ()  # parts in front of the origin of the numbers


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A measured number and the goal that was set for it."""

    name: str
    unit: str
    measured: float
    goal: float
    met: bool

    def line(self, digits: int = 6) -> str:
        """Return the target as a line of text, the measured number with ``digits`` significant digits."""
        number = f"{self.measured:.{digits}g}{' ' + self.unit if self.unit else ''}"
        return f"{self.name}: target {self.goal:g}, measured {number} ({'met' if self.met else 'missed'})"


def at_least(name: str, unit: str, measured: float, goal: float, digits: int = 3) -> Target:
    """Return a target where more is better. ``measured`` is first rounded to ``digits`` decimals."""
    measured = round(measured, digits)
    return Target(name=name, unit=unit, measured=measured, goal=goal, met=measured >= goal)


def at_most(name: str, unit: str, measured: float, goal: float, digits: int = 3) -> Target:
    """Return a target where less is better. ``measured`` is first rounded to ``digits`` decimals."""
    measured = round(measured, digits)
    return Target(name=name, unit=unit, measured=measured, goal=goal, met=measured <= goal)


def targets_of(result: Mapping[str, Any]) -> list[Target]:
    """Return the targets of a result as read from its file, [] if it has none."""
    return msgspec.convert(result.get("targets", ()), list[Target])


def target_lines(targets: Sequence[Target], digits: int = 6) -> list[str]:
    """Return the targets as Markdown list items, one line each."""
    return [f"- {target.line(digits)}" for target in targets]


def rows_table(result: Mapping[str, Any]) -> list[Part]:
    """Return the report of a result that consists of its ``rows``: a table with a column for each of their keys."""
    rows: list[dict[str, Any]] = result["rows"]
    return [TablePart(list(rows[0]), [list(row.values()) for row in rows])]


def markdown(parts: Sequence[Part]) -> str:
    """Return ``parts`` as Markdown, separated by empty lines. Figures are left out."""
    return "\n\n".join(text for part in parts if (text := _markdown(part)))


def _markdown(part: Part) -> str:
    match part:
        case TablePart():
            rules = ["---"] * part.left + ["---:"] * (len(part.headings) - part.left)
            lines = [part.headings, rules, *part.rows]
            table = "\n".join(f"| {' | '.join(MISSING if c is None else str(c) for c in line)} |" for line in lines)
            return f"{table}\n\n{part.note}" if part.note else table
        case FoldedPart():
            return markdown(part.parts)
        case Markup():
            return ""  # a figure
    return part


def write_page(path: Path, page: Page, result: Mapping[str, Any]) -> Path:
    """Write the page of ``result`` atomically. Returns ``path``.

    Raises ValueError for a page without sections, and for a table with a row of another length than its headings.
    Raises OSError if the file cannot be written.
    """
    if not page.sections:
        raise ValueError("a page of nothing: give at least one section")
    _check(part for section in page.sections for part in section.parts)
    templates = environment(Path(__file__).parent, autoescape=True)
    kinds = {kind.__name__.lower(): kind for kind in (Markup, str, TablePart, FoldedPart)}
    templates.tests |= {name: lambda part, kind=kind: isinstance(part, kind) for name, kind in kinds.items()}
    html = templates.get_template(TEMPLATE).render(
        page=page,
        suite=result.get("suite", "benchmark"),
        created=now(),
        sections=[*page.sections, *_targets(result), _origin(result, page.origin)],
    )
    replace_file(path, html.encode())
    return path


def _check(parts: Any) -> None:
    for part in parts:
        if isinstance(part, FoldedPart):
            _check(part.parts)
        elif isinstance(part, TablePart):
            for row in part.rows:
                if len(row) != len(part.headings):
                    raise ValueError(f"a row of {len(row)} cells below {len(part.headings)} headings: {list(row)}")


def _targets(result: Mapping[str, Any]) -> list[Section]:
    rows = [
        (
            target.name,
            f"{target.goal:g} {target.unit}",
            f"{target.measured:g} {target.unit}",
            "met" if target.met else "missed",
        )
        for target in targets_of(result)
    ]
    return [Section("Targets", [TablePart(["", "target", "measured", ""], rows)])] if rows else []


def _origin(result: Mapping[str, Any], extra_parts: Sequence[Part]) -> Section:
    """Return the section about a result's origin: ``extra_parts``, commit, hardware, versions and settings."""
    facts = {"commit": result.get("commit") or "unknown", **flatten(result.get("hardware", {}))}
    parts: list[Part] = [*extra_parts, _facts(facts), _facts(flatten(result.get("versions", {})))]
    settings = flatten(result.get("settings", {}))
    if settings:
        parts.append(FoldedPart("Settings", [TablePart(["Setting", "Value"], list(settings.items()), words=True)]))
    return Section("Where the numbers come from", parts)


def _facts(facts: Mapping[str, object]) -> Markup:
    entries = [Markup("<span>{} <b>{}</b></span>").format(name, value) for name, value in facts.items()]
    return Markup('<p class="versions">{}</p>').format(Markup(" ").join(entries))


def link(text: str, address: str) -> Markup:
    """Return a link for a paragraph made with ``Markup(...).format(...)``. Raises ValueError for a non-HTTP address."""
    if not address.startswith(("https://", "http://")):
        raise ValueError(f"a link leads to http or https, got {address!r}")
    return Markup('<a href="{}" rel="noopener">{}</a>').format(address, text)


def fill(document: str, blocks: Mapping[str, str]) -> str:
    """Return ``document`` with the text between ``<!-- name:start -->`` and ``<!-- name:end -->`` replaced.

    ``blocks``: name -> the new text. Raises `InputError` if a pair of markers does not occur exactly once.
    """
    for name, block in blocks.items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(document)) != 1:
            raise InputError(f"The document must have {start} and, after it, {end} exactly once. Put them in.")
        document = pattern.sub(lambda _, filled=f"{start}\n{block}\n{end}": filled, document)  # type: ignore[misc]
    return document
