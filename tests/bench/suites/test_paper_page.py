"""The paper's tables and figures: the command, several bases, and what the page says."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.bench.core.parts import Target, targets_of, write_page
from fourshot.bench.core.results import RESULTS, read_result
from fourshot.bench.suites import paper
from fourshot.bench.suites.paper import page as paper_page
from fourshot.bench.suites.paper import scores as paper_scores
from fourshot.bench.suites.paper.measure import PaperMeasurement, base_options, measure_bases, runs_name
from fourshot.bench.suites.paper.plan import (
    Options,
)
from fourshot.bench.suites.paper.scores import base_results, mean_scores
from fourshot.cli import main as cli
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import InputError
from tests.bench.suites.paper_doubles import FakeCompare, comparison, in_a_file, times


def test_the_page_says_what_was_not_measured(options_of: Callable[..., Options], tmp_path: Path) -> None:
    options = options_of(no_times=True)
    result = in_a_file(options, PaperMeasurement(options, lambda _: None, FakeCompare()).result())
    page = write_page(tmp_path / "empty.html", paper_page(result), result).read_text("utf-8")
    assert page.count("not measured") > 20 and "Figures 5 and 6" in page


def test_the_command_writes_what_every_suite_writes_and_a_page(
    options_of: Callable[..., Options],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(paper, "PaperMeasurement", partial(PaperMeasurement, compare=FakeCompare(), time_task=times))
    out, report = tmp_path / "result.json", tmp_path / "page.html"
    assert paper.SUITE.run("paper", options_of(out=out, report=report)) == 0
    result = json.loads(out.read_bytes())
    assert (result["schema"], result["suite"]) == (1, "paper")
    assert {"commit", "hardware", "versions", "settings", "cells", "targets"} <= result.keys()
    assert all(target.keys() == {"name", "unit", "measured", "goal", "met"} for target in result["targets"])
    page = report.read_text("utf-8")
    assert "the filter on above off" in page and "LoRA on 25 real" in page and "<script" not in page
    assert "the prompt with examples takes 6.0 times as long" in page
    assert "the filter on above off, mean: target 0, measured 5 points (met)" in capsys.readouterr().out


def several(options: Options, results: list[dict[str, Any]], compare: FakeCompare) -> dict[str, Any]:
    """The result of every base of ``options``, less the work."""
    return measure_bases(options, results.append, partial(PaperMeasurement, compare=compare, time_task=times))


def test_several_bases_are_measured_one_after_another_and_each_goes_on_where_it_was_stopped(
    options_of: Callable[..., Options], tiny_model: str
) -> None:
    results: list[dict[str, Any]] = []
    options = options_of(models=("embedded", tiny_model))
    first = FakeCompare(dies_at=7)  # the first comparison of the second base
    with pytest.raises(KeyboardInterrupt):
        several(options, results, first)
    embedded, tiny = results[-1]["bases"]
    assert embedded["cells"] and not tiny["cells"]
    second = FakeCompare()
    result = several(options, results, second)
    assert len(second.made) == len(first.made) - 1 == 6, "what the first base has is not measured again"
    folders = sorted(folder.name for folder in options.runs.iterdir())
    assert folders == sorted(runs_name(resolve_model(name)) for name in (None, tiny_model))
    third = FakeCompare()
    assert several(options, results, third)["bases"] == result["bases"]
    assert third.made == []
    alone = PaperMeasurement(options_of(), lambda _: None, FakeCompare(), times).run()
    assert result["bases"][0]["cells"] == alone["cells"]
    names = [target.name for target in result["targets"]]
    assert f"{Path(tiny_model).name}: the filter on above off, mean" in names
    assert len(names) == 2 * len(alone["targets"])


def test_the_page_has_a_block_for_each_base(
    options_of: Callable[..., Options], tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = options_of(models=("embedded", tiny_model))
    file, report = tmp_path / "result.json", tmp_path / "page.html"
    file.write_bytes(msgspec.json.encode(in_a_file(options, several(options, [], FakeCompare()))))
    assert cli.main(["bench", "paper", "--draw", str(file), "--report", str(report)]) == 0
    page = report.read_text("utf-8")
    names = (resolve_model(None).name, Path(tiny_model).name)
    assert "The bases side by side" in page
    for name in names:
        assert f"{name}: Table 1: accuracy" in page and f"{name}: the filter on above off, mean" in page
    printed = paper.SUITE.markdown(json.loads(file.read_bytes()))
    assert all(f"**{name}**" in printed for name in names)
    assert printed.count("| fourshot | 80.0 | 80.0 | 80.0 |") == 2


def test_the_command_takes_several_bases(
    options_of: Callable[..., Options], tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "PaperMeasurement", partial(PaperMeasurement, compare=FakeCompare(), time_task=times))
    out = tmp_path / "result.json"
    assert paper.SUITE.run("paper", options_of(out=out, models=("embedded", tiny_model))) == 0
    result = json.loads(out.read_bytes())
    embedded, tiny = resolve_model(None), resolve_model(tiny_model)
    assert [base["model"] for base in result["bases"]] == [embedded.name, tiny.name]
    assert result["settings"]["model"] == f"{embedded.name} and {tiny.name}"
    assert result["settings"]["model_revision"] == f"{embedded.revision} and {tiny.revision}"


def test_results_that_exist_go_to_the_base_they_are_of(
    options_of: Callable[..., Options], tiny_model: str, tmp_path: Path
) -> None:
    known_files = []
    for name, model in (("embedded", None), ("tiny", tiny_model)):
        known_files.append(tmp_path / f"{name}.json")
        known_files[-1].write_bytes(msgspec.json.encode(comparison("sst2", ("lora",), model=model)))
    of_each = list(base_options(options_of(models=("embedded", tiny_model), known=tuple(known_files))).values())
    assert [options.known for options in of_each] == [(file,) for file in known_files]
    with pytest.raises(InputError, match=r"tiny.json was measured with .*Leave it out"):
        base_options(options_of(models=("embedded",), known=tuple(known_files)))


def test_bases_that_are_named_twice_are_refused(options_of: Callable[..., Options], tiny_model: str) -> None:
    with pytest.raises(InputError, match="names a base twice"):
        base_options(options_of(models=("embedded", resolve_model(None).name)))
    with pytest.raises(InputError, match="cannot both be given"):
        base_options(options_of(models=("embedded",), model=tiny_model))


def test_the_page_is_drawn_from_a_result_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options_of: Callable[..., Options]
) -> None:
    file, page = tmp_path / "result.json", tmp_path / "page.html"
    result = PaperMeasurement(options_of(no_times=True), lambda _: None, FakeCompare()).result()
    file.write_bytes(msgspec.json.encode(in_a_file(options_of(), result)))
    assert cli.main(["bench", "paper", "--draw", str(file), "--report", str(page)]) == 0
    assert "Table 1" in page.read_text("utf-8")
    file.write_text('{"schema": 1}')
    assert cli.main(["bench", "paper", "--draw", str(file), "--report", str(page)]) == 2
    assert "not a result of a benchmark" in capsys.readouterr().err
    assert cli.main(["bench", "paper"]) == 2
    assert "--out FILE.json is needed" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted(RESULTS.glob("paper-*.json")), ids=lambda file: file.stem)
def test_a_kept_result_and_its_page_say_the_same(file: Path, tmp_path: Path) -> None:
    result = read_result(file, "paper")
    page, tasks = file.with_suffix(".html").read_text("utf-8"), result["settings"]["tasks"]
    targets, bases = list[Target](), base_results(result)
    for title, base in bases.items():
        for (task, method, real, synthetic), mean in mean_scores(base.cells).items():
            if (method, real, synthetic) in paper_scores.TABLE and task in tasks:
                assert f"<td>{100 * mean.accuracy:.1f}" in page, f"{title}, {task}, {method} is not in the page"
        assert base.targets == paper_scores.paper_targets(base.cells, base.timings, tasks)
        targets += base.targets
    without_bases = [msgspec.structs.replace(t, name=t.name.rpartition(": ")[2]) for t in targets_of(result)]
    assert without_bases == targets
    drawn = write_page(tmp_path / "again.html", paper_page(result), result).read_text("utf-8")
    assert drawn.count("<tr") == page.count("<tr"), "draw the page again: `fourshot bench paper --draw`"
