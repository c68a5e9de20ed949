"""What a run's folder promises to the stages that talk through it, and to whoever finds it later."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.engine.core import SamplingSettings
from fourshot.engine.errors import InputError, RunFolderError
from fourshot.pipeline.cells.run_folder import RunFolder, RunManifest
from fourshot.pipeline.distillation.annotating import AnnotationManifest
from fourshot.pipeline.synthesis.settings import PRESETS, AnnotateSettings, GenerateSettings, RunSettings
from fourshot.pipeline.task import DataSource, Example, Label, Task
from fourshot.pipeline.work_folder import LAYOUT_FILE, Layout, WorkFolder

TASK = Task(name="colours", instruction="Warm or cold?", noun="note", labels=(Label(name="warm"), Label(name="cold")))


def manifest(**changes: Any) -> RunManifest:
    fields = {
        "task": TASK,
        "settings": RunSettings(),
        "model_name": "base",
        "model_revision": "abc",
        "model_path": "/models/base",
    }
    return RunManifest(**{**fields, **changes})


def test_a_run_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(manifest())
    folder.write("shots.json", [Example(text="one", label="warm")])
    folder.claim(manifest(versions={"vllm": "another"}))
    assert folder.manifest().versions == {"vllm": "another"}
    assert folder.shots() == [Example(text="one", label="warm")]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model_revision": "def"}, "model_revision: the folder has 'abc', this call has 'def'"),
        ({"settings": RunSettings(seed=1)}, "settings.seed: the folder has 0, this call has 1"),
        ({"settings": RunSettings(sampling=SamplingSettings(top_k=5))}, "settings.sampling.top_k"),
        ({"settings": RunSettings(generate=GenerateSettings(per_class=5))}, "settings.generate.per_class"),
        ({"settings": PRESETS["paper"]}, "settings.annotate.annotator"),
        ({"task": msgspec.structs.replace(TASK, instruction="Hot?")}, "task.instruction"),
        ({"prompt_version": "0"}, "prompt_version"),
    ],
)
def test_another_configuration_is_refused_and_every_way_out_is_named(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(manifest())
    before = (folder.path / "manifest.json").read_bytes()
    with pytest.raises(RunFolderError) as refused:
        folder.claim(manifest(**changed))
    assert named in str(refused.value)
    for way_out in ("--out", "the settings it was made with", "remove it"):
        assert way_out in str(refused.value)
    assert (folder.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    "changed",
    [
        {"settings": RunSettings(test_limit=50)},
        {"settings": RunSettings(allow_short=True)},
        {"model_path": "/elsewhere/base"},
        {"task": msgspec.structs.replace(TASK, data=DataSource(folder="/elsewhere"))},
    ],
)
def test_what_changes_nothing_that_was_made_may_change(tmp_path: Path, changed: dict[str, Any]) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(manifest())
    folder.write("shots.json", [Example(text="one", label="warm")])
    folder.claim(manifest(**changed))
    assert folder.manifest() == manifest(**changed)
    assert folder.shots() == [Example(text="one", label="warm")]


def test_a_base_in_a_folder_is_known_by_its_content_whatever_it_is_called(tmp_path: Path) -> None:
    with RunFolder(tmp_path).lock():
        RunFolder(tmp_path).claim(manifest(model_name="models/base"))
        RunFolder(tmp_path).claim(manifest(model_name="/moved/to/base/"))
        with pytest.raises(RunFolderError, match="model_revision: the folder has 'abc', this call has 'abd'"):
            RunFolder(tmp_path).claim(manifest(model_name="models/base", model_revision="abd"))
    commit = "a" * 40
    with RunFolder(tmp_path / "hub").lock():
        RunFolder(tmp_path / "hub").claim(manifest(model_name="one/base", model_revision=commit))
        with pytest.raises(RunFolderError, match="model_name: the folder has 'one/base', this call has 'other/base'"):
            RunFolder(tmp_path / "hub").claim(manifest(model_name="other/base", model_revision=commit))


@pytest.mark.parametrize(
    ("stored_manifest", "kind"),
    [({"student": {}, "encoder": "e"}, "a distillation"), ({"kind": "corpus", "format": "jsonl"}, "a corpus")],
)
def test_work_of_another_kind_is_named_and_not_called_broken(
    tmp_path: Path, stored_manifest: dict[str, Any], kind: str
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(stored_manifest))
    with pytest.raises(RunFolderError, match=rf"holds {kind}, but this command makes something else.*\(--out\)\.$"):
        RunFolder(tmp_path).claim(manifest())
    RunFolder(tmp_path / "run").claim(manifest())
    with pytest.raises(RunFolderError, match="holds a run, but this command"):
        WorkFolder(tmp_path / "run").claim(AnnotationManifest(table="t", labels=("a", "b"), by="me"))


def test_a_folder_that_was_moved_is_still_that_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(manifest())
    folder.append("notes.jsonl", [Example(text="one", label="a")])
    os.rename(tmp_path / "run", tmp_path / "moved")
    moved = RunFolder(tmp_path / "moved")
    moved.claim(manifest())
    assert moved.lines("notes.jsonl", Example) == [Example(text="one", label="a")]


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds no run \(found thesis.txt\).*--out"):
        RunFolder(tmp_path).claim(manifest())
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("broken", ["{", '{"schema": 1}', '{"task": {"colour": 1}}'])
def test_a_manifest_that_this_version_cannot_read_is_refused_in_words(tmp_path: Path, broken: str) -> None:
    (tmp_path / "manifest.json").write_text(broken)
    with pytest.raises(RunFolderError, match=r"cannot read.*--out"):
        RunFolder(tmp_path).claim(manifest())


def test_a_folder_in_which_another_process_works_is_refused(tmp_path: Path) -> None:
    program = (
        "import sys; from fourshot.pipeline.cells.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).lock():\n    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"Another fourshot process works in.*--out"), RunFolder(tmp_path).lock():
            pass
    finally:
        holder.kill()
        holder.communicate()
    with RunFolder(tmp_path).lock():  # the lock of a process that was killed is free
        pass


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path, below: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt is a file"), RunFolder(file / below).lock():
        pass
    assert file.read_text() == "mine"


def test_a_device_in_the_place_of_the_folder_is_refused_as_a_file_is() -> None:
    with pytest.raises(InputError, match="/dev/null is a file"), RunFolder("/dev/null/run").lock():
        pass


def test_a_folder_in_which_nothing_was_made_before_bad_input_is_left_as_it_was(tmp_path: Path) -> None:
    def begin(folder: RunFolder, names: Sequence[str]) -> None:
        folder.claim(manifest())
        RunFolder(folder.path / "seed0").claim(manifest())
        for name in ("shots.json", "layout.json", "log.txt", *names):
            folder.write(name, [])
        raise InputError("The base is damaged.")

    def refused(path: Path, *names: str) -> None:
        with pytest.raises(InputError, match="damaged"), RunFolder(path).lock():
            begin(RunFolder(path), names)

    refused(tmp_path / "run")
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty")
    assert [*(tmp_path / "empty").iterdir()] == []
    refused(tmp_path / "made", "candidates.jsonl")
    assert RunFolder(tmp_path / "made").manifest() == manifest()
    (tmp_path / "begun").mkdir()
    RunFolder(tmp_path / "begun").claim(manifest())
    refused(tmp_path / "begun")
    assert RunFolder(tmp_path / "begun").manifest() == manifest()


def test_a_folder_has_the_layout_that_it_was_begun_with(tmp_path: Path) -> None:
    unshown = AnnotateSettings(show_shots="never")
    aligned, plain, earlier = Layout.now(True, unshown), Layout.now(False, unshown), Layout()
    new, old = WorkFolder(tmp_path / "new"), WorkFolder(tmp_path / "old")
    assert new.layout(aligned) == aligned and new.layout(plain) == plain
    new.path.mkdir()
    new.keep_layout(aligned)
    new.write("manifest.json", {})
    assert new.layout(aligned) == aligned
    with pytest.raises(RunFolderError, match="--out"):
        new.layout(plain)
    old.path.mkdir()
    old.keep_layout(aligned)  # and killed: nothing was begun, so the next start may want it otherwise
    assert old.layout(plain) == plain
    old.keep_layout(earlier)
    assert not [*old.path.iterdir()], "earlier versions wrote no layout"
    old.write("manifest.json", {})
    assert old.layout(aligned) == old.layout(plain) == earlier
    (new.path / LAYOUT_FILE).unlink()  # by hand, or a build that wrote it after the manifest was killed between
    new.write("manifest.json", {"settings": {"align": True}})
    earlier_aligned = Layout(align=True, filler=aligned.filler)
    assert new.layout(aligned) == earlier_aligned
    with pytest.raises(RunFolderError, match="--out"):
        new.layout(plain)
    assert new.layout(Layout.now(True)) == earlier_aligned, "and it knew no annotators that see shots"
    new.write("manifest.json", {"settings": {"align": True, "annotate": {"show_shots": "auto", "weights": "auto"}}})
    trained_as_before = {"converged_loss": 0.0, "sequences_per_step": 2, "label_smoothing": 0.0}
    assert new.layout(Layout.now(True)) == msgspec.structs.replace(Layout.now(True), **trained_as_before)
    annotate = msgspec.to_builtins(AnnotateSettings())
    new.write("manifest.json", {"settings": {"align": True, "annotate": annotate}})
    assert new.layout(Layout.now(True)) == Layout.now(True)
    with pytest.raises(RunFolderError, match=r"annotate.converged_loss = 0.05, but this call sets 0.2.*--out"):
        new.layout(Layout.now(True, AnnotateSettings(converged_loss=0.2)))
    new.write(LAYOUT_FILE, {"align": True})  # whose filler was a special token
    for layout in (aligned, plain):
        with pytest.raises(RunFolderError, match=r"earlier version.*--out"):
            new.layout(layout)


@pytest.mark.parametrize("content", [b"", b'{"targets": "agr', b'{"targets": "other", "reason": ""}'])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(manifest())
    (folder.path / "recipe.json").write_bytes(content)
    with pytest.raises(
        RunFolderError, match=r"recipe\.json was written by another version of fourshot, or is damaged.*\(--out\)"
    ):
        folder.manifest()
