"""What varying the prompts gains: how varied the kept texts are, and how good an adapter that learns from them is.

    fourshot bench diversity --data FOLDER --out FILE.json

For every task and seed each of `WAYS` writes its texts, has them re-labelled, and trains an adapter, which is measured
on the test split: `fourshot compare`, in a folder beside the result, which a call that was killed goes on with. All
ways of a task and seed are measured on as many texts, drawn from those that each kept, beside as many real ones.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec

from fourshot.bench.core.old import check_data, check_out, header, positive, read_result, tell, write_json
from fourshot.bench.suites import tables
from fourshot.bench.suites.diversity.measures import NEIGHBOURS, Encoder, check_installed, coverage, self_bleu
from fourshot.engine.errors import InputError, ShortRunError
from fourshot.engine.models import resolve_model
from fourshot.pipeline.events import Event
from fourshot.pipeline.runs.compare import Comparison, compare
from fourshot.pipeline.runs.methods import METHODS
from fourshot.pipeline.runs.run import train_pool
from fourshot.pipeline.runs.run_folder import RunFolder
from fourshot.pipeline.synthesis.diversity import distinct, unique_trigram_curve
from fourshot.pipeline.synthesis.rounds import finished_pairs
from fourshot.pipeline.synthesis.settings import GenerateSettings, RunSettings
from fourshot.pipeline.tasks.task_file import load_task

SCHEMA = 1
BASELINE = "fourshot"
WAYS = (BASELINE, "fixed_order", "redrawn", "attributes", "suppressed", "attributes_suppressed")
REAL = "real"
REAL_TEXTS = 1_000  # that coverage is a share of
MEASURES = {  # key -> heading, factor, format
    "trigrams": ("different tri-grams", 1, ",.0f"),
    "distinct_1": ("distinct-1", 1, ".3f"),
    "distinct_2": ("distinct-2", 1, ".3f"),
    "self_bleu": ("self-BLEU", 1, ".3f"),
    "coverage": ("coverage of real texts, %", 100, ".1f"),
    "acceptance": ("accepted, %", 100, ".0f"),
    "accuracy": ("accuracy, %", 100, ".1f"),
}


def run_settings(per_class: int, draws_per_round: int) -> RunSettings:
    """Rounds are small, so that what one round over-uses is known in the next."""
    return RunSettings(
        generate=GenerateSettings(per_class=per_class, draws_per_round=draws_per_round), allow_short=True
    )


def measure_task(name: str, options: argparse.Namespace, encoder: Encoder) -> list[dict[str, Any]]:
    """A row for each way and seed, and one for real texts per seed."""
    task = load_task(name, options.data / name)
    folder = options.out.with_suffix("") / name
    settings = run_settings(options.per_class, options.draws_per_round)
    found = compare(task, options.model, settings, WAYS, range(options.seeds), folder, on_event=_told)
    pool = [example.text for example in train_pool(task)]
    rows = []
    for seed in range(options.seeds):
        pairs = {way: finished_pairs(RunFolder(folder / f"seed{seed}" / way)) for way in WAYS}
        kept = {way: [candidate.text for candidate, verdict in pairs[way] if verdict.kept] for way in WAYS}
        fewest, size = min(((way, len(texts)) for way, texts in kept.items()), key=lambda pair: pair[1])
        if size < 2:
            raise ShortRunError(
                f"{name}, seed {seed}: {fewest} kept {size} texts, and at least 2 are needed to tell how varied they "
                "are. Ask for more (--per-class)."
            )
        draw = random.Random(f"{name}/{seed}")
        drawn_real = draw.sample(pool, min(len(pool), size + REAL_TEXTS))
        kept[REAL], real = drawn_real[:size], drawn_real[size:]
        if len(real) <= NEIGHBOURS:
            raise InputError(
                f"{name} has {len(pool)} training texts; more than {size + NEIGHBOURS} are needed: {size} to stand "
                "beside the synthetic ones, the others to be covered. Give more, or ask for fewer (--per-class)."
            )
        vectors = encoder.encode(real)
        for way, texts in kept.items():
            chosen = draw.sample(texts, size)
            row = {"task": name, "seed": seed, "way": way, "texts": size, "kept": len(texts)}
            row |= _varied(chosen)
            row["coverage"] = coverage(vectors, encoder.encode(chosen))
            if way != REAL:
                drawn = [verdict.reason for _, verdict in pairs[way]]
                row["drawn"] = len(drawn)
                row["acceptance"] = sum(reason in ("kept", "surplus") for reason in drawn) / len(drawn)
                row["accuracy"] = _accuracy(found, way, seed)
            rows.append(row)
        tell(f"{name}, seed {seed}: measured on {size} texts of each way")
    return rows


def _varied(texts: Sequence[str]) -> dict[str, float]:
    return {
        "trigrams": unique_trigram_curve(texts, [len(texts)])[0],
        **{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)},
        "self_bleu": self_bleu(texts),
    }


def _accuracy(found: Comparison, way: str, seed: int) -> float:
    (result,) = (one for one in found.results if (one.method, one.seed) == (way, seed))
    return result.scores.accuracy


def gains(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each way, by how much it differs from the baseline on the same task and seed: mean and standard error."""
    of = {(row["task"], row["seed"], row["way"]): row for row in rows}
    places = sorted({(row["task"], row["seed"]) for row in rows})
    found = []
    for way in WAYS[1:]:
        gain: dict[str, Any] = {"way": way}
        for measure in ("accuracy", "trigrams", "coverage", "self_bleu"):
            ours, before = ([of[(*place, one)][measure] for place in places] for one in (way, BASELINE))
            differences = [
                one / other - 1 if measure == "trigrams" else one - other
                for one, other in zip(ours, before, strict=True)
            ]
            error = stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else None
            gain[measure] = {"mean": fmean(differences), "standard_error": error}
        found.append(gain)
    return found


