"""A full disk in the middle of the work: said as it is, and what was finished before is kept and whole."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.task import Example
from fourshot.training.lora.saving import save_adapter


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
        subprocess.run(["umount", str(place)], check=True)


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
