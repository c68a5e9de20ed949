"""Text generation tasks: inputs, and a target text to be generated for each. They have no labels.

Importing this module loads neither torch nor vllm.
"""

import msgspec

from fourshot.engine.core import Typed
from fourshot.pipeline.task import DataSource

KIND = "generation"
WHAT_WORKS = "fourshot distill, annotate, predict, serve, tasks check and tasks list"


class PairSource(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the pairs are: exactly one of ``hub`` (a data set) and ``folder`` (train and test files)."""

    hub: str = ""  # e.g. "GEM/web_nlg"
    hub_config: str = ""
    folder: str = ""  # relative to the task file; one table per split, such as train.jsonl and test.csv
    encoding: str = ""  # of the folder's files; "" means: by the byte-order mark, else UTF-8
    header: bool = True  # whether the first line of CSV files and spreadsheets names the columns; else "1", "2", ...
    input_columns: tuple[str, ...] = ("input",)  # several: one line each, with the column's name before it
    target_column: str = "target"  # a text, or a list of texts: the first is trained on, all are references
    references_column: str = ""  # further correct targets, a list of texts; "": there are none
    train_split: str = "train"
    test_split: str = "test"

    @property
    def tables(self) -> DataSource:
        """The same source in the form that functions for tables take."""
        return DataSource(
            hub=self.hub,
            hub_config=self.hub_config,
            folder=self.folder,
            encoding=self.encoding,
            header=self.header,
            train_split=self.train_split,
            test_split=self.test_split,
        )


class GenerationTask(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag=KIND):
    """A text generation task, as defined by one TOML file."""

    name: str
    instruction: str  # "Write these facts as a text."
    input_name: str = "Input"  # what stands before an input in a prompt: "Facts"
    target_name: str = "Output"  # what stands before a target in a prompt: "Text"
    data: PairSource = PairSource()


class Pair(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An input with its target."""

    input: str
    target: str
    references: tuple[str, ...] = ()  # all correct targets, if there are several; ``target`` is the first
    is_corrected: bool = False  # a person replaced a teacher's target with this one

    @property
    def right(self) -> tuple[str, ...]:
        """All correct targets, at least one."""
        return self.references or (self.target,)


def writing_prompt(task: GenerationTask, text: str) -> str:
    """Return the prompt that a model continues with a space, the target and its end token."""
    return f"{drawing_prompt(task)}{text}{between(task)}"


def drawing_prompt(task: GenerationTask) -> str:
    """Return the beginning of `writing_prompt`, up to the input, for a model that generates inputs too."""
    return f"{task.instruction}\n\n{task.input_name}:\n"


def between(task: GenerationTask) -> str:
    """Return the part of a prompt between an input and its target."""
    return f"\n\n{task.target_name}:"
