"""Students by real data and texts: a tiny grid with a teacher that reads by a rule, and where curves turn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.bench.core.results import read_result
from fourshot.bench.suites import run_suite
from fourshot.bench.suites.distill import SUITE, curves_of, turning_points
from fourshot.bench.suites.distill.cells import Options, TeacherGroup, teach
from fourshot.engine.errors import InputError
from fourshot.pipeline.distillation.annotators import Annotate, Annotation, NamedAnnotator, Parts
from fourshot.pipeline.distillation.distill import distill
from fourshot.pipeline.distillation.distilled import DistillSummary
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.runs.stages.student import StudentStage
from fourshot.pipeline.synthesis.types import Verdict
from fourshot.serving.testing.adapters import task_of
from fourshot.training.students.settings import StudentSettings
from tests.pipeline.candidates import candidate
from tests.pipeline.task_folders import TASK, write_jsonl
from tests.serving.random_students import make_student

WORDS = {"warm": ("sun", "fire", "tea"), "cold": ("snow", "ice", "frost")}
NOTES = [
    {"text": f"the {word} is {look}", "label": label}
    for label, words in WORDS.items()
    for word in words
    for look in ("here", "near", "far", "gone")
]


def by_rule(parts: Parts) -> Iterator[list[Annotation]]:
    for texts in parts:
        cold = [any(word in text for word in WORDS["cold"]) for text in texts]
        yield [Annotation(probabilities=(0.1, 0.9) if is_cold else (0.9, 0.1)) for is_cold in cold]


@pytest.fixture
def taught_groups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which teachers were made; each annotates by the rule, and wrote four texts per class."""
    folders: list[str] = []

    def taught(request: LabelDistillation) -> DistillSummary:
        group = request.folder.parent
        folders.append(f"{group.parent.name}/{group.name}")
        annotate: Annotate = by_rule

        def opened(log: Path, on_event: OnEvent) -> Annotate:
            return annotate

        by = NamedAnnotator(name="rule", task=request.task, open=opened, pairs=pairs)
        return distill(msgspec.structs.replace(request, by=by, model=None))

    pairs = [
        (
            candidate(n, f"{word} all day {n}", label),
            Verdict(candidate_id=str(n), kept=True, reason="kept", predicted=label, probabilities={label: 1.0}),
        )
        for label, (word, *_) in WORDS.items()
        for n in range(4)
    ]
    monkeypatch.setattr("fourshot.bench.suites.distill.cells.distill", taught)
    monkeypatch.setattr("fourshot.bench.suites.distill.cells.finished_pairs", lambda folder: pairs)
    monkeypatch.setattr(StudentStage, "needs_process", False)
    usual = StudentSettings(strategy="head", max_tokens=32)
    monkeypatch.setattr("fourshot.bench.suites.distill.cells.StudentSettings", lambda: usual)
    monkeypatch.setattr("fourshot.bench.suites.distill.cells.QUICK", usual)
    return folders


def test_a_tiny_grid_is_measured_gone_on_with_and_drawn(
    tmp_path: Path, taught_groups: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "colours").mkdir(parents=True)
    (tmp_path / "colours.toml").write_text(TASK)
    write_jsonl(tmp_path / "data" / "colours" / "train.jsonl", NOTES[::2])
    write_jsonl(tmp_path / "data" / "colours" / "test.jsonl", NOTES[1::2])
    monkeypatch.setattr(
        "fourshot.bench.suites.distill.cells.load_task", lambda name, data: load(tmp_path / "colours.toml", data)
    )
    encoder = make_student(tmp_path / "encoder", task_of("any"))
    out = tmp_path / "distill.json"
    words = ["--data", str(tmp_path / "data"), "--out", str(out), "--tasks", "colours", "--student", str(encoder)]
    words += ["--real", "1,all", "--amounts", "4", "--seeds", "1"]
    assert run_suite("distill", words) == 0
    assert taught_groups == ["1/seed0", "all/seed0"]
    result = read_result(out, "distill")
    by_cell = {(row["real"], row["seed"], row["strategy"], row["amount"]): row for row in result["rows"]}
    assert by_cell["1", 0, "teacher", 0]["accuracy"] == 1.0
    assert by_cell["1", 0, "both", 4]["annotated"] == by_cell["1", 0, "both", 4]["written"] == 2
    assert by_cell["1", 0, "none", 0]["real_texts"] == 2 and by_cell["all", 0, "none", 0]["real_texts"] == 12
    assert {(row["real"], row["strategy"]) for row in result["left_out"]} == {("all", "annotate")}
    assert len(by_cell) == 2 * (2 + 3) - 1
    assert "all annotate 4" in capsys.readouterr().out
    assert "<svg" in out.with_suffix(".html").read_text()
    assert not list(out.with_suffix("").rglob("*.safetensors")), "checkpoints of cells are not kept"

    rows = out.with_suffix(".rows.jsonl")
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join(lines[:-1]) + "\n")
    taught_groups.clear()
    assert run_suite("distill", words) == 0
    assert taught_groups == ["all/seed0"] and read_result(out)["rows"] == result["rows"]


