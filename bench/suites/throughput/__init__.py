"""Texts per second: vLLM alone, ours, a whole corpus, transformers in batches, distilabel; each beside the limit.

    fourshot bench throughput --data FOLDER --out FILE.json      under 15 minutes on two cores

All get the same prompts and the same sampling, and what they say is judged by the same text filter. vLLM alone, with
token ids made beforehand and the fastest of a few batch sizes, is the ceiling for ours.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.engines import Base
from fourshot.bench.core.old import Rows, check_data, check_out, header, positive, write_json
from fourshot.bench.core.workload import load_workload
from fourshot.bench.suites.throughput.measure import Measuring, ThroughputSettings
from fourshot.bench.suites.throughput.report import summarise, table
from fourshot.engine.errors import InputError
from fourshot.engine.models import resolve_model

SCHEMA = 1


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is missing, and write everything."""
    from fourshot.bench.core.model_shape import shape_of
    from fourshot.bench.core.roofline import machine_apart

    settings = msgspec.convert(
        {name: getattr(options, name) for name in ThroughputSettings.__struct_fields__}, ThroughputSettings
    )
    check_out(options.out)
    check_data(options.data, [settings.task])
    if options.distilabel and not shutil.which(options.distilabel):
        raise InputError(f"--distilabel {options.distilabel} is no program. Name a Python interpreter.")
    model = resolve_model(options.model)
    base = Base(path=model.path, name=model.name)
    told = {**msgspec.to_builtins(settings), "model": model.name}
    rows = Rows(options.out.with_suffix(".rows.jsonl"), told)
    stuff = load_workload(settings.task, options.data, settings.k)
    measuring = Measuring(settings, stuff, base, rows, options.out.with_suffix(".log"))
    if "header" not in rows.found:
        rows.add("machine", msgspec.to_builtins(machine_apart(base.path)))
        rows.add("header", header("throughput", SCHEMA, told))
    measuring.side_by_side(measuring.ceilings())
    measuring.corpus()
    measuring.filter()
    measuring.distilabel(options.distilabel)
    if "machine after" not in rows.found:
        rows.add("machine after", msgspec.to_builtins(machine_apart(base.path)))
    result = {**rows.found["header"], **summarise(settings, stuff, shape_of(base.path), rows.found)}
    write_json(options.out, result)
    return result


def main() -> None:
    default = ThroughputSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder for the task")
    parser.add_argument("--out", type=Path, required=True, help="where the result goes; .rows.jsonl and .log beside it")
    parser.add_argument("--model", help="base model; the embedded one if left out")
    parser.add_argument("--task", default=default.task, help="default: %(default)s")
    for name, told in (
        ("--shots", "per class"),
        ("--draws-per-class", "texts per class and repeat"),
        ("--repeats", "of vLLM alone, ours and transformers, by turns"),
        ("--batch-texts", "of transformers, in a repeat"),
        ("--corpus-rows", "of the corpus, per class"),
        ("--filter-texts", "that the filter reads"),
    ):
        field = "k" if name == "--shots" else name[2:].replace("-", "_")
        value = getattr(default, field)
        parser.add_argument(name, dest=field, type=positive, default=value, metavar="N", help=f"{told} (%(default)s)")
    parser.add_argument(
        "--distilabel", metavar="PYTHON", default="", help="an interpreter that has fourshot and distilabel"
    )
    print(table(run(parser.parse_args())))


if __name__ == "__main__":
    main()
