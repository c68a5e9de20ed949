"""How a run shows itself in a terminal: progress on standard error, tables on standard output.

Importing this module loads rich, and neither torch nor vllm.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import msgspec
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fourshot.engine.errors import FourshotError
from fourshot.pipeline.events import Event, OnEvent, ignore

QUIET_S = 10.0  # between two lines about one step, where there is no terminal to draw a bar in
WIDE = 200  # columns of a table that is not printed to a terminal: never folded
SCORES = {  # key of `pipeline.report.MethodRow` -> heading
    "display_name": "method",
    "accuracy": "accuracy",
    "accuracy_deviation": "+-",
    "macro_f1": "macro-F1",
    "seconds_per_example": "s/text",
    "prompt_tokens_per_example": "prompt tokens",
    "real_examples": "real",
    "synthetic_examples": "synthetic",
}
OUTCOMES = {  # key of `pipeline.runs.many.TaskOutcome` -> heading
    "task": "task",
    "state": "state",
    "synthetic_examples": "synthetic",
    "steps": "steps",
    "loss": "loss",
    "train_s": "train s",
    "message": "why",
}


CLASSES = {  # key of `pipeline.corpus.summary.ClassOutcome` -> heading
    "task": "task",
    "label": "label",
    "state": "state",
    "kept": "kept",
    "drawn": "drawn",
    "acceptance": "accepted",
    "rejected": "rejected",
    "faults": "errors",
    "message": "why",
}


class Terminal:
    """Where a command says what it has to say. A context manager.

    For people, results go to standard output and progress to standard error. For machines (``json``), standard output
    carries JSON Lines alone, each with a ``type``: "progress", "prediction", "finding", "result" or "error"; whatever a
    library prints there goes to standard error meanwhile.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self._json, self._quiet = json, quiet
        self._kept = -1  # standard output, while it is lent to standard error

    def __enter__(self) -> "Terminal":
        if self._json:
            sys.stdout.flush()
            self._kept = os.dup(1)
            os.dup2(2, 1)  # for libraries that write to the descriptor
            self._python = redirect_stdout(sys.stderr)
            self._python.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._json:
            self._python.__exit__(None, None, None)
            os.dup2(self._kept, 1)
            os.close(self._kept)

    @contextmanager
    def progress(self) -> Iterator[OnEvent]:
        """Bars on a terminal, a line now and then elsewhere, JSON for machines, nothing if quiet."""
        if self._quiet:
            yield ignore
        elif self._json:
            yield lambda event: self.result("progress", event)
        elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            with Bars() as bars:
                yield bars
        else:
            yield Lines(sys.stderr)

    @contextmanager
    def hushed(self) -> Iterator[None]:
        """Hold back what libraries write to standard error while a model opens; it is shown if that fails."""
        sys.stderr.flush()
        with tempfile.TemporaryFile() as held:
            kept = os.dup(2)
            os.dup2(held.fileno(), 2)
            try:
                yield
            except BaseException as error:
                if not isinstance(error, FourshotError | KeyboardInterrupt):
                    held.seek(0)
                    os.write(kept, held.read())
                raise
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                os.close(kept)

    def say(self, text: str) -> None:
        """Print ``text`` for people."""
        if not self._json:
            print(text)

    def warn(self, text: str) -> None:
        """Say on standard error what its reader should mend."""
        print(f"fourshot: warning: {text}", file=sys.stderr)

    def result(self, kind: str, content: Any) -> None:
        """Print ``content``, a struct or a mapping, for machines."""
        if self._json:
            line = {"type": kind, **msgspec.to_builtins(content, enc_hook=str)}
            os.write(self._kept, msgspec.json.encode(line) + b"\n")

    def scores(self, rows: Sequence[Any]) -> None:
        """Print the table of methods: rows are `pipeline.report.MethodRow` or mappings with its keys."""
        documents = [msgspec.to_builtins(row) for row in rows]
        self.table([{head: row[key] for key, head in SCORES.items() if row.get(key) is not None} for row in documents])

    def outcomes(self, rows: Sequence[Any]) -> None:
        """Print what became of many tasks: rows are `pipeline.runs.many.TaskOutcome`."""
        documents = [msgspec.to_builtins(row) for row in rows]
        self.table(
            [{head: row[key] for key, head in OUTCOMES.items() if row[key] not in ("", None)} for row in documents]
        )

    def corpus(self, summary: Any) -> None:
        """Print what became of each class, and how fast: ``summary`` is a `pipeline.corpus.summary.CorpusSummary`."""
        rows = []
        for one in map(msgspec.to_builtins, summary.classes):
            one["rejected"] = ", ".join(f"{reason} {count}" for reason, count in one["rejected"].items())
            rows.append({head: one[key] for key, head in CLASSES.items() if one[key] not in ("", None)})
        self.table(rows)
        rates = summary.rates
        if rates.seconds and not self._json:
            cached = f", {rates.cached_share:.0%} of prompt tokens cached" if rates.cached_share is not None else ""
            print(
                f"{span(rates.seconds)}: {_rate(rates.rows_per_s)} texts/s kept, "
                f"{_rate(rates.output_tokens_per_s)} tokens/s{cached}"
            )

    def table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print ``rows``, heading -> value, for people; a column appears where any row has it."""
        if self._json:
            return
        headings = list(dict.fromkeys(heading for row in rows for heading in row))
        table = Table(box=box.SIMPLE, pad_edge=False)
        for heading in headings:
            numeric = all(isinstance(row.get(heading, 0), int | float) for row in rows)
            table.add_column(heading, justify="right" if numeric else "left")
        for row in rows:
            table.add_row(*(Text(_cell(row.get(heading))) for heading in headings))
        Console(width=None if sys.stdout.isatty() else WIDE, highlight=False).print(table)


class Bars:
    """One bar for the step that runs, with its rate and the time left; steps that are done stay as a line above.

    Trainings may run at the same time, so each has a bar of its own while it does.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[name]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[figures]}"),
            console=console or Console(stderr=True),
        )
        self._stage = ""
        self._task: TaskID | None = None
        self._trainings: dict[str, TaskID | None] = {}  # by what is said of them; None once it is done
        self._said = ""

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        if not event.total:
            if event.message and event.message != self._said:
                self._progress.console.print(f"{event.stage}: {event.message}", markup=False, highlight=False)
            self._said = event.message
            return
        name = f"{event.stage}  {event.message}".rstrip()
        if event.stage == "train":
            self._train(event, name)
            return
        if self._task is None or event.stage != self._stage or self._restarted(event):
            self._task = self._new_bar(event, name)
        self._stage = event.stage
        self._update(self._task, event, name)

    def _train(self, event: Event, name: str) -> None:
        self._stage = event.stage
        bar = self._trainings.get(event.message)
        if bar is None:
            if event.done >= event.total and event.message in self._trainings:
                return  # said twice
            bar = self._trainings[event.message] = self._new_bar(event, name)
        self._update(bar, event, name)
        if event.done >= event.total:  # of hundreds, those that are done must not fill the screen
            (task,) = (task for task in self._progress.tasks if task.id == bar)
            line = f"{name}  {_count(event)} in {span(task.elapsed or 0.0)}  {figures(event)}"
            self._progress.console.print(line, markup=False, highlight=False)
            self._progress.remove_task(bar)
            self._trainings[event.message] = None

    def _new_bar(self, event: Event, name: str) -> TaskID:
        return self._progress.add_task("", name=name, count="", unit=event.unit, figures="")

    def _update(self, bar: TaskID, event: Event, name: str) -> None:
        self._progress.update(
            bar,
            completed=event.done,
            total=event.total,
            name=name,
            count=_count(event),
            unit=event.unit,
            figures=figures(event),
        )

    def _restarted(self, event: Event) -> bool:
        (task,) = (task for task in self._progress.tasks if task.id == self._task)
        return task.finished or event.done < task.completed or event.unit != task.fields["unit"]


