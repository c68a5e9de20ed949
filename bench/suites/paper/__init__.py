"""The tables and figures of Patwa et al. 2024 on this machine, beside what is known of the paper's own numbers.

    fourshot bench paper --data FOLDER --out FILE.json --report FILE.html

FOLDER has a folder of train and test files for each task. Comparisons lie in --runs, one folder each: the same command
goes on where it was stopped. --from takes results of `fourshot compare` that there are already. The size small is for
two cores, full for GPUs; which comparisons they make is in bench/suites/paper/settings.toml.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fourshot.bench.core.results import write_result
from fourshot.bench.core.suite import Command
from fourshot.bench.core.targets import target_lines
from fourshot.engine.errors import InputError


class Options(msgspec.Struct, frozen=True, kw_only=True, rename={"known": "from"}):
    """Options of the command."""

    data: Annotated[Path | None, "a folder with sst2/, trec/ and ag_news/; without it, the hub"] = None
    out: Annotated[Path | None, "where the result goes, after every step"] = None
    report: Annotated[Path | None, "where the page goes"] = None
    size: Annotated[Literal["small", "full"], "of the suite"] = "small"
    tasks: Annotated[tuple[str, ...], "in place of the size's"] = ()
    seeds: Annotated[int | None, "draws of the shots, in place of the size's"] = None
    model: Annotated[str | None, "base model: a Hugging Face id or a folder; the embedded one if left out"] = None
    runs: Annotated[Path, "where comparisons lie"] = Path("runs/paper")
    known: Annotated[tuple[Path, ...], "results of comparisons there are"] = ()
    ray: Annotated[str, "train over Ray: 'local', 'auto' or a cluster's address"] = ""
    no_times: Annotated[bool, "do not time transformers"] = False
    draw: Annotated[Path | None, "measure nothing: draw the page of this result"] = None


def run(options: Options) -> int:
    """Measure what is missing, or draw a page."""
    from fourshot.bench.suites.paper.measure import PaperResult, PaperSuite, paper_options
    from fourshot.bench.suites.paper.page import read_result, write
    from fourshot.training.jobs.jobs import Placement

    if options.draw:
        if not options.report:
            raise InputError("--draw needs --report FILE.html: where the page goes.")
        write(read_result(options.draw), options.report)
        return 0
    if not (out := options.out):
        raise InputError("--out FILE.json is needed: where the result goes.")

    def keep(result: PaperResult) -> None:
        write_result(out, result)

    wanted = paper_options(
        options.size,
        options.tasks,
        options.seeds,
        data=options.data,
        model=options.model,
        runs=options.runs,
        known=options.known,
        placement=Placement(ray=options.ray),
        timed=not options.no_times,
    )
    result = PaperSuite(wanted, keep).run()
    if options.report:
        write(result, options.report)
        print(f"Page: {options.report}", file=sys.stderr)
    print("\n".join(target_lines(result.targets)))
    return 0


SUITE = Command(options=Options, command=run)
