"""The report of a text generation task: scores against the references, and examples of what each method wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.report.text import count, duration
from fourshot.pipeline.report.write import environment, markdown_environment
from fourshot.pipeline.text_metrics import TextScores

SHOWN_SCORES = ("chrf", "bleu", "rouge1", "rouge2", "rougeL")


class TextRow(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of one method that wrote for the test inputs."""

    method: str
    display_name: str
    scores: TextScores
    real_pairs: int
    annotated_pairs: int
    synthetic_pairs: int

    def as_table_row(self) -> dict[str, Any]:
        """Return the row without nesting, for the command's table."""
        row: dict[str, Any] = msgspec.to_builtins(self)
        return {**row, **row.pop("scores")}

    @property
    def seconds_per_text(self) -> float:
        return self.scores.seconds / self.scores.n


class TextExample(msgspec.Struct, frozen=True, kw_only=True):
    """A test input, its references, and what each method wrote."""

    input: str
    right: Sequence[str]
    written: Mapping[str, str]


class TextReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the report shows."""

    title: str
    created: str
    rows: list[TextRow]  # empty: nothing was evaluated
    examples: list[TextExample]
    notes: list[str]
    signature: str = ""  # of how scores are computed


def write_text_report(data: TextReport, folder: Path) -> Path:
    """Write report.html and report.md into ``folder``, each atomically, and return the path of the former."""
    context = {"data": data, "shown": SHOWN_SCORES, "count": count, "duration": duration}
    for name, templates in (("html", environment(autoescape=True)), ("md", markdown_environment())):
        text = templates.get_template(f"texts.{name}.j2").render(context)
        replace_file(folder / f"report.{name}", text.encode())
    return folder / "report.html"
