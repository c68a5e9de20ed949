"""The tables and figures of Patwa et al. 2024 on this machine, beside what is known of the paper's own numbers.

    fourshot bench paper --data FOLDER --out FILE.json --report FILE.html

FOLDER has a folder of train and test files for each task. Comparisons lie in --runs, one folder each: the same command
goes on where it was stopped. --from takes results of `fourshot compare` that there are already. The size small is for
two cores, full for GPUs; which comparisons they make is in bench/paper/settings.toml.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    options = _parser().parse_args()
    import msgspec

    from fourshot.bench.suites.paper.measure import Result, Suite, ask
    from fourshot.bench.suites.paper.page import read_result, write
    from fourshot.engine.errors import InputError
    from fourshot.engine.files import replace_file
    from fourshot.training.jobs.jobs import Placement

    if options.draw:
        if not options.report:
            raise InputError("--draw needs --report FILE.html: where the page goes.")
        write(read_result(options.draw), options.report)
        return
    if not options.out:
        raise InputError("--out FILE.json is needed: where the result goes.")

    def keep(result: Result) -> None:
        replace_file(options.out, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")

    asked = ask(
        options.size,
        [name.strip() for name in options.tasks.split(",")] if options.tasks else (),
        options.seeds,
        data=options.data,
        model=options.model,
        runs=options.runs,
        known=tuple(options.known),
        placement=Placement(ray=options.ray),
        timed=not options.no_times,
    )
    result = Suite(asked, keep).run()
    if options.report:
        write(result, options.report)
        print(f"Page: {options.report}", file=sys.stderr)
    for target in result.targets:
        told = "met    " if target.met else "NOT MET"
        print(f"{told} {target.name}: {target.measured:g} {target.unit}, at least {target.goal:g} wanted")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with sst2/, trec/ and ag_news/; without it, the hub")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where the result goes, after every step")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="where the page goes")
    parser.add_argument("--size", choices=("small", "full"), default="small", help="default: %(default)s")
    parser.add_argument("--tasks", help="a comma-separated list, in place of the size's")
    parser.add_argument("--seeds", type=int, help="draws of the shots, in place of the size's")
    parser.add_argument("--model", help="base model: a Hugging Face id or a folder; the embedded one if left out")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--from", dest="known", type=Path, nargs="+", default=[], metavar="FILE.json", help="comparisons there are"
    )
    parser.add_argument("--ray", default="", help="train over Ray: 'local', 'auto' or a cluster's address")
    parser.add_argument("--no-times", action="store_true", help="do not time transformers")
    parser.add_argument("--draw", type=Path, metavar="FILE.json", help="measure nothing: draw the page of this result")
    return parser