class _Rate(ProgressColumn):
    """Units per second, and the time left."""

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(f"{_rate(task.finished_speed)} {task.fields['unit']}/s" if task.finished_speed else "")
        if not task.speed:
            return Text("")
        left = f", {span(task.time_remaining)} left" if task.time_remaining is not None else ""
        return Text(f"{_rate(task.speed)} {task.fields['unit']}/s{left}")


class Lines:
    """A line when a step begins and ends, and every `QUIET_S` seconds between: for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._step: tuple[str, str] = ("", "")
        self._began_s = self._last_s = 0.0
        self._first = self._done = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if not event.total:
            if event.message and (event.stage, event.message) != self._step:
                self._step = (event.stage, event.message)
                self._print(f"{event.stage}: {event.message}")
            return
        begins = (event.stage, event.message) != self._step or event.done < self._done
        if begins:
            self._step = (event.stage, event.message)
            self._began_s, self._first = now, event.done
        ends = event.done >= event.total and self._done < event.total
        self._done = event.done
        if begins or ends or now - self._last_s >= QUIET_S:
            self._last_s = now
            self._print(self._line(event, now - self._began_s))

    def _line(self, event: Event, seconds: float) -> str:
        parts = [f"{event.stage}: {event.message}".removesuffix(": "), _count(event)]
        rate = (event.done - self._first) / seconds if seconds > 0 else 0.0
        if rate > 0:
            left = (event.total - event.done) / rate
            parts.append(f"{_rate(rate)} {event.unit}/s" + (f", {span(left)} left" if left > 0 else ""))
        return "  ".join(part for part in (*parts, figures(event)) if part)

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def figures(event: Event) -> str:
    """The figures of an event as ``loss 0.31, kept 120``, and its detail."""
    told = ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in event.figures.items())
    return "; ".join(part for part in (told, event.detail) if part)


def span(seconds: float) -> str:
    """A time as a person says it: ``8 s``, ``3 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _count(event: Event) -> str:
    return f"{event.done:g}/{event.total:g} {event.unit}".rstrip()


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
