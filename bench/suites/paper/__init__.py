"""The tables and figures of Patwa et al. 2024 on this machine, beside what is known of the paper's own numbers.

    fourshot bench paper --data FOLDER --out FILE.json --report FILE.html

FOLDER has a folder of train and test files for each task. Comparisons lie in --runs, one folder each: the same command
goes on where it was stopped. --from takes results of `fourshot compare` that there are already. The size small is for
two cores, full for GPUs; which comparisons they make is in bench/suites/paper/settings.toml.
"""

from pathlib import Path
from typing import Any

from fourshot.bench.core.page import write_page
from fourshot.bench.core.results import read_result, tell, write_result
from fourshot.bench.core.rows import Rows
from fourshot.bench.core.suite import Command, Suite
from fourshot.bench.suites.paper.measure import PaperMeasurement
from fourshot.bench.suites.paper.page import page
from fourshot.bench.suites.paper.plan import Options, resolved_plan
from fourshot.bench.suites.paper.timing import BATCH
from fourshot.engine.errors import InputError
from fourshot.engine.models import resolve_model


def measure(options: Options, rows: Rows) -> dict[str, Any]:
    """Measure what is missing. The result is written after every step, so a stopped suite leaves what it has."""
    header, out = rows.header, options.out
    assert out
    return PaperMeasurement(options, lambda result: write_result(out, {**header, **result})).run()


def settings(options: Options) -> dict[str, Any]:
    plan = resolved_plan(options)
    return {
        "size": options.size,
        "model_revision": resolve_model(options.model).revision,
        "tasks": plan.tasks,
        "seeds": list(range(plan.seeds)),
        "test_limit": plan.test_limit,
        "timed_texts": plan.timed_texts,
        "batch": BATCH,
    }


MEASUREMENT = Suite(
    options=Options, measure=measure, settings=settings, tasks=lambda options: resolved_plan(options).tasks
)


def draw(file: Path, report: Path) -> None:
    """Write the page of the result in ``file``."""
    result = read_result(file, "paper")
    write_page(report, page(result), result)
    tell(f"Page: {report}")


def command(options: Options) -> int:
    """Measure, or draw a page."""
    if options.draw:
        if not options.report:
            raise InputError("--draw needs --report FILE.html: where the page goes.")
        draw(options.draw, options.report)
        return 0
    if not options.out:
        raise InputError("--out FILE.json is needed: where the result goes.")
    code = MEASUREMENT.run("paper", options)
    if options.report:
        draw(options.out, options.report)
    return code


SUITE = Command(options=Options, command=command)