def test_a_teacher_is_told_of_no_idle_settings_and_is_of_its_data_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AskedError(Exception): ...

    idle: list[list[str]] = []

    def asked(request: LabelDistillation) -> None:
        idle.append(request.tell_unused())
        raise AskedError

    monkeypatch.setattr("fourshot.bench.suites.distill.cells.distill", asked)
    monkeypatch.setattr(
        "fourshot.bench.suites.distill.cells.load_task", lambda name, data: load(tmp_path / "colours.toml", data)
    )
    (tmp_path / "data" / "colours").mkdir(parents=True)
    (tmp_path / "colours.toml").write_text(TASK)
    write_jsonl(tmp_path / "data" / "colours" / "test.jsonl", NOTES[1::2])
    train = tmp_path / "data" / "colours" / "train.jsonl"
    group = TeacherGroup(task="colours", real="2", seed=0)
    for strategy in ("annotate", "generate"):
        options = Options(data=tmp_path / "data", out=tmp_path / f"{strategy}.json", strategies=(strategy,))
        for _ in range(2):
            write_jsonl(train, NOTES[::2])
            with pytest.raises(AskedError):
                teach(group, options)
        write_jsonl(train, NOTES[2::2])
        with pytest.raises(InputError, match=f"{strategy}/colours/2/seed0 has a teacher of other data"):
            teach(group, options)
    assert idle == [[]] * 4


def load(file: Path, data: Path) -> Any:
    from fourshot.pipeline.tasks.task_file import load_task

    return load_task(file, data)


def test_a_curve_turns_where_no_larger_amount_is_better() -> None:
    accuracies = {0: (0.5, 0.6, 0.55), 100: (0.7, 0.81, 0.75), 300: (0.72, 0.79, 0.76), 1000: (0.69, 0.8, 0.74)}
    rows = [
        {"task": "t", "real": "4", "seed": seed, "strategy": "annotate" if amount else "none", "amount": amount}
        | {"accuracy": accuracy}
        for amount, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]
    (turn,) = turning_points(rows)
    assert turn["no_gain_beyond"] == 100 and turn["gain"]["mean"] == pytest.approx(20.33, abs=0.01)
    assert turn["then"]["mean"] == pytest.approx(-1.0) and turn["then"]["low"] < 0


def test_where_a_curve_turns_is_not_said_of_one_pair() -> None:
    """One seed of one task has no interval: that more texts do not help was not measured."""
    cells = (("none", 0, 0.5), ("annotate", 100, 0.9))
    one: list[dict[str, Any]] = [
        {"task": "t", "real": "4", "seed": 0, "strategy": strategy, "amount": amount, "accuracy": accuracy}
        for strategy, amount, accuracy in cells
    ]
    assert turning_points(one) == [
        {"real": "4", "strategy": "annotate", "no_gain_beyond": None, "gain": None, "then": None}
    ]
    other = [{**row, "seed": 1, "accuracy": row["accuracy"] + 0.01} for row in one]
    larger = {**one[1], "amount": 300}
    (turn,) = turning_points([*one, *other, larger])
    assert turn["no_gain_beyond"] is None, "nor of what only one pair went on from"
    assert turning_points([*one, *other])[0]["no_gain_beyond"] == 100
    result = {"settings": {"tasks": []}, "turning_points": turning_points(one), "left_out": []}
    assert "| 4 | annotate | - | - | - |" in SUITE.markdown({**result, "targets": []})


def test_students_without_texts_are_shown_where_there_are_no_others() -> None:
    """With `--amounts 0`, or `--real all`, which leaves no text to annotate."""
    cells = (("4", "none", 0), ("4", "annotate", 100), ("all", "none", 0))
    rows: list[dict[str, Any]] = [
        {"task": "t", "real": real, "seed": 0, "strategy": strategy, "amount": amount, "accuracy": 0.5 + amount / 1000}
        for real, strategy, amount in cells
    ]
    settings = {"tasks": ["t"], "real": ["4", "all"]}
    result = {"settings": settings, "rows": rows, "curves": curves_of(rows), "turning_points": turning_points(rows)}
    shown = SUITE.markdown({**result, "left_out": [], "targets": []})
    assert (
        "| 4 | annotate | 50.0 | 60.0 |" in shown and "| all | none | 50.0 | - |" in shown and "| 4 | none" not in shown
    )
