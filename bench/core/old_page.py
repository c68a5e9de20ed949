"""One page for a benchmark's result: a file without scripts that loads nothing, reads well on a phone and on paper.

    write_page(path, "Serving", [Section("Latency", ["What was measured.", Table(...), line_plot(...)])])

It has the style sheet of the run's report, and a little more. Figures come from `bench.plots`. Every text is escaped;
only `markupsafe.Markup` is taken as it is.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from fourshot.engine.files import replace_file
from fourshot.pipeline.report import write
from fourshot.pipeline.report.text import flatten

TEMPLATE = "old_page.html.j2"


class Table(NamedTuple):
    """Rows of cells, the first of each its heading. None is printed as a dash; numbers as they are given."""

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    chosen: int | None = None  # the row the page is about
    words: bool = False  # cells are texts: to the left, broken into lines


class Folded(NamedTuple):
    """Parts behind a summary that opens them."""

    summary: str
    parts: "Sequence[Part]"


class Code(NamedTuple):
    """Lines to be copied."""

    lines: str


Part = str | Table | Folded | Code  # a str is a paragraph; a Markup, which is a str too, is taken as it is


class Section(NamedTuple):
    """A heading and what stands below it, in this order."""

    title: str
    parts: Sequence[Part]


def write_page(
    path: Path, title: str, sections: Sequence[Section], *, lead: str = "", created: str = "", suite: str = "benchmark"
) -> Path:
    """Write the page, whole or not at all. Returns ``path``.

    ``lead`` is the sentence below the title; ``created`` is printed as it is (default: now). Raises ValueError for no
    sections and for a table whose rows are not as long as its headings, OSError where the file cannot be written.
    """
    if not sections:
        raise ValueError("a page of nothing: give at least one section")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, write.TEMPLATES]),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        title=title,
        lead=lead,
        suite=suite,
        created=created or datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        sections=[(section.title, _render(section.parts)) for section in sections],
    )
    replace_file(path, page.encode())
    return path


def provenance(result: Mapping[str, Any], *more: Part) -> Section:
    """What every result says about itself: commit, hardware, versions, settings, and ``more`` parts before those."""
    facts = {"commit": result.get("commit") or "unknown", **flatten(result.get("hardware", {}))}
    parts: list[Part] = [*more, _facts(facts), _facts(flatten(result.get("versions", {})))]
    settings = flatten(result.get("settings", {}))
    if settings:
        parts.append(Folded("Settings", [Table(["Setting", "Value"], list(settings.items()), words=True)]))
    return Section("Where the numbers come from", parts)


def targets(result: Mapping[str, Any]) -> Section:
    """The targets of a result. Raises ValueError where it has none."""
    rows = [
        (
            one["name"],
            f"{one['measured']:g} {one['unit']}",
            f"{one['goal']:g} {one['unit']}",
            "met" if one["met"] else "not met",
        )
        for one in result.get("targets", ())
    ]
    if not rows:
        raise ValueError("a section of no targets: leave it out")
    return Section("Set out to be reached", [Table(["", "measured", "goal", ""], rows)])


def link(text: str, address: str) -> Markup:
    """A link, for a paragraph made with ``Markup(...).format(...)``. Raises ValueError for what is no web address."""
    if not address.startswith(("https://", "http://")):
        raise ValueError(f"a link leads to http or https, got {address!r}")
    return Markup('<a href="{}" rel="noopener">{}</a>').format(address, text)


def _render(parts: Sequence[Part]) -> Markup:
    return Markup("\n").join(_part(part) for part in parts)


def _part(part: Part) -> Markup:
    match part:
        case Markup():
            return part
        case str():
            return Markup("<p>{}</p>").format(part)
        case Code():
            return Markup("<pre>{}</pre>").format(part.lines)
        case Folded():
            return Markup("<details><summary>{}</summary>\n{}\n</details>").format(part.summary, _render(part.parts))
        case Table():
            return _table(part)


def _table(table: Table) -> Markup:
    wrong = [row for row in table.rows if len(row) != len(table.headings)]
    if wrong:
        raise ValueError(f"a row of {len(wrong[0])} cells below {len(table.headings)} headings: {list(wrong[0])}")
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(heading) for heading in table.headings)
    body = Markup("\n").join(_row(row, number == table.chosen) for number, row in enumerate(table.rows))
    note = Markup('<p class="aside">{}</p>').format(table.note) if table.note else Markup("")
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="{kind}">\n'
        "<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>{note}"
    ).format(
        label="Table: " + ", ".join(filter(None, table.headings)),
        kind="pairs prose" if table.words else "methods",
        head=head,
        body=body,
        note=note,
    )


def _row(row: Sequence[object], chosen: bool) -> Markup:
    first, *rest = ("\u2013" if cell is None else cell for cell in row)
    cells = Markup("").join(Markup("<td>{}</td>").format(cell) for cell in rest)
    return Markup('<tr{}><th scope="row">{}</th>{}</tr>').format(
        Markup(' class="chosen"') if chosen else "", first, cells
    )


def _facts(facts: Mapping[str, object]) -> Markup:
    entries = [Markup("<span>{} <b>{}</b></span>").format(name, value) for name, value in facts.items()]
    return Markup('<p class="versions">{}</p>').format(Markup(" ").join(entries))
