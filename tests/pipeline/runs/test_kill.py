"""kill -9 in every stage, and the same command again: what was finished is kept, and the result is the undisturbed one.

The bytes of texts, verdicts, shots and adapters are equal, and so is every answer; only times differ. That holds for
the same machine, versions and number of threads (docs/faults.md). The annotators see the shots in their prompts, as
they do by default, and calibrate both classifiers.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fourshot.engine.machine.files import read_json
from fourshot.engine.probe import TOLERANCE, ProbeResult
from fourshot.pipeline.card import PROBED_FILE, load_card
from fourshot.pipeline.cells.calibrating import CALIBRATED_FILE, CalibrationResult
from fourshot.pipeline.cells.measuring import Evaluation
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.events import Event
from fourshot.serving.adapter_lookup import find_adapter
from tests.pipeline.runs import interrupted

TEXTS = ("shots.json", "candidates.jsonl", "verdicts.jsonl")

# By stage, an event after which something of the stage is done and something is not, and a file that must exist, too.
# A round whose texts are all drawn is being annotated; an adapter that was probed is being calibrated.
DEATHS: dict[str, tuple[Callable[[Event], bool], str]] = {
    "annotators": (lambda event: event.stage == "train" and "2 of 4" in event.message, ""),
    "annotate": (lambda event: "sampling round 2" in event.message and event.done == event.total, ""),
    "train": (lambda event: event.stage == "train" and "1 of 1" in event.message, ""),
    "calibrate": (lambda event: event.stage == "evaluate", f"adapters/*/*/{PROBED_FILE}"),
    "evaluate": (lambda event: event.stage == "evaluate" and event.done == 1, ""),
}
Killed = tuple[Path, dict[str, dict[str, int]], list[Event]]


@pytest.fixture(scope="module")
def both(narrow_model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Killed]:
    """An undisturbed run, and beside it one that is killed once in every stage: most of both is waiting for starts."""
    undisturbed, folder = (tmp_path_factory.mktemp(name) / "run" for name in ("undisturbed", "killed"))
    finished = {}
    with ThreadPoolExecutor() as beside:
        other = beside.submit(interrupted.run, undisturbed, narrow_model)
        for stage, (due, file) in DEATHS.items():
            interrupted.kill_when(folder, narrow_model, due, file)
            finished[stage] = finished_files(folder)
        last = interrupted.run(folder, narrow_model)
        other.result()
    return undisturbed, (folder, finished, last)


@pytest.fixture(scope="module")
def undisturbed(both: tuple[Path, Killed]) -> Path:
    return both[0]


@pytest.fixture(scope="module")
def killed(both: tuple[Path, Killed]) -> Killed:
    """A run that was killed once in every stage; what was finished at each death; what its last start told."""
    return both[1]


def finished_files(folder: Path) -> dict[str, int]:
    """When each finished adapter and score file was written, in nanoseconds."""
    adapters = [
        file for result in folder.glob("adapters/*/result.json") for file in result.parent.rglob("*.safetensors")
    ]
    return {str(file): file.stat().st_mtime_ns for file in [*adapters, *folder.glob("scores/*.json")]}


def adapters_of(folder: Path) -> dict[str, list[str]]:
    """All that lies in the store: by job, the files."""
    return {
        job.name: sorted(str(file.relative_to(job)) for file in job.rglob("*") if file.is_file())
        for job in (folder / "adapters").iterdir()
    }


@pytest.mark.parametrize("name", TEXTS)
def test_shots_texts_and_verdicts_are_those_of_an_undisturbed_run(undisturbed: Path, killed: Killed, name: str) -> None:
    assert (killed[0] / name).read_bytes() == (undisturbed / name).read_bytes()


def test_the_adapters_are_the_same_and_none_is_there_twice(undisturbed: Path, killed: Killed) -> None:
    assert adapters_of(killed[0]) == adapters_of(undisturbed)
    # One of the shots alone, four that each left shots out, one of shots and kept texts.
    assert len(adapters_of(undisturbed)) == 6


def test_every_answer_on_the_test_split_is_the_same(undisturbed: Path, killed: Killed) -> None:
    names = sorted(file.name for file in (undisturbed / "scores").iterdir())
    assert names == sorted(file.name for file in (killed[0] / "scores").iterdir())
    assert len(names) == 4
    for name in names:
        resumed, expected = (RunFolder(folder / "scores").read(name, Evaluation) for folder in (killed[0], undisturbed))
        assert (resumed.predicted, resumed.gold, resumed.confidence) == (
            expected.predicted,
            expected.gold,
            expected.confidence,
        )


def test_the_classifiers_are_calibrated_the_same(undisturbed: Path, killed: Killed) -> None:
    resumed, expected = (sorted(folder.glob(f"adapters/*/*/{CALIBRATED_FILE}")) for folder in (killed[0], undisturbed))
    assert [file.read_bytes() for file in resumed] == [file.read_bytes() for file in expected] and len(resumed) == 2
    card = load_card(find_adapter(undisturbed))
    assert card.calibrated_on.endswith("candidates that it did not learn, to be no surer of them than its annotators")
    results = [read_json(file, CalibrationResult) for file in expected]
    assert {(result.num_read > 0, result.num_estimated > 0) for result in results} == {(True, False), (False, True)}
    assert card.scores and card.scores.ece_before is not None
    assert card.coverage and card.coverage.source == "test split"


def test_what_was_finished_at_a_death_was_not_done_again(
    killed: Killed,
) -> None:
    folder, finished, _ = killed
    adapters = {stage: sum("adapters" in name for name in files) for stage, files in finished.items()}
    assert adapters == {"annotators": 1, "annotate": 5, "train": 5, "calibrate": 6, "evaluate": 6}
    assert 1 <= len(finished["evaluate"]) - adapters["evaluate"] < 4  # scores
    at_the_end = finished_files(folder)
    for stage, files in finished.items():
        assert files == {name: at_the_end[name] for name in files}, stage


def test_the_last_start_only_did_what_was_left(killed: Killed) -> None:
    assert {event.stage for event in killed[2]} <= {"shots", "evaluate", "report"}


def test_a_run_that_is_finished_is_finished_at_once_and_says_the_same(killed: Killed, narrow_model: str) -> None:
    before = finished_files(killed[0])
    assert {event.stage for event in interrupted.run(killed[0], narrow_model)} <= {"shots", "report"}
    assert finished_files(killed[0]) == before


def test_a_finished_run_is_merged_and_asked_what_its_trainer_asked(killed: Killed, narrow_model: str) -> None:
    before = finished_files(killed[0])
    assert {event.stage for event in interrupted.run(killed[0], narrow_model, "--merge")} <= {
        "shots",
        "merge",
        "report",
    }
    assert finished_files(killed[0]) == before
    (merged,) = (killed[0] / "merged").iterdir()
    weights = "model.safetensors"
    assert (merged / weights).stat().st_size > 0.9 * (Path(narrow_model) / weights).stat().st_size
    assert RunFolder(merged).read(PROBED_FILE, ProbeResult).difference < TOLERANCE
