"""Suites that were measured again: the targets of both results, side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourshot.bench.core.parts import TablePart, markdown, targets_of
from fourshot.bench.core.results import read_result

AGAIN = "again"  # subfolder of the results: later measurements, on other machines or of later commits
SAME = ("model", "shape", "task")  # settings that two results of a suite must share to be compared


def side_by_side(folder: Path) -> str:
    """Return a Markdown table of targets for each result in `AGAIN`, against the matching result in ``folder``."""
    first = [(path, read_result(path)) for path in sorted(folder.glob("*.json")) if b'"suite"' in path.read_bytes()]
    tables = []
    for path in sorted((folder / AGAIN).glob("*.json")):
        again = read_result(path)
        tables += [_table(other, before, path, again) for other, before in first if _is_again(before, again)]
    return markdown(tables)


def _is_again(before: Mapping[str, Any], again: Mapping[str, Any]) -> bool:
    settings = before["settings"], again["settings"]
    return before["suite"] == again["suite"] and all(settings[0].get(key) == settings[1].get(key) for key in SAME)


def _table(path: Path, before: Mapping[str, Any], other: Path, again: Mapping[str, Any]) -> TablePart:
    """Return the table of two results. If a goal changed in between, the later one is shown."""
    earlier = {target.name: target for target in targets_of(before)}
    columns = [
        f"{file.stem.removeprefix(result['suite'] + '-')}, {result['commit'][:7]}"
        for file, result in ((path, before), (other, again))
    ]
    rows = [
        [
            target.name,
            f"{target.goal:g}",
            f"{then.measured:.3g}" if (then := earlier.get(target.name)) else None,
            f"{target.measured:.3g}",
        ]
        for target in targets_of(again)
    ]
    return TablePart([again["suite"], "target", *columns], rows)
