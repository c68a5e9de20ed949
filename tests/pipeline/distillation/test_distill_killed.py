"""kill -9 in each part of a distillation, and the same command again: it ends as one that nobody disturbed.

Bytes are equal for the same machine, versions and number of threads (docs/faults.md); only times differ.
"""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fourshot.pipeline.events import Event
from tests.pipeline.distillation.killed import DEATHS, TEXTS
from tests.pipeline.runs.interrupted import event_of

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

ROOT = Path(__file__).resolve().parents[3]
WITH_TIMES = ("result.json", "student.json", "summary.json", "report.html", "report.md", "scores")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a distillation that is ``undisturbed``, and one that was ``killed``, started again, killed and so on."""
    root = tmp_path_factory.mktemp("distillations")
    command = [sys.executable, "-m", "tests.pipeline.distillation.killed", str(root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FOURSHOT_FORECAST": "0"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return root


def told_by(folder: Path, start: str) -> list[Event]:
    return [event for line in (folder / f"{start}.jsonl").read_bytes().splitlines() if (event := event_of(line))]


def files_of(folder: Path) -> dict[str, bytes]:
    """All but what has times in it; hidden files are nobody's, as docs/faults.md says of those that a kill leaves."""
    names = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    hidden = [name for name in names if any(part.startswith(".") for part in name.split("/"))]
    return {
        name: file.read_bytes()
        for name, file in names.items()
        if name not in hidden and not set(name.split("/")) & {*WITH_TIMES}
    }


def test_the_table_the_students_and_their_exports_are_those_of_an_undisturbed_distillation(folder: Path) -> None:
    killed, undisturbed = files_of(folder / "killed"), files_of(folder / "undisturbed")
    assert killed == undisturbed
    names = [Path(name).name for name in killed if name.startswith("students/")]
    assert names.count("model.safetensors") == 2 and names.count("model.onnx") == names.count("model_int8.onnx") == 1
    assert len(killed["annotated.jsonl"].splitlines()) == len(TEXTS)
    paths = [(folder / name / "student").resolve().relative_to(folder / name) for name in ("killed", "undisturbed")]
    assert paths[0] == paths[1]


def test_what_was_finished_at_a_death_was_not_done_again(folder: Path) -> None:
    starts = [*DEATHS, "last"]
    parts = {start: {event.stage for event in told_by(folder, start)} - {"shots"} for start in starts}
    assert parts == {
        "annotate": {"annotate"},
        "student": {"annotate", "evaluate", "train"},
        "export": {"train", "evaluate", "export"},
        "alone": {"train", "export"},
        "report": {"train", "evaluate"},
        "last": set(),
    }
    first = next(event for event in told_by(folder, "student") if event.stage == "annotate")
    assert first.done > 16, "the texts that were annotated before the kill"
    steps = [event.done for event in told_by(folder, "alone") if event.stage == "train"]
    assert steps[-1] == 2 and steps.count(1) == 1, "the student was trained before, and is named with its last step"


def test_the_results_are_those_of_an_undisturbed_distillation(folder: Path) -> None:
    def results(name: str) -> dict[str, object]:
        summary = msgspec.json.decode((folder / name / "summary.json").read_bytes())
        for row in summary["table"]:
            del row["seconds_per_example"]
        kept = (
            "table",
            "annotated_examples",
            "held_out",
            "held_out_agreement",
            "coverage",
            "onnx",
            "notes",
            "strategy",
        )
        return {key: summary[key] for key in kept}

    assert results("killed") == results("undisturbed")
