"""Output of commands: results on standard output, progress and errors on standard error, JSON for machines.

Importing this module loads neither rich nor a model library.
"""

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import msgspec

from fourshot.engine import errors
from fourshot.pipeline.events import Event, OnEvent, span
from fourshot.printable import harmless

if TYPE_CHECKING:
    from fourshot.pipeline.forecasts.forecast import Forecast

WIDE = 200  # characters per line of a table that is not printed to a terminal, so that it is not folded
GAP, EDGES = 3, 2  # characters between two columns of a table, and around all of them
SCORES = {  # key of `pipeline.report.data.MethodRow` -> heading
    "display_name": "method",
    "accuracy": "accuracy",
    "accuracy_deviation": "+-",
    "macro_f1": "macro-F1",
    "ece": "ECE",
    "ece_before": "ECE before",
    "surest_80": "surest 80 %",
    "seconds_per_example": "s/text",
    "prompt_tokens_per_example": "prompt tokens",
    "real_examples": "real",
    "synthetic_examples": "synthetic",
    "unlabelled_examples": "unlabelled",
}


FORECAST = {  # key of `pipeline.forecasts.forecast.StageForecast` -> heading
    "stage": "stage",
    "calls": "calls",
    "tokens": "tokens",
    "steps": "training steps",
    "seconds": "seconds",
}


class Terminal:
    """The output of one command. A context manager.

    For people, results go to standard output and progress to standard error. For machines (``json``), standard output
    carries JSON Lines alone, each with a ``type``: "progress", "forecast", "prediction", "finding", "fit", "ready",
    "task", "result" or "error". Whatever a library prints there goes to standard error meanwhile.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self._json, self._quiet = json, quiet
        self._stdout = -1  # a copy of standard output, while its descriptor leads to standard error

    def __enter__(self) -> "Terminal":
        if self._json:
            sys.stdout.flush()
            self._stdout = os.dup(1)
            os.dup2(2, 1)  # for libraries that write to the descriptor
            self._python = redirect_stdout(sys.stderr)
            self._python.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._json:
            self._python.__exit__(None, None, None)
            os.dup2(self._stdout, 1)
            os.close(self._stdout)

    @contextmanager
    def progress(self) -> Iterator[OnEvent]:
        """Yield an event handler: bars on a terminal, occasional lines elsewhere, JSON, or only notices if quiet."""
        if self._quiet or self._json:
            yield self._notice if self._quiet else lambda event: self.result("progress", event)
            return
        from fourshot.cli.progress import ProgressBars, ProgressLines

        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            with ProgressBars() as bars:
                yield bars
        else:
            yield ProgressLines(sys.stderr)

    def _notice(self, event: Event) -> None:
        if event.notice:
            self.warn(event.message)

    @contextmanager
    def hushed(self) -> Iterator[None]:
        """Hold back what libraries write to standard error while a model opens; it is shown after unexpected errors."""
        sys.stderr.flush()
        with tempfile.TemporaryFile() as captured:
            stderr_copy = os.dup(2)
            os.dup2(captured.fileno(), 2)
            try:
                yield
            except BaseException as error:
                if not isinstance(error, errors.FourshotError | KeyboardInterrupt):
                    captured.seek(0)
                    os.write(stderr_copy, captured.read())
                raise
            finally:
                sys.stderr.flush()
                os.dup2(stderr_copy, 2)
                os.close(stderr_copy)

    def say(self, text: str) -> None:
        """Print ``text`` for people."""
        if not self._json:
            print(harmless(text))

    def warn(self, text: str) -> None:
        """Print a warning about something that the user should fix on standard error."""
        print(f"fourshot: warning: {harmless(text)}", file=sys.stderr)

    def result(self, kind: str, content: Any) -> None:
        """Print ``content``, a struct or a mapping, for machines."""
        if self._json:
            document = {"type": kind, **msgspec.to_builtins(content, enc_hook=str)}
            try:
                line = msgspec.json.encode(document) + b"\n"
            except UnicodeEncodeError:  # a path may have bytes that are no UTF-8; this escapes them
                line = json.dumps(document).encode() + b"\n"
            while line:  # a disk that is nearly full takes part of it, and fails only at the next write
                line = line[os.write(self._stdout, line) :]

    def forecast(self, forecast: "Forecast | None") -> None:
        """Print what a command would take; None: nothing is left to do."""
        self.result("forecast", forecast or {"seconds": 0.0, "stages": []})
        if forecast is None:
            self.say("Nothing is left to do that needs an engine.")
            return
        if forecast.asks:
            self.say(f"{forecast}.")
            return
        stages = [{**msgspec.structs.asdict(stage), "seconds": round(stage.seconds)} for stage in forecast.stages]
        self.table(stages, FORECAST)
        doubt = f"; {forecast.doubt}" if forecast.doubt else ""
        self.say(
            f"About {span(forecast.seconds)}, {forecast.calls:,} calls, {forecast.tokens:,} tokens, "
            f"{forecast.memory_bytes / 1e9:.1f} GB of memory{doubt}."
        )

    def verdict(self, forecast: "Forecast | None") -> None:
        """Print how a forecast and the actual time compare."""
        if forecast and forecast.verdict:
            self.say(f"Time: {forecast.verdict}.")

    def scores(self, rows: Sequence[Any]) -> None:
        """Print the table of methods: rows are `pipeline.report.data.MethodRow` or mappings with its keys."""
        self.table(rows, SCORES)

    def table(self, rows: Sequence[Any], headings: Mapping[str, str] | None = None, whole: str = "") -> None:
        """Print ``rows``, structs or mappings, for people. A column appears if any row has a value for it.

        ``headings``: key -> heading of the columns to show; without it all columns, headed by their keys. ``whole``:
        key of a column that people copy, whose cells stay on one line if the terminal is wide enough.
        """
        if self._json:
            return
        from rich import box
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        documents = [msgspec.to_builtins(row) for row in rows]
        if headings:
            keys = [key for key in headings if any(row.get(key) not in ("", None) for row in documents)]
        else:
            headings, keys = {}, list(dict.fromkeys(key for row in documents for key in row))
        console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
        table = Table(box=box.SIMPLE, pad_edge=False)
        cells = {key: [_cell(row.get(key)) for row in documents] for key in keys}
        widths = {key: max(map(cell_len, [headings.get(key, key), *cells[key]])) for key in keys}
        others = [width for key, width in widths.items() if key != whole]
        # Wide enough: each other column can be as wide as the narrowest of them, below which they are unreadable.
        fits = widths.get(whole, 0) + len(others) * (min(others, default=0) + GAP) <= console.width - EDGES
        for key in keys:
            numeric = all(isinstance(row.get(key) or 0, int | float) for row in documents)
            table.add_column(
                headings.get(key, key),
                justify="right" if numeric else "left",
                overflow="fold",  # an ellipsis would hide part of a name or a number
                no_wrap=fits and key == whole,
            )
        for row in zip(*cells.values(), strict=True):
            table.add_row(*map(Text, row))
        console.print(table)


def program() -> str:
    """Return the name of this command for a shell: how it was called, if a shell would not find "fourshot"."""
    called = sys.argv[0]
    return "fourshot" if shutil.which("fourshot") or not called.endswith("fourshot") else shlex.quote(called)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else harmless(str(value))
