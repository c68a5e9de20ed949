"""A run's folder: what stages hand each other, written so that a kill at any moment loses only unfinished work.

docs/design.md has a list of its files.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from fourshot.engine.checkpoints.models import is_of_content
from fourshot.engine.errors import RunFolderError
from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.synthesis.prompts import PROMPT_VERSION
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import M, Manifest, WorkFolder

SCHEMA = 1
SHOTS_FILE = "shots.json"
GENERATED_FILE = "generated.json"
CHOICE_FILE = "recipe.json"  # of earlier versions, in which held-out shots chose what is learnt of a text
COMMAND_FILE = "command.txt"
TYPED_IN, WORKED_IN = "\n# typed in ", "\n# worked in "  # the lines after it
POOL_FILE = "pool/drawn.json"
UNLABELLED_FILE = "unlabelled/annotated.json"


def _with_out(command: str, folder: Path) -> str:
    """The command line for ``folder``, whichever it named."""
    words = shlex.split(command)
    for number, word in enumerate(words):
        if word == "--out" or word.startswith("--out="):
            del words[number : number + (2 if word == "--out" else 1)]
            break
    else:
        number = len(words)
    return shlex.join([*words[:number], "--out", str(folder), *words[number:]])


class ExperimentManifest(Manifest, frozen=True, kw_only=True):
    """What methods were applied to. Two are the same if all of this is equal but the versions."""

    schema: int = SCHEMA
    task: Task
    settings: RunSettings
    model_name: str
    model_revision: str
    versions: dict[str, str] = msgspec.field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        if is_of_content(self.model_revision):
            fields.pop("model_name")  # of a folder that may be called from elsewhere, or have been moved
        fields["task"].pop("data")  # the same data may lie elsewhere tomorrow; the shots are kept in the folder
        fields["settings"].pop("test_limit")  # how much is measured changes nothing that was made
        fields["settings"].pop("allow_short")
        fields["settings"].pop("calibrate")  # it is done after all that is trained
        fields["settings"].pop("align")  # the folder says (`LAYOUT_FILE`); manifests of earlier versions do not
        return fields


class RunManifest(ExperimentManifest, frozen=True, kw_only=True):
    """Says which run a folder belongs to."""

    prompt_version: str = PROMPT_VERSION
    model_path: str
    unlabelled: str = ""  # content hash of the user's texts that are read; "": there are none

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        fields.pop("model_path")
        return fields


class _Choice(msgspec.Struct, frozen=True):
    """What `CHOICE_FILE` says that is needed."""

    targets: Literal["agreement", "soft"]


class RunFolder(WorkFolder):
    """One run on disk."""

    def manifest(self) -> RunManifest:
        return self.stored_manifest(RunManifest)

    def stored_manifest(self, kind: type[M]) -> M:
        """The folder's. One of an earlier version, whose shots chose probabilities, has the settings of those."""
        manifest = super().stored_manifest(kind)
        chosen = self.find(CHOICE_FILE, _Choice)
        if not (isinstance(manifest, RunManifest) and chosen and chosen.targets == "soft"):
            return manifest
        settings = manifest.settings  # those of `for_soft` already where this version wrote them
        return manifest if settings.learns_soft else msgspec.structs.replace(manifest, settings=settings.for_soft)

    def shots(self) -> list[Example]:
        return self.read(SHOTS_FILE, list[Example])

    def check_shots(self, shots: Sequence[Example]) -> None:
        """Raise RunFolderError where the texts of the folder were written from other shots."""
        if self.has(SHOTS_FILE) and self.shots() != [*shots]:
            raise RunFolderError(
                f"{self.path} was begun with other shots than the labelled data gives now: it was changed, or the test "
                "texts that are taken out of it. Put them back as they were, or give another folder (--out)."
            )

    def write_command(self, command: str) -> None:
        """Keep the command line that worked here, for a person to repeat, and where it did."""
        places = f"{TYPED_IN}{Path.cwd()}{WORKED_IN}{self.path.resolve()}"
        replace_file(self.path / COMMAND_FILE, f"{command}{places}\n".encode())

    @property
    def command(self) -> str:
        """What a person repeats to go on, as the end of a sentence: the command line, where there was one.

        It names this folder, wherever it was moved, and the one that its other paths begin at, where that is not the
        current one.
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
        """Whether all texts that are to be learnt are annotated; ``unlabelled``: some of them are the user's."""
        instead = unlabelled and settings.unlabelled.mode == "instead"
        return (instead or self.has(GENERATED_FILE)) and (not unlabelled or self.has(UNLABELLED_FILE))

    @property
    def pool(self) -> "RunFolder":
        """Where the candidates lie that annotators are trained on."""
        return RunFolder(self.path / "pool")

    @property
    def unlabelled(self) -> "RunFolder":
        """Where the user's own texts lie, with the verdicts on them."""
        return RunFolder(self.path / "unlabelled")
