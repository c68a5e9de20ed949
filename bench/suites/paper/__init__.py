"""The tables and figures of Patwa et al. 2024 on this machine, beside what is known of the paper's own numbers.

    fourshot bench paper --data FOLDER --out FILE.json --report FILE.html

FOLDER has a folder of train and test files for each task. Comparisons lie in --runs, one folder each: the same command
goes on where it was stopped. --from takes results of `fourshot compare` that there are already. The size small is for
two cores, full for GPUs; which comparisons they make is in bench/suites/paper/settings.toml. With --models A,B each
base is measured as it would be alone, in a folder of its own in --runs, and the page has them side by side.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourshot.bench.core.comparisons import in_words
from fourshot.bench.core.page import write_page
from fourshot.bench.core.parts import Part, markdown
from fourshot.bench.core.results import read_result, tell, write_result
from fourshot.bench.core.rows import ResultRows
from fourshot.bench.core.suite import Suite, SuiteCommand
from fourshot.bench.core.targets import target_lines, targets_of
from fourshot.bench.suites.paper.bases import base_options, base_results, measure_bases
from fourshot.bench.suites.paper.figures import accuracy_table
from fourshot.bench.suites.paper.measure import PaperMeasurement
from fourshot.bench.suites.paper.page import page
from fourshot.bench.suites.paper.plan import Options, resolved_plan
from fourshot.bench.suites.paper.scores import mean_scores
from fourshot.bench.suites.paper.timing import BATCH
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import InputError


def measure(options: Options, rows: ResultRows) -> dict[str, Any]:
    """Measure what is missing. The result is written after every step, so a stopped suite leaves what it has."""
    header, out = rows.header, options.out
    assert out
    if options.models:
        header["settings"] = {**header["settings"], "model": in_words([base.name for base in base_options(options)])}

    def write(result: dict[str, Any]) -> None:
        write_result(out, {**header, **result})

    if not options.models:
        return PaperMeasurement(options, write).run()
    measured = measure_bases(options, write, lambda alone, on_step: PaperMeasurement(alone, on_step).run())
    return {"settings": header["settings"], **measured}


def settings(options: Options) -> dict[str, Any]:
    plan = resolved_plan(options)
    bases = list(base_options(options)) if options.models else [resolve_model(options.model)]
    return {
        "size": options.size,
        "model_revision": in_words([base.revision for base in bases]),
        "tasks": plan.tasks,
        "seeds": list(range(plan.seeds)),
        "test_limit": plan.test_limit,
        "timed_texts": plan.timed_texts,
        "batch": BATCH,
    }


def report(result: Mapping[str, Any]) -> list[Part]:
    """Table 1 of every base, where there are several."""
    return _tables(result) if "bases" in result else []


def tables(result: Mapping[str, Any]) -> str:
    """Table 1 of every base, and the targets, as Markdown."""
    return markdown([*_tables(result), "\n".join(target_lines(targets_of(result)))])


def _tables(result: Mapping[str, Any]) -> list[Part]:
    parts: list[Part] = []
    for title, base in base_results(result).items():
        parts += [f"**{title}**", accuracy_table(mean_scores(base.cells), result["settings"]["tasks"])]
    return parts


MEASUREMENT = Suite(
    options=Options,
    measure=measure,
    settings=settings,
    tasks=lambda options: resolved_plan(options).tasks,
    report=report,
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


SUITE = SuiteCommand(options=Options, command=command)
