"""A result's page: a file without scripts that loads nothing, reads well on a phone and on paper.

It has the style sheet of the run's report and a little more, and the figures of `pipeline.report.figures`. Every text
is escaped; only `markupsafe.Markup` is taken as it is.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fourshot.bench.core.parts import FoldedPart, Page, Part, Section, TablePart
from fourshot.bench.core.targets import targets_of
from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.report.text import flatten
from fourshot.pipeline.report.write import environment

TEMPLATE = "page.html.j2"


def write_page(path: Path, page: Page, result: Mapping[str, Any]) -> Path:
    """Write the page of ``result``, whole or not at all. Returns ``path``.

    Raises ValueError for no sections and for a table whose rows are not as long as its headings, OSError where the file
    cannot be written.
    """
    if not page.sections:
        raise ValueError("a page of nothing: give at least one section")
    _check(part for section in page.sections for part in section.parts)
    templates = environment(Path(__file__).parent, autoescape=True)
    templates.tests |= {kind.__name__.lower(): _is(kind) for kind in (Markup, str, TablePart, FoldedPart)}
    html = templates.get_template(TEMPLATE).render(
        page=page,
        suite=result.get("suite", "benchmark"),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        sections=[*page.sections, *_targets(result), _origin(result, page.origin)],
    )
    replace_file(path, html.encode())
    return path


def _is(kind: type) -> Any:
    return lambda part: isinstance(part, kind)


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
    """What every result says about itself: commit, hardware, versions, settings, and ``extra_parts`` before those."""
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
    """A link, for a paragraph made with ``Markup(...).format(...)``. Raises ValueError for what is no web address."""
    if not address.startswith(("https://", "http://")):
        raise ValueError(f"a link leads to http or https, got {address!r}")
    return Markup('<a href="{}" rel="noopener">{}</a>').format(address, text)