def table(result: Mapping[str, Any]) -> str:
    """Means over the seeds, task by task, and the differences over all, as Markdown."""
    lines = []
    for name in result["settings"]["tasks"]:
        rows = [row for row in result["rows"] if row["task"] == name]
        sizes = sorted({row["texts"] for row in rows})
        lines += [
            f"**{tables.TASKS.get(name, name)}**, {' to '.join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))} texts:",
            "",
            f"| | {' | '.join(heading for heading, _, _ in MEASURES.values())} |",
            f"| --- |{' ---: |' * len(MEASURES)}",
        ]
        lines += [_line(way, [row for row in rows if row["way"] == way]) for way in (*WAYS, REAL)]
        lines.append("")
    lines += [
        f"Against {_name(BASELINE)}, same task and seed, mean and standard error over "
        f"{len(result['settings']['tasks']) * result['settings']['seeds']}:",
        "",
        "| | accuracy, points | different tri-grams | coverage, points | self-BLEU |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for gain in result["gains"]:
        cells = [
            _difference(gain[measure], factor, digits)
            for measure, factor, digits in (
                ("accuracy", 100, ".1f"),
                ("trigrams", 100, ".0f"),
                ("coverage", 100, ".1f"),
                ("self_bleu", 1, ".3f"),
            )
        ]
        cells[1] += " %"
        lines.append(f"| {_name(gain['way'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _line(way: str, rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for measure, (_, factor, digits) in MEASURES.items():
        values = [factor * row[measure] for row in rows if measure in row]
        spread = f" ± {stdev(values):{digits}}" if measure == "accuracy" and len(values) > 1 else ""
        cells.append(f"{fmean(values):{digits}}{spread}" if values else "")
    return f"| {_name(way)} | {' | '.join(cells)} |"


def _name(way: str) -> str:
    return "as many real texts" if way == REAL else METHODS[way].display_name


def _difference(gain: Mapping[str, Any], factor: float, digits: str) -> str:
    error = gain["standard_error"]
    return f"{factor * gain['mean']:+{digits}}" + (f" ± {factor * error:{digits}}" if error is not None else "")


def _told(event: Event) -> None:
    if event.done == event.total:
        tell(f"{event.stage}: {event.message}")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is missing, and write everything."""
    check_out(options.out)
    check_data(options.data, options.tasks)
    check_installed()
    encoder = Encoder()
    rows = [row for name in options.tasks for row in measure_task(name, options, encoder)]
    told = {
        "model": resolve_model(options.model).name,
        "tasks": options.tasks,
        "seeds": options.seeds,
        "per_class": options.per_class,
        "draws_per_round": options.draws_per_round,
        "ways": {way: msgspec.to_builtins(METHODS[way].settings(RunSettings()).variety) for way in WAYS},
    }
    result = {**header("diversity", SCHEMA, told), "rows": rows, "gains": gains(rows)}
    write_json(options.out, result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with a folder for each task")
    parser.add_argument("--out", type=Path, required=True, help="where the result goes; the runs in a folder beside it")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "trec"], help="default: sst2 trec")
    parser.add_argument("--seeds", type=positive, default=3, help="draws of shots (default: %(default)s)")
    parser.add_argument("--per-class", type=positive, default=50, metavar="N", help="default: %(default)s")
    parser.add_argument("--draws-per-round", type=positive, default=16, metavar="N", help="default: %(default)s")
    parser.add_argument("--model", help="base model; the embedded one if left out")
    parser.add_argument("--write", type=Path, help="put the table of --out, a result, between this file's markers")
    options = parser.parse_args()
    if options.write:
        drawn = table(read_result(options.out, "diversity"))
        options.write.write_text(tables.fill(options.write.read_text("utf-8"), {"diversity": drawn}), "utf-8")
        return
    if not options.data:
        parser.error("--data is needed: a folder with a folder for each task")
    print(table(run(options)))


if __name__ == "__main__":
    main()
