"""A full disk in the middle of the work: said as it is, and what was finished before is kept and whole."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.events import ignore
from fourshot.pipeline.runs.stages.student import StudentItem, StudentStage
from fourshot.pipeline.task import Example, Label, Task
from fourshot.training.lora.saving import save_adapter
from fourshot.training.students.examples import StudentJob, TaughtExample
from fourshot.training.students.settings import StudentSettings
from tests.training.students.tiny_encoders import make_encoder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Gives a disk of so many bytes, such as "64k"; called again, the same disk is made that large."""
    place = tmp_path / "disk"
    place.mkdir()

    def sized(size: str) -> Path:
        options = f"size={size}" if not os.path.ismount(place) else f"remount,size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"a disk that is small needs the right to mount one: {done.stderr.strip()}")
        return place

    yield sized
    if os.path.ismount(place):
        # Lazily: who read weights there may still have them mapped.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_line_that_did_not_fit_is_not_there_and_those_before_it_are(small_disk: Callable[[str], Path]) -> None:
    folder = RunFolder(small_disk("64k"))

    def fill() -> None:
        for number in range(100):
            folder.append("notes.jsonl", [Example(text="x" * 3000, label=str(number))])

    with pytest.raises(OSError, match="No space left") as full:
        fill()
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(folder.path / "notes.jsonl"))
    examples = folder.lines("notes.jsonl", Example)
    assert [example.label for example in examples] == [str(number) for number in range(len(examples))]
    assert len(examples) > 5
    folder.keep_lines("notes.jsonl", len(examples))
    small_disk("128k")
    folder.append("notes.jsonl", [Example(text="there is room again", label="last")])
    assert folder.lines("notes.jsonl", Example)[-1].label == "last"


def test_a_file_that_did_not_fit_leaves_the_one_before_it(small_disk: Callable[[str], Path]) -> None:
    folder = RunFolder(small_disk("64k"))
    folder.write("value.json", ["small"])
    with pytest.raises(OSError, match="No space left") as full:
        folder.write("value.json", ["x" * 100_000])
    assert full.value.filename == str(folder.path / "value.json")
    assert folder.read("value.json", list) == ["small"]
    assert [entry.name for entry in folder.path.iterdir()] == ["value.json"]


class LargeAdapter:
    """Saves weights of 4 MiB with the library that saves adapters."""

    def save_pretrained(self, folder: str, **_: object) -> None:
        import numpy as np
        from safetensors.numpy import save_file

        save_file({"weights": np.zeros(1 << 20, np.float32)}, f"{folder}/adapter_model.safetensors")


def test_an_adapter_that_did_not_fit_leaves_nothing_and_the_error_says_why(
    small_disk: Callable[[str], Path],
) -> None:
    store = small_disk("256k")
    with pytest.raises(OSError, match="No space left") as full:
        save_adapter(LargeAdapter(), store, "notes")
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(store))
    assert list(store.iterdir()) == []


def student_stage(encoder: Path, store: Path, *, onnx: bool = False) -> StudentStage:
    """A student of two texts, to be trained and, where that is said, exported."""
    task = Task(name="two", instruction="Sort.", noun="text", labels=(Label(name="warm"), Label(name="cold")))
    job = StudentJob(
        name="two",
        title="two",
        encoder=str(encoder),
        encoder_revision="1",
        labels=task.label_names,
        examples=tuple(
            TaughtExample(text=text, probabilities=probabilities)
            for text, probabilities in (("sun", (1.0, 0.0)), ("ice", (0.0, 1.0)))
        ),
        settings=StudentSettings(min_steps=2, num_epochs=1, max_tokens=32),
    )
    item = StudentItem(job=job, task=task, test=(), out="", onnx=onnx)
    return StudentStage(model_path=str(encoder), items=(item,), store=str(store))


def test_a_student_that_did_not_fit_is_none_and_where_there_is_room_it_is_that_of_a_large_disk(
    small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    encoder, disk = make_encoder("distilbert", tmp_path / "encoder"), small_disk("56k")  # its weights have 62 kB
    stage = student_stage(encoder, disk)
    (item,) = stage.items
    with pytest.raises(OSError, match="No space left") as full:
        stage.run(ignore)
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(disk / item.key))
    assert [path.name for path in disk.rglob("*")] == [item.key], "an empty folder"
    small_disk("1m")
    stage.run(ignore)
    student_stage(encoder, tmp_path / "store").run(ignore)
    names = [{str(file.relative_to(store)) for file in store.rglob("*")} for store in (disk, tmp_path / "store")]
    assert names[0] == names[1]
    assert stage.is_done


def test_a_student_whose_onnx_files_did_not_fit_is_kept_without_them(
    small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    encoder, disk = make_encoder("distilbert", tmp_path / "encoder"), small_disk("128k")
    student_stage(encoder, disk).run(ignore)
    stage = student_stage(encoder, disk, onnx=True)
    before = {file: file.stat().st_mtime_ns for file in disk.rglob("*.*") if file.is_file()}
    with pytest.raises(OSError, match="No space left"):
        stage.run(ignore)
    assert {file: file.stat().st_mtime_ns for file in disk.rglob("*") if file.is_file()} == before
    assert not stage.is_finished(stage.items[0]) and student_stage(encoder, disk).is_done
    small_disk("2m")
    stage.run(ignore)
    assert len(list(disk.rglob("*.onnx"))) == 2
    assert stage.is_done
