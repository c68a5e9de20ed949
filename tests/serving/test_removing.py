"""`fourshot adapters remove`: what it takes away, and what it leaves where it is."""

from pathlib import Path

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.task import Example
from fourshot.serving.models.adapters_folder import remove
from fourshot.serving.models.in_context import InContext, write_in_context
from fourshot.serving.testing.adapters import task_of

CANDIDATES = Path("default-seed0") / "candidates.jsonl"


def unfinished_run(folder: Path, mark: str = "manifest.json") -> Path:
    """What was generated until a kill."""
    file = folder / CANDIDATES
    file.parent.mkdir(parents=True)
    file.write_text("hours of work\n")
    (file.parent / mark).write_text("{}")
    return file


def test_a_task_in_context_goes_and_its_unfinished_run_of_the_same_name_stays(tmp_path: Path) -> None:
    task = task_of("mood")
    candidates = unfinished_run(tmp_path / "mood")
    shots = tuple(Example(text=f"a {label.word}", label=label.name) for label in task.labels)
    file = write_in_context(tmp_path, InContext(task=task, shots=shots))
    assert remove(tmp_path, "mood") == [file]
    assert candidates.is_file() and not file.exists()


@pytest.mark.parametrize("mark", ["manifest.json", "shots.json", ".lock"])
def test_what_is_refused_since_its_run_is_unfinished_is_not_taken_away(tmp_path: Path, mark: str) -> None:
    candidates = unfinished_run(tmp_path / "mood", mark)
    with pytest.raises(InputError, match=f"mood holds {candidates.parent}, which this would damage"):
        remove(tmp_path, "mood")
    assert candidates.is_file()


@pytest.mark.parametrize("name", ["manifest.json", "student.json"])
def test_the_folder_itself_is_not_taken_away(tmp_path: Path, name: str) -> None:
    root = tmp_path / "served"
    root.mkdir()
    (root / name).write_text("{}")
    with pytest.raises(InputError, match="which this would damage"):
        remove(root, ".")
    assert (root / name).is_file()


def test_a_link_to_an_unfinished_run_is_taken_away_and_the_run_stays(tmp_path: Path) -> None:
    candidates = unfinished_run(tmp_path / "runs" / "mood")
    root = tmp_path / "served"
    root.mkdir()
    (root / "mood").symlink_to(tmp_path / "runs" / "mood")
    assert remove(root, "mood") == [root / "mood"]
    assert candidates.is_file() and not (root / "mood").is_symlink()
