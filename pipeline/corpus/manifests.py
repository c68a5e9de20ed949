"""What a corpus's folder says it holds: which corpus, and which tasks."""

from typing import Any

import msgspec

from fourshot.engine.checkpoints.models import is_of_content
from fourshot.pipeline.corpus.settings import Format
from fourshot.pipeline.synthesis.prompts import PROMPT_VERSION
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.work_folder import Manifest

SCHEMA = 1


class CorpusManifest(Manifest, frozen=True, kw_only=True):
    """Says which corpus a folder holds. Two are the same if all of this is equal but the versions."""

    schema: int = SCHEMA
    kind: str = "corpus"
    prompt_version: str = PROMPT_VERSION
    settings: RunSettings
    model_name: str
    model_revision: str
    format: Format
    versions: dict[str, str] = msgspec.field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        if is_of_content(self.model_revision):
            fields.pop("model_name")  # of a folder that may be called from elsewhere, or have been moved
        fields["settings"].pop("allow_short")
        fields["settings"].pop("align")  # the folder says (`LAYOUT_FILE`); manifests of earlier versions do not
        return fields


class TaskManifest(Manifest, frozen=True, kw_only=True):
    """Says which task a task's folder is of. Others may be added to a corpus, none can be changed."""

    task: Task
    adapters: tuple[str, ...] = ()  # names of those that re-label
    shots: str = ""  # hash of those in the folder; "": of a version that did not write it down

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        fields["task"].pop("data")  # the same data may lie elsewhere tomorrow; the shots are kept in the folder
        fields.pop("shots")  # `sink.check_shots` says more
        return fields
