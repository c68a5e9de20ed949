"""The numbers of docs/benchmarks.md, drawn from the results in bench/results.

python -m fourshot.bench.suites.docs --write docs/benchmarks.md        puts each table between its markers
python -m fourshot.bench.suites.docs --write README.md --only gain     only one of them; without --write, prints
"""

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fourshot.bench.core.old import read_result, target_lines
from fourshot.bench.core.workload import WAYS
from fourshot.bench.suites import adapters_report, breakeven
from fourshot.bench.suites import filter as filter_bench
from fourshot.bench.suites.latency import report as latency_report
from fourshot.bench.suites.throughput import report as throughput_report
from fourshot.engine.errors import InputError

RESULTS = Path(__file__).resolve().parents[1] / "results"
SHOWN_LOADS = (1, 16, "saturated")


def latency(result: Mapping[str, Any]) -> str:
    """Ratios at three loads, what else the page has, and the targets."""
    few = {**result, "against_icl": [one for one in result["against_icl"] if one["concurrency"] in SHOWN_LOADS]}
    return "\n".join([_where(result), "", latency_report.ratio_table(few), "", *target_lines(result)])


def gain(result: Mapping[str, Any]) -> str:
    """The headline: what a served adapter gains over each kind of in-context learning."""
    found = {(one["way"], one["task"], one["concurrency"]): one for one in result["against_icl"]}
    lines = [
        "| a served adapter answers, times what in context does | cache off, saturated | cache off, alone (p50) "
        "| cache warm, saturated | cache warm, alone (p50) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for task in result["settings"]["tasks"]:
        for way in ("lora", "lora_bare"):
            full, alone = found.get((way, task, "saturated")), found.get((way, task, 1))
            if full and alone:
                numbers = [
                    one[state][measure]["mean"]
                    for state in ("icl_off", "icl_warm")
                    for one, measure in ((full, "throughput"), (alone, "p50"))
                ]
                name = f"{latency_report.TITLES[task]}: {WAYS[way].display_name}"
                lines.append(f"| {name} | " + " | ".join(f"{number:.1f}" for number in numbers) + " |")
    return "\n".join(lines)


def adapters(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    told = (
        f"{settings['slots']} adapters in slots, {settings['memory_adapters']} in memory; {settings['kv_cache_mib']} "
        f"MiB for cached examples; {settings['concurrency']} requests at a time."
    )
    return "\n".join([_where(result), told, "", adapters_report.console_table(result)])


def break_even(result: Mapping[str, Any]) -> str:
    return "\n".join([_where(result), "", breakeven.SUITE.markdown(result)])


def against_vllm(result: Mapping[str, Any]) -> str:
    ours, theirs = result["ours"], result["vllm"]
    lines = ["| | ours | `vllm bench serve` |", "| --- | ---: | ---: |"]
    lines.append(f"| requests/s | {ours['requests_per_s']:.2f} | {theirs['requests_per_s']:.2f} |")
    lines.append(f"| mean latency, ms | {ours['mean_latency_ms']:.1f} | {theirs['mean_latency_ms']:.1f} |")
    return "\n".join([_where(result), "", *lines, "", *target_lines(result)])


def throughput(result: Mapping[str, Any]) -> str:
    return "\n".join([_where(result), "", throughput_report.table(result)])


def reading(result: Mapping[str, Any]) -> str:
    told = result["settings"]
    shown = f"{told['task']}, {told['k']} examples per class, {told['candidates']:,} texts."
    return "\n".join([_where(result), shown, "", filter_bench.table(result)])


def noise(result: Mapping[str, Any]) -> str:
    lines = [
        "| | comparisons | flagged | scatter of a repeat | median change, all cells |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind, name in (("noise", "nothing changed"), ("planted", f"{result['settings']['sleep_ms']:g} ms per step")):
        rows = [row for row in result["comparisons"] if row["kind"] == kind]
        flagged = sum(bool(row["flagged"] or row["overall_flagged"]) for row in rows)
        scatter = sum(row["scatter"] for row in rows) / len(rows)
        low, high = (100 * pick(row["overall"] for row in rows) for pick in (min, max))
        lines.append(f"| {name} | {len(rows)} | {flagged} | {100 * scatter:.1f} % | {low:+.1f} to {high:+.1f} % |")
    every = result["pairs"]
    told = (
        f"All runs with all others: {every['flagged']} of {every['unchanged']} pairs of unchanged runs flagged, "
        f"{every['found']} of {every['slowed']} with a slowed one found."
    )
    return "\n".join([_where(result), "", *lines, "", told, "", *target_lines(result)])


SECTIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "gain": ("latency", gain),
    "latency": ("latency", latency),
    "adapters": ("adapters", adapters),
    "breakeven": ("breakeven", break_even),
    "against-vllm": ("against-vllm", against_vllm),
    "throughput": ("throughput", throughput),
    "filter": ("filter", reading),
    "noise": ("noise", noise),
}


def sections(folder: Path, hardware: str) -> dict[str, str]:
    """Every section whose result is there. Raises InputError where a result is there twice."""
    found = {}
    for name, (suite, draw) in SECTIONS.items():
        files = sorted(folder.glob(f"{suite}-{hardware}.json"))
        if len(files) > 1:
            raise InputError(f"{suite} is there {len(files)} times in {folder}. Name one with --hardware.")
        if files:
            found[name] = draw(read_result(files[0], suite))
    return found


def put(text: str, drawn: Mapping[str, str]) -> str:
    """``text`` with each section between its markers. Raises InputError where a marker is missing."""
    for name, section in drawn.items():
        marks = re.compile(rf"(<!-- {name}:start -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        if not marks.search(text):
            raise InputError(
                f"there is no place for {name}: <!-- {name}:start --> and <!-- {name}:end --> are missing."
            )
        text = marks.sub(lambda found, section=section: f"{found[1]}{section}\n{found[2]}", text)  # type: ignore[misc]
    return text


def _where(result: Mapping[str, Any]) -> str:
    hardware = result["hardware"]
    gpus = hardware.get("gpus")
    machine = ", ".join(gpus) if gpus else f"{hardware.get('processor', '?')}, {hardware.get('cores', '?')} cores"
    return f"{machine}; {result['settings'].get('model', '')}; commit {result['commit']}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="a Markdown file with the markers")
    parser.add_argument("--only", choices=SECTIONS, help="one section")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--hardware", default="epyc-zen5-2cores", help="last part of the files' names (%(default)s)")
    options = parser.parse_args()
    drawn = sections(options.results, options.hardware)
    if not drawn:
        raise InputError(f"there is no result *-{options.hardware}.json in {options.results}. Measure, or name others.")
    if options.only:
        drawn = {name: section for name, section in drawn.items() if name == options.only}
    if options.write:
        options.write.write_text(put(options.write.read_text(encoding="utf-8"), drawn), encoding="utf-8")
    else:
        print("\n\n".join(drawn.values()))


if __name__ == "__main__":
    main()
