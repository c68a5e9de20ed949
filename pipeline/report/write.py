"""Render `ReportData` as report.html and report.md.

In this folder, only this module and `texts` render templates; the others each compute one part of what is shown.
"""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.report import candidates, certainty, classes, results, text, varied
from fourshot.pipeline.report.data import ReportData
from fourshot.pipeline.report.figures import Curve, line_plot

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent
MAX_CURVE_POINTS = 150  # per loss curve; more are averaged, which also reduces the noise of single steps


def write_report(data: ReportData, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write ``report.html`` (one file, no script, nothing loaded from elsewhere) and ``report.md`` into ``folder``.

    Returns the two paths. Each file replaces an older one atomically. Raises ValueError for reasons or a headline
    method that do not exist, OSError where the folder cannot be written.
    """
    context = _context(data)
    page, markdown = Path(folder) / "report.html", Path(folder) / "report.md"
    for path, templates in ((page, environment(autoescape=True)), (markdown, markdown_environment())):
        replace_file(path, templates.get_template(f"{path.name}.j2").render(context).encode())
    return page, markdown


def _context(data: ReportData) -> dict[str, Any]:
    return {
        "data": data,
        "headline": results.headline(data),
        "chosen": results.headline_row(data),
        "shows": results.shown_parts(data),
        "certainty": certainty.certainty_part(data.certainty),
        "ece_doubt": certainty.ece_doubt(data),
        "error": text.error,
        "accuracy": results.accuracy_figure(data),
        "classes": classes.class_tables(data),
        "confusion": classes.confusion_matrix(data),
        "reasons": candidates.reason_figure(data),
        "short": candidates.short_classes(data),
        "own": candidates.own_texts(data),
        "reviewed": candidates.review(data),
        "kept": candidates.example_cards(data, data.kept),
        "rejected": candidates.example_cards(data, data.rejected),
        "trigrams": varied.trigram_figure(data),
        "clouds": varied.cloud_figures(data),
        "loss": _loss_figure(data),
        "settings": text.flatten(data.settings),
        "per_cent": text.per_cent,
        "count": text.count,
        "duration": text.duration,
    }


def _loss_figure(data: ReportData) -> dict[str, Any] | None:
    # A training that diverged ends with a loss that cannot be drawn; it is still printed.
    finite = {name: tuple(p for p in points if math.isfinite(p[1])) for name, points in data.losses.items()}
    curves = [Curve(name, _thinned(points)) for name, points in finite.items() if points]
    if not curves:
        return None
    ends = {curve.name: data.losses[curve.name][-1] for curve in curves}
    named = [curve._replace(name=f"{curve.name}: {ends[curve.name][1]:.3f}") for curve in curves]
    return {"plot": line_plot(named, x_name="step", y_name="loss"), "ends": ends}


def _thinned(points: tuple[tuple[int, float], ...]) -> list[tuple[float, float]]:
    """Return at most `MAX_CURVE_POINTS` points, each the mean of neighbouring points."""
    width = -(-len(points) // MAX_CURVE_POINTS)
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def environment(*folders: Path, **options: Any) -> "jinja2.Environment":
    """Return an environment that looks for templates in ``folders``, then in this one. Undefined names are errors."""
    import jinja2

    loader = jinja2.FileSystemLoader([*folders, TEMPLATES])
    return jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options
    )


def markdown_environment() -> "jinja2.Environment":
    """Return an environment that escapes every printed value for Markdown, as autoescape does for HTML."""

    def escaped(value: object) -> object:
        return value if isinstance(value, Markup) else text.escape_markdown(value)

    templates = environment(finalize=escaped)
    templates.filters["as_code"] = text.markdown_code
    return templates
