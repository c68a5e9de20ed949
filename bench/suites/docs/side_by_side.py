"""What the suites measured earlier beside what they measured last: every target that both results have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourshot.bench.core.parts import TablePart, markdown, targets_of
from fourshot.bench.core.results import read_result

EARLIER = "earlier"  # folder in that of the results: those that a later one stands in for
SAME = ("model", "shape", "task")  # settings in which two results of a suite must agree to be put side by side


def side_by_side(folder: Path) -> str:
    """A table for each result in `EARLIER`: the targets, measured then and now; "" where nothing was measured again."""
    now = [(path, read_result(path)) for path in sorted(folder.glob("*.json")) if _is_of_a_suite(path)]
    tables = []
    for path in sorted((folder / EARLIER).glob("*.json")):
        before = read_result(path)
        tables += [_table(path, before, other, result) for other, result in now if _is_again(before, result)]
    return markdown(tables)


def _is_of_a_suite(path: Path) -> bool:
    return b'"suite"' in path.read_bytes()


def _is_again(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    settings = before["settings"], now["settings"]
    return before["suite"] == now["suite"] and all(settings[0].get(key) == settings[1].get(key) for key in SAME)


def _table(path: Path, before: Mapping[str, Any], other: Path, now: Mapping[str, Any]) -> TablePart:
    earlier = {target.name: target for target in targets_of(before)}
    pairs = [(earlier[target.name], target) for target in targets_of(now) if target.name in earlier]
    goals = [(then.name, then.goal) for then, target in pairs if then.goal != target.goal]
    columns = [
        f"{file.stem.removeprefix(result['suite'] + '-')}, {result['commit'][:7]}"
        for file, result in ((path, before), (other, now))
    ]
    rows = [
        [target.name, f"{target.goal:g}", f"{then.measured:.3g}", f"{target.measured:.3g}"] for then, target in pairs
    ]
    note = f"Targets at that time: {', '.join(f'{name} {goal:g}' for name, goal in goals)}." if goals else ""
    return TablePart([f"{now['suite']}", "target", *columns], rows, note=note)
