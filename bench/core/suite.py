"""How suites and commands of `fourshot bench` are declared and run. `bench.suites` lists them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fourshot.bench.core.parts import Page, Part, markdown, target_lines, targets_of, write_page
from fourshot.bench.core.results import (
    DATA,
    FinishedPieces,
    check_data,
    check_out,
    data_hash,
    header,
    locked,
    path_beside,
    show_progress,
    to_json,
    write_result,
)


def named_tasks(options: Any) -> Sequence[str]:
    """Return the tasks of the option ``tasks``, or of ``task``."""
    return getattr(options, "tasks", None) or [options.task]


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """A suite that measures. Its functions receive the options or the result.

    The options ``out``, ``data``, ``model`` and ``shape`` mean the same in all suites.
    """

    options: type
    measure: Callable[[Any, FinishedPieces], dict[str, Any]]  # measures what is missing -> the result without header
    settings: Callable[[Any], dict[str, Any]]  # the settings to record in the result, except the model
    tasks: Callable[[Any], Sequence[str]] = named_tasks  # tasks whose folders --data must have
    report: Callable[[Mapping[str, Any]], list[Part]] = lambda result: []  # for the console and docs/
    page: Callable[[Mapping[str, Any]], Page] | None = None
    # Handles an option that replaces measuring, and returns whether it was given.
    alternative_action: Callable[[Any], bool] = lambda options: False

    def run(self, name: str, options: Any) -> int:
        """Measure what is missing, write the result and its page, and print the report. Return the exit code, 0."""
        if self.alternative_action(options):
            return 0
        out = getattr(options, "out", None)
        if out:
            check_out(out, name)
        with locked(out):
            return self._run(name, options)

    def _run(self, name: str, options: Any) -> int:
        out, model, shape = (getattr(options, field, None) for field in ("out", "model", "shape"))
        if data := getattr(options, "data", None):
            check_data(data, self.tasks(options))
        has_data = hasattr(options, "data") and self.tasks(options)
        measured_on = {DATA: data and data_hash(data, self.tasks(options))} if has_data else {}
        settings = self.settings(options)
        named = {"model": shape or model or "embedded"} if hasattr(options, "model") else {}

        def describe() -> dict[str, Any]:
            from fourshot.engine.checkpoints.models import resolve_model

            resolved = {"model": shape or resolve_model(model).name} if named else {}
            return header(name, {**settings, **resolved}, dummy_weights=bool(shape))

        done = FinishedPieces(
            path_beside(out, ".rows.jsonl") if out else None, {**settings, **named, **measured_on}, describe
        )
        _ = done.header  # before measuring, so that it names the commit of the code that measures
        measured = self.measure(options, done)
        result: dict[str, Any] = msgspec.to_builtins({**done.header, **measured})
        if not out:
            print(to_json(result), end="")
            return 0
        write_result(out, result)
        page = getattr(options, "report", path_beside(out, ".html"))
        if self.page and page:
            show_progress(f"Page: {write_page(page, self.page(result), result)}")
        print(self.markdown(result))
        return 0

    def markdown(self, result: Mapping[str, Any]) -> str:
        """Return the report of ``result`` and its targets as Markdown."""
        lines = target_lines(targets_of(result))
        return markdown([*self.report(result), *(["\n".join(lines)] if lines else [])])


class SuiteCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command that measures nothing itself: it compares results, computes from them, or runs suites."""

    options: type
    command: Callable[[Any], int]  # returns the exit code

    def run(self, name: str, options: Any) -> int:
        return self.command(options)
