"""A run's folder: what stages hand each other, written so that a kill at any moment loses only unfinished work.

docs/design.md has a list of its files.
"""

from typing import Any

import msgspec

from fourshot.engine.checkpoints.models import is_of_content
from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.synthesis.prompts import PROMPT_VERSION
from fourshot.pipeline.synthesis.recipe import Recipe, resolved
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import MANIFEST_FILE, Manifest, WorkFolder

SCHEMA = 1
SHOTS_FILE = "shots.json"
GENERATED_FILE = "generated.json"
RECIPE_FILE = "recipe.json"
COMMAND_FILE = "command.txt"
POOL_FILE = "pool/drawn.json"
UNLABELLED_FILE = "unlabelled/annotated.json"


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
        if not self.settings.is_tried:  # "auto" is another word for "agreement" then, which earlier versions wrote
            fields["settings"] = msgspec.to_builtins(self.settings.untried)
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


class RunFolder(WorkFolder):
    """One run on disk."""

    def manifest(self) -> RunManifest:
        return self.read(MANIFEST_FILE, RunManifest)

    def recipe(self) -> Recipe | None:
        """What the shots said is to be learnt of a text; None where they were not asked, or not yet."""
        return self.find(RECIPE_FILE, Recipe)

    def settings(self) -> RunSettings:
        """The manifest's, with what the shots said."""
        return resolved(self.manifest().settings, self.recipe())

    def shots(self) -> list[Example]:
        return self.read(SHOTS_FILE, list[Example])

    def write_command(self, command: str) -> None:
        """Keep the command line that worked here, for a person to repeat."""
        replace_file(self.path / COMMAND_FILE, f"{command}\n".encode())

    @property
    def command(self) -> str:
        """What a person repeats to go on, as the end of a sentence: the command line, where there was one."""
        file = self.path / COMMAND_FILE
        return f"this:\n  {file.read_text(encoding='utf-8').strip()}" if file.exists() else "the command of the run."

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
