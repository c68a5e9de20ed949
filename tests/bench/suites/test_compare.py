"""`fourshot bench compare`: what changed by more than the noise of both results."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fourshot.bench.core.parts import markdown
from fourshot.bench.core.results import FinishedPieces, write_result
from fourshot.bench.suites import noise
from fourshot.bench.suites.compare import CellChange, ResultChanges, compare, report
from fourshot.cli import main as cli
from fourshot.engine.errors import InputError


def result(seed: int, slower: float = 1.0, cells: int = 12, only: int | None = None) -> dict[str, Any]:
    """A latency result whose repeats scatter by three per cent."""
    draw = random.Random(seed)
    measured_cells = []
    for number in range(cells):
        factor = slower if only is None or only == number else 1.0
        rates = [100 / (number + 1) / factor * draw.gauss(1, 0.03) for _ in range(3)]
        measured_cells.append(
            {
                "route": "in-process",
                "way": "lora",
                "task": "sst2",
                "load": number,
                "requests_per_s": {"values": rates},
                "p50_ms": {"values": [1000 / rate for rate in rates]},
            }
        )
    return {"schema": 1, "suite": "latency", "cells": measured_cells}


def test_noise_alone_is_not_flagged() -> None:
    flagged = 0
    for seed in range(50):
        compared = compare(result(seed), result(seed + 1000))
        flagged += compared.slower or compared.overall_flagged
    assert flagged <= 1


def test_a_slowdown_of_everything_is_flagged_even_where_no_cell_is() -> None:
    compared = compare(result(1), result(2, slower=1.09))
    assert compared.overall_flagged
    assert compared.slower
    assert compared.overall == pytest.approx(0.09, abs=0.03)


def test_a_slowdown_of_one_cell_is_flagged_there_and_nowhere_else() -> None:
    compared = compare(result(1), result(2, slower=1.4, only=5))
    assert {change.cell for change in compared.changes if change.flagged} == {"in-process/lora/sst2/5"}
    assert compared.slower
    assert not compared.overall_flagged
    assert "in-process/lora/sst2/5" in markdown(report(compared))


def test_what_became_faster_is_told_and_is_no_alarm() -> None:
    compared = compare(result(1, slower=1.3), result(2))
    assert compared.overall_flagged
    assert not compared.slower
    assert "% faster, beyond noise" in markdown(report(compared))


@pytest.mark.parametrize(("common", "own", "alarm"), [(1.085, 1.01, False), (0.92, 0.995, True)])
def test_a_cell_is_slower_or_faster_than_the_common_change(common: float, own: float, alarm: bool) -> None:
    """Below `DRIFT`, what all cells share is taken for a change of the machine, on either side."""
    after = result(1, slower=common)
    for cell, unchanged in zip(after["cells"][-1:], result(1)["cells"][-1:], strict=True):
        cell["requests_per_s"]["values"] = [rate / own for rate in unchanged["requests_per_s"]["values"]]
        cell["p50_ms"]["values"] = [own * ms for ms in unchanged["p50_ms"]["values"]]
    compared = compare(result(1), after)
    (change, _) = (change for change in compared.changes if change.flagged)
    assert not compared.overall_flagged
    assert change.slower == pytest.approx(own / common - 1)
    assert compared.slower is alarm
    assert "relative to the common change" in markdown(report(compared))


def test_a_change_is_given_as_the_bound_that_it_is_beyond() -> None:
    """Both are ratios: 1.5 times as slow and 1.5 times as fast are +50 % and -33 %."""
    change = CellChange(cell="a", measure="p50_ms", before=1.5, after=1.0, slower=-0.333, flagged=True)
    overall: dict[str, Any] = {"overall": 0.0, "overall_bound": 0.1, "overall_flagged": False}
    shown = markdown(report(ResultChanges(changes=(change,), scatter=0.1, bound=0.44, **overall)))
    assert "| -33.3 % |" in shown and "so a change counts from +44.0 % or -30.6 % on" in shown
    assert "(it counts from +10.0 % or -9.1 % on)" in shown


def test_results_of_different_suites_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="serving"):
        compare(result(1), {"suite": "serving", "cells": []})


def test_results_without_a_common_cell_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="cut off"):
        compare(result(1), {"suite": "latency", "cells": []})
    renamed = result(2)
    for cell in renamed["cells"]:
        cell["way"] = "another"
    with pytest.raises(InputError, match="no cell"):
        compare(result(1), renamed)


def test_the_command_ends_with_one_where_something_is_slower(tmp_path: Path, capsys: Any) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps(result(1)))
    after.write_text(json.dumps(result(2, slower=1.5)))
    assert run(["bench", "compare", str(before), str(before)]) == 0
    assert run(["bench", "compare", str(before), str(after)]) == 1
    assert "beyond noise" in capsys.readouterr().out


def test_the_command_refuses_what_is_no_result(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "other.json"
    file.write_text("[]")
    assert run(["bench", "compare", str(file), str(file)]) == 2
    assert "not a result" in capsys.readouterr().err


def run(arguments: list[str]) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def test_a_slower_machine_is_not_a_slower_engine_and_values_stay_those_of_the_first_result() -> None:
    before, after = result(1), result(1, slower=1.5)
    for cell, yard in [(cell, 0.01) for cell in before["cells"]] + [(cell, 0.015) for cell in after["cells"]]:
        cell["yardstick_s"] = [yard] * 3
    compared = compare(before, after)
    assert not compared.slower
    assert compared.overall == pytest.approx(0, abs=1e-9)
    first = next(
        change for change in compared.changes if change.cell.endswith("/0") and change.measure == "requests_per_s"
    )
    assert first.before == pytest.approx(100, rel=0.1)
    for cell in after["cells"]:
        cell["yardstick_s"] = [0.01] * 3
    assert compare(before, after).slower


@pytest.mark.parametrize(
    ("name", "change"),
    [("model", {"settings": {"model": "large"}}), ("dummy weights", {"dummy_weights": True})],
)
def test_results_of_another_model_are_not_compared(name: str, change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"differ in {name}"):
        compare({**result(1), "settings": {"model": "small"}, "dummy_weights": False}, {**result(2), **change})


def test_what_else_differs_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / f"{cores}.json" for cores in (2, 4)]
    for file, seed in zip(files, (1, 2), strict=True):
        write_result(file, {**result(seed), "hardware": {"cores": int(file.stem)}})
    assert cli.main(["bench", "compare", *map(str, files)]) == 0
    assert "Not the same in both: hardware cores: 2, 4" in capfd.readouterr().err


def test_a_value_of_zero_is_named() -> None:
    broken = result(1)
    broken["cells"][3]["p50_ms"]["values"][1] = 0.0
    with pytest.raises(InputError, match="in-process/lora/sst2/3 has a value of 0"):
        compare(broken, result(2))


def test_runs_of_noise_are_kept_with_what_they_were_measured_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of an earlier commit are not taken for those of the present one."""
    made: list[str] = []

    def run_once(name: str, sleep_ms: float, options: noise.Options) -> dict[str, Any]:
        made.append(name)
        return result(len(made), slower=1 + sleep_ms / 50)

    monkeypatch.setattr(noise, "run_once", run_once)
    options = noise.Options(data=tmp_path, out=tmp_path / "noise.json", repeats=2)
    for commit in ("first", "second"):
        done = FinishedPieces(tmp_path / "noise.rows.jsonl", {}, lambda commit=commit: {"commit": commit})  # type: ignore[misc]
        measured = noise.measure(options, done)
        assert [row["kind"] for row in measured["comparisons"]] == ["noise", "planted"] * 2
        assert done.header["commit"] == "first"
    assert made == ["clean-0", "clean-1", "slowed-1", "clean-2", "slowed-2"]
