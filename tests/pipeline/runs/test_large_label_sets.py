"""Tasks of 77 and 150 classes, from a table to the report, on an engine that only writes down what it is asked."""

import csv
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from fourshot.pipeline.faults import condensed
from fourshot.pipeline.runs.run import RunRequest, do_run
from fourshot.pipeline.runs.stages.evaluate import EvaluateStage
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.new_task import new_task
from fourshot.pipeline.tasks.task_file import check_task, load_task
from tests.pipeline.runs.whole_runs import WholeRuns

VERBS = ("book", "cancel", "change", "check", "find", "order", "share", "track", "report", "delete")
THINGS = ("a flight", "my card", "my account", "the password", "a song", "a recipe", "an alarm", "a list", "a call")
MANY = [f"{verb}_{thing.replace(' ', '_')}{more}" for verb in VERBS for thing in THINGS for more in ("", "_today")]


def table_of(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "intent"), *rows])
    return path


def test_a_task_of_150_classes_becomes_a_run_with_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"please {name.replace('_', ' ')} for number {i}", name) for name in MANY[:150] for i in range(10)]
    task = new_task(table_of(tmp_path / "intents.csv", rows), tmp_path / "intents")
    assert (len(task.labels), task.train, task.test, task.left_out) == (150, 1200, 300, ())
    assert check_task(task.task_file) == []
    runs, preset = WholeRuns(tmp_path / "small", monkeypatch), PRESETS["default"]
    settings = msgspec.structs.replace(
        preset,
        generate=msgspec.structs.replace(preset.generate, per_class=2, draws_per_round=2, max_candidates=2),
        annotate=msgspec.structs.replace(preset.annotate, pool_per_class=2),
        allow_short=True,
    )
    request = RunRequest(load_task(task.task_file), "fake", settings, tmp_path / "run")
    summary = do_run(request, runs.events.append)
    assert [row["display_name"] for row in summary.table] == ["Zero-shot", "LoRA on the shots", "fourshot"]
    assert isinstance(summary.left_out, dict) and "one shot of each of 150 classes" in summary.left_out["In context"]
    (average,) = (tmp_path / "run" / "averages").iterdir()
    assert any(call[1] == average.name for call in runs.heard if len(call) == 3), "it read the texts"
    assert json.loads((tmp_path / "run" / "summary.json").read_bytes())["left_out"] == summary.left_out
    for name in ("report.html", "report.md"):
        page = (tmp_path / "run" / name).read_text(encoding="utf-8")
        assert "In context is left out: a prompt of 2,048 tokens" in page and len(page) < 200_000
    assert "Which classes are confused" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(EvaluateStage, "do", lambda *_: pytest.fail("it was measured"))
    again = do_run(msgspec.structs.replace(request, until="evaluate"), runs.events.append)
    assert again.left_out == summary.left_out and again.table == summary.table


@pytest.mark.skipif("FOURSHOT_DATA" not in os.environ, reason="FOURSHOT_DATA names no folder of data sets")
def test_the_77_most_frequent_intents_of_slurp(tmp_path: Path) -> None:
    by_label = defaultdict(list)
    for split in ("dev", "test"):
        for line in (Path(os.environ["FOURSHOT_DATA"]) / "slurp" / f"{split}.jsonl").read_text().splitlines():
            row = json.loads(line)
            by_label[row["label"]].append(row["text"])
    chosen = sorted(by_label, key=lambda name: -len(by_label[name]))[:77]
    rows = [(text, name) for name in chosen for text in by_label[name][:30]]
    task = new_task(table_of(tmp_path / "slurp.csv", rows), tmp_path / "slurp")
    assert len(task.labels) == 77
    assert task.train + task.test + sum(some.count for some in task.left_out) == len(rows) == task.rows
    assert len(condensed(check_task(task.task_file))) < 20
