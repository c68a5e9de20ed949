"""Progress of a run: bars on a terminal, lines in a log. Importing this module loads rich."""

import time
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from fourshot.pipeline.events import Event, span
from fourshot.printable import harmless

QUIET_S = 10.0  # between two lines about one step, where there is no terminal to draw a bar in


class ProgressBars:
    """A bar for each running step, with its rate and the time left; a finished step remains as a line above.

    Trainings may run at the same time, so each has a bar of its own. In any other stage, only the latest step has one.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}", style="dim", markup=False),
            console=console or Console(stderr=True),
        )
        self._bars: dict[tuple[str, str], Task] = {}  # of running steps, by stage and, for a training, message
        self._ended: set[tuple[str, str]] = set()  # stage and message of finished steps
        self._last_message = ""

    def __enter__(self) -> "ProgressBars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        if not event.total:
            if event.message and event.message != self._last_message:
                self._print(f"{event.stage}: {event.message}")
            self._last_message = event.message
            return
        key = (event.stage, event.message if event.stage == "train" else "")
        bar = self._bars.get(key)
        if bar and (event.done < bar.completed or event.unit != bar.fields["unit"]):
            self._progress.remove_task(bar.id)
            bar = None  # the next step of the stage
        if bar is None:
            if event.done >= event.total and (event.stage, event.message) in self._ended:
                return  # the end of a step may be reported twice
            bar = self._bars[key] = self._new_bar(event.unit)
        name, count = harmless(f"{event.stage}  {event.message}".rstrip()), _count(event)
        figures_text = harmless(figures(event))
        self._progress.update(
            bar.id, completed=event.done, total=event.total, name=name, count=count, figures=figures_text
        )
        if event.done >= event.total:  # hundreds of finished bars would fill the screen
            self._print(f"{name}  {count} in {span(bar.elapsed or 0.0)}  {figures_text}")
            self._progress.remove_task(bar.id)
            del self._bars[key]
            self._ended.add((event.stage, event.message))

    def _new_bar(self, unit: str) -> Task:
        bar = self._progress.add_task("", name="", count="", unit=unit, figures="")
        return next(task for task in self._progress.tasks if task.id == bar)

    def _print(self, line: str) -> None:
        self._progress.console.print(harmless(line), markup=False, highlight=False)


class _Rate(ProgressColumn):
    """Units per second, and the time left."""

    def render(self, task: Task) -> Text:
        if not task.speed:
            return Text("")
        remaining = f", {span(task.time_remaining)} left" if task.time_remaining is not None else ""
        return Text(f"{rate(task.speed)} {task.fields['unit']}/s{remaining}")


@dataclass
class _Step:
    """State of a step whose progress is printed as lines."""

    began_s: float
    first: float  # units done at its first event
    told_s: float  # time of its last line
    done: float = 0.0


class ProgressLines:
    """A line when a step begins and ends, and every `QUIET_S` seconds between: for logs.

    Trainings may run at the same time, so each is a step of its own. Any other step begins anew after another event.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: tuple[str, str] = ("", "")
        self._steps: dict[tuple[str, str], _Step] = {}

    def __call__(self, event: Event) -> None:
        now, key = time.monotonic(), (event.stage, event.message)
        is_another, self._last = key != self._last, key
        if not event.total:
            if event.message and is_another:
                self._print(f"{event.stage}: {event.message}")
            return
        step = self._steps.get(key)
        begins = step is None or event.done < step.done or (is_another and event.stage != "train")
        if step is None or begins:
            step = self._steps[key] = _Step(began_s=now, first=event.done, told_s=now)
        ends = event.done >= event.total > step.done
        step.done = event.done
        if begins or ends or now - step.told_s >= QUIET_S:
            step.told_s = now
            self._print(self._line(event, step, now))

    def _line(self, event: Event, step: _Step, now: float) -> str:
        parts = [f"{event.stage}: {event.message}".removesuffix(": "), _count(event)]
        seconds = now - step.began_s
        speed = (event.done - step.first) / seconds if seconds > 0 else 0.0
        if speed > 0:
            remaining_s = (event.total - event.done) / speed
            parts.append(f"{rate(speed)} {event.unit}/s" + (f", {span(remaining_s)} left" if remaining_s > 0 else ""))
        return "  ".join(part for part in (*parts, figures(event)) if part)

    def _print(self, line: str) -> None:
        print(harmless(line), file=self._stream, flush=True)


def figures(event: Event) -> str:
    """Format the figures of an event as ``loss 0.31, kept 120``, and append its detail."""
    text = ", ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in event.figures.items())
    return "; ".join(part for part in (text, event.detail) if part)


def _count(event: Event) -> str:
    return f"{event.done:.12g}/{event.total:.12g} {event.unit}".rstrip()


def rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"
