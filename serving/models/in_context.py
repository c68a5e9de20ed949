"""Tasks without an adapter, which the base model serves in context: one file for each in the adapters' folder."""

from pathlib import Path
from typing import ClassVar

import msgspec

from fourshot.engine.errors import AdapterError
from fourshot.engine.machine.files import read_json, write_json
from fourshot.pipeline.rows.text_words import MAX_TEXT_WORDS
from fourshot.pipeline.synthesis.prompts import PROMPT_VERSION, PromptFormat
from fourshot.pipeline.task import Example, Task
from fourshot.serving.models.admission import check_task_name

IN_CONTEXT = ".in-context.json"  # suffix of such a file


class InContext(msgspec.Struct, frozen=True, kw_only=True):
    """A task that the base model serves with the shots in its prompt, as long as it has no adapter."""

    task: Task
    shots: tuple[Example, ...]
    max_text_words: int = MAX_TEXT_WORDS
    prompt_version: str = PROMPT_VERSION
    align: bool = False  # filler before the instruction; not in files of earlier versions
    is_student: ClassVar[bool] = False
    generates_text: ClassVar[bool] = False
    key: ClassVar[str] = ""  # it has no version

    @property
    def at(self) -> str:
        """The name of its file."""
        return f"{self.task.name}{IN_CONTEXT}"

    @property
    def signature(self) -> "InContext":
        """What changes with every change of it, as for a `serving.models.registry.StoredAdapter`."""
        return self

    @property
    def prompt_format(self) -> PromptFormat:
        return PromptFormat(max_text_words=self.max_text_words)


def read_in_context(file: Path) -> InContext:
    """Read the entry of a task. Raises AdapterError, with the reason, for a file that cannot be served."""
    try:
        entry = read_json(file, InContext)
    except (OSError, msgspec.DecodeError) as error:
        raise AdapterError(f"it cannot be read: {error}") from error
    if entry.prompt_version != PROMPT_VERSION:
        raise AdapterError(f"it is for prompts of version {entry.prompt_version}; this one is {PROMPT_VERSION}")
    if not entry.shots or {shot.label for shot in entry.shots} - set(entry.task.label_names):
        raise AdapterError("it has no examples, or examples of labels that its task does not have")
    check_task_name(entry.task.name)
    return entry


def write_in_context(root: Path, entry: InContext) -> Path:
    """Have a server of ``root`` serve ``entry`` in context. Returns its file. Raises AdapterError for a bad name."""
    check_task_name(entry.task.name)
    write_json(root / entry.at, entry)
    return root / entry.at
