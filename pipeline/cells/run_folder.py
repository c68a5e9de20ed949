"""A run's folder: files that stages pass to each other, written so that a kill at any time loses only unfinished work.

docs/design.md has a list of its files.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from fourshot.engine.checkpoints.models import is_content_hash
from fourshot.engine.errors import RunFolderError
from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.synthesis.prompts import PROMPT_VERSION
from fourshot.pipeline.synthesis.settings import WITH_BASE, RunSettings
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import (
    CERTAIN,
    HELD_OUT,
    LONGER,
    OF_ANNOTATORS,
    OF_SEQUENCES,
    UNALIGNED,
    UNSHOWN,
    Layout,
    M,
    Manifest,
    WorkFolder,
)

SCHEMA = 1
SHOTS_FILE = "shots.json"
GENERATED_FILE = "generated.json"
CHOICE_FILE = "recipe.json"  # of earlier versions, in which held-out shots chose the training target
COMMAND_FILE = "command.txt"
TYPED_IN, WORKED_IN = "\n# typed in ", "\n# worked in "  # begin the lines after the command
POOL_FILE = "pool/drawn.json"
UNLABELLED_FILE = "unlabelled/annotated.json"


def _with_out(command: str, folder: Path) -> str:
    """Return the command line with ``folder`` as --out, in place of any other."""
    words = shlex.split(command)
    for number, word in enumerate(words):
        if word == "--out" or word.startswith("--out="):
            del words[number : number + (2 if word == "--out" else 1)]
            break
    else:
        number = len(words)
    return shlex.join([*words[:number], "--out", str(folder), *words[number:]])


class ExperimentManifest(Manifest, frozen=True, kw_only=True):
    """Task, settings and model of an experiment. Two experiments are the same if their `identity` is equal."""

    schema: int = SCHEMA
    task: Task
    settings: RunSettings
    model_name: str
    model_revision: str
    versions: dict[str, str] = msgspec.field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        if is_content_hash(self.model_revision):
            fields.pop("model_name")  # a path, which may be relative to another folder, or have been moved
        fields["task"].pop("data")  # the same data may be moved; the shots are stored in the folder
        fields["settings"].pop("test_limit")  # the amount of evaluation affects no text and no adapter
        fields["settings"].pop("allow_short")
        fields["settings"].pop("calibrate")  # calibration follows after all trainings
        fields["settings"].pop("align")  # recorded in `LAYOUT_FILE`; manifests of earlier versions do not have it
        for name in OF_ANNOTATORS:  # the same
            fields["settings"]["annotate"].pop(name)
        return fields


class RunManifest(ExperimentManifest, frozen=True, kw_only=True):
    """Identity of the run that a folder belongs to."""

    prompt_version: str = PROMPT_VERSION
    model_path: str
    unlabelled: str = ""  # content hash of the user's texts that are annotated; "": there are none

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        fields.pop("model_path")
        return fields


def with_layout(settings: RunSettings, root: Path) -> tuple[Layout, RunSettings, list[str]]:
    """Return the layout of prompts in the folder ``root``, ``settings`` with it, and notes on what differs from them.

    Raises RunFolderError where the folder was begun with another layout, see `WorkFolder.layout`.
    """
    current = Layout.now(settings.align, settings.annotate)
    layout = WorkFolder(root).layout(current)
    is_auto = settings.annotate.weights == "auto"
    weights = layout.weights if is_auto else settings.annotate.weights
    of_annotators = {name: getattr(layout, name) for name in OF_ANNOTATORS}
    annotate = msgspec.structs.replace(settings.annotate, weights=weights, **of_annotators)
    sees_shots = layout.show_shots != "never"
    trained_otherwise = any(getattr(layout, name) != getattr(current, name) for name in OF_SEQUENCES)
    changed = msgspec.structs.replace(settings, align=layout.align, annotate=annotate)
    notes = {
        UNALIGNED: layout.align != settings.align,
        UNSHOWN: layout.show_shots != current.show_shots,
        HELD_OUT: is_auto and weights != "auto" and sees_shots,
        LONGER: sees_shots and trained_otherwise,
        CERTAIN: changed.classifier_training != settings.classifier_training,
    }
    return layout, changed, [note for note, differs in notes.items() if differs]


class _Choice(msgspec.Struct, frozen=True):
    """The part of `CHOICE_FILE` that is still needed."""

    targets: Literal["agreement", "soft"]


class RunFolder(WorkFolder):
    """Folder of one run on disk."""

    def manifest(self) -> RunManifest:
        return self.stored_manifest(RunManifest)

    def stored_manifest(self, kind: type[M]) -> M:
        """Return the folder's manifest.

        In a folder of an earlier version whose shots chose probabilities, its settings are those for probabilities.
        """
        manifest = super().stored_manifest(kind)
        chosen = self.find(CHOICE_FILE, _Choice)
        if not (isinstance(manifest, RunManifest) and chosen and chosen.targets == "soft"):
            return manifest
        if manifest.settings.learns_soft:  # the folder was continued since, and the manifest written again
            return manifest
        settings = manifest.settings.for_soft
        annotate = msgspec.structs.replace(settings.annotate, **WITH_BASE)
        return msgspec.structs.replace(manifest, settings=msgspec.structs.replace(settings, annotate=annotate))

    def shots(self) -> list[Example]:
        return self.read(SHOTS_FILE, list[Example])

    def check_shots(self, shots: Sequence[Example]) -> None:
        """Raise RunFolderError if the folder was begun with other shots."""
        if self.has(SHOTS_FILE) and self.shots() != [*shots]:
            raise RunFolderError(
                f"{self.path} was started with shots other than those of the current data: the labelled data has "
                "changed, or the test texts that are removed from it. Restore them, or give another folder (--out)."
            )

    def write_command(self, command: str) -> None:
        """Store the command line that worked on this folder, for a person to repeat, with both current paths."""
        places = f"{TYPED_IN}{Path.cwd()}{WORKED_IN}{self.path.resolve()}"
        replace_file(self.path / COMMAND_FILE, f"{command}{places}\n".encode())

    @property
    def command(self) -> str:
        """Command line that a person repeats to continue, as the end of a sentence; a phrase if none was stored.

        It names this folder, wherever it was moved. It also names the folder that its other paths are relative to, if
        that is not the current one.
        """
        file = self.path / COMMAND_FILE
        if not file.exists():
            return "the command of the run."
        command, _, places = file.read_text(encoding="utf-8").strip().partition(TYPED_IN)
        typed_in, _, worked_in = places.partition(WORKED_IN)  # earlier versions wrote neither
        elsewhere = bool(typed_in) and Path(typed_in).is_dir() and not Path(typed_in).samefile(Path.cwd())
        if worked_in != str(self.path.resolve()):
            command = _with_out(command, self.path.resolve() if elsewhere else self.path)
        return f"this{f', in {typed_in}' if elsewhere else ''}:\n  {command}"

    def has_texts(self, settings: RunSettings, *, unlabelled: bool) -> bool:
        """Return whether all texts that may be learnt are annotated; ``unlabelled``: some of them are the user's."""
        instead = unlabelled and settings.unlabelled.mode == "instead"
        return (instead or self.has(GENERATED_FILE)) and (not unlabelled or self.has(UNLABELLED_FILE))

    @property
    def pool(self) -> "RunFolder":
        """Folder of the candidates that fold adapters are trained on."""
        return RunFolder(self.path / "pool")

    @property
    def unlabelled(self) -> "RunFolder":
        """Folder of the user's own texts, with the verdicts on them."""
        return RunFolder(self.path / "unlabelled")
