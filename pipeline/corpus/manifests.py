"""Manifests in the folder of a corpus: the identity of the corpus, and of its tasks."""

from typing import Any

import msgspec

from fourshot.engine.checkpoints.models import is_content_hash
from fourshot.pipeline.corpus.settings import Format
from fourshot.pipeline.synthesis.prompts import PROMPT_VERSION
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.work_folder import Manifest

SCHEMA = 1


class CorpusManifest(Manifest, frozen=True, kw_only=True):
    """Identifies the corpus in a folder. Two corpora are the same if their `identity`, without versions, is equal."""

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
        if is_content_hash(self.model_revision):
            fields.pop("model_name")  # that of a local folder, which may be moved or given by another path
        fields["settings"].pop("allow_short")
        fields["settings"].pop("align")  # stored in `LAYOUT_FILE`; manifests of earlier versions lack it
        annotate = fields["settings"]["annotate"]  # adapters of a corpus were trained before: nothing is left out here
        annotate["weights"] = "held_out" if annotate["weights"] == "auto" else annotate["weights"]
        return fields


class TaskManifest(Manifest, frozen=True, kw_only=True):
    """Identifies the task in a task's folder. Tasks can be added to a corpus, but not changed."""

    task: Task
    adapters: tuple[str, ...] = ()  # names of those that annotate
    shots: str = ""  # hash of those in the folder; "": written by a version that did not store it

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        fields["task"].pop("data")  # the same data may be moved; the shots are stored in the folder
        fields.pop("shots")  # `sink.check_shots` compares them, with a more specific error
        return fields
