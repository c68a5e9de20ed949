"""The adapters suite's table on the console, and its page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourshot.bench.core.old_page import Section, Table, provenance, write_page
from fourshot.bench.core.plots import Curve, line_plot

HEAD = (
    "kind",
    "tasks",
    "spread",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "hit rate",
    "fetched: disk",
    "memory",
    "ms per fetch from disk",
)


def console_table(result: Mapping[str, Any]) -> str:
    """Every cell as Markdown."""
    lines = ["| " + " | ".join(HEAD) + " |", "| --- | ---: | --- |" + " ---: |" * (len(HEAD) - 3)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows(result))])


def rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row per cell."""
    found: list[tuple[str, ...]] = []
    for cell in result["cells"]:
        loads = cell["adapter_loads"]
        cold, memory = loads.get("cold", {}), loads.get("memory", {})
        each = cold.get("ms_each")
        found.append(
            (
                cell["kind"],
                f"{cell['number']:,}",
                cell["spread"],
                _estimate(cell["requests_per_s"]),
                _estimate(cell["p50_ms"]),
                f"{cell['p99_ms']:.0f}",
                f"{cell['hit_rate']:.2f}",
                str(cold.get("uses", "-")),
                str(memory.get("uses", "-")),
                f"{each:.1f}" if each else "-",
            )
        )
    return found


def write_report(path: Path, result: Mapping[str, Any]) -> Path:
    """The page beside the JSON."""
    settings = result["settings"]
    text = (
        f"{settings['slots']} adapters are in slots and {settings['memory_adapters']} in memory; examples are cached "
        f"in {settings['kv_cache_mib']} MiB. {settings['concurrency']} requests at a time."
    )
    sections = [
        Section("Throughput", [text, _plot(result, "requests_per_s", "requests/s")]),
        Section("Latency", [_plot(result, "p99_ms", "p99, ms")]),
        Section("Hits in the prefix cache", [_plot(result, "hit_rate", "share of prompt tokens")]),
        Section("Every cell", [Table(HEAD, rows(result))]),
        provenance(result),
    ]
    return write_page(path, "Many tasks on one base", sections, lead=str(settings["model"]), suite="adapters")


def _plot(result: Mapping[str, Any], value: str, name: str) -> Any:
    curves: dict[str, list[tuple[float, float]]] = {}
    for cell in result["cells"]:
        found = cell[value]["mean"] if isinstance(cell[value], Mapping) else cell[value]
        spreads = ("uniform", "Zipf 1.1") if cell["number"] == 1 else (cell["spread"],)
        for spread in spreads:
            curves.setdefault(f"{cell['kind']}, {spread}", []).append((float(cell["number"]), found))
    return line_plot(
        [Curve(label, sorted(points)) for label, points in curves.items()], x_name="tasks", y_name=name, log_x=True
    )


def _estimate(found: Mapping[str, Any]) -> str:
    if found.get("low") is None:
        return f"{found['mean']:.1f}"
    return f"{found['mean']:.1f} ({found['low']:.1f} to {found['high']:.1f})"
