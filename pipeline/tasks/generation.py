"""Text generation tasks: an input and the target to be written for it. No labels.

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
    target_column: str = "target"  # a text, or a list of texts: the first is learnt, all are references
    references_column: str = ""  # further right answers, a list of texts; "": there are none
    train_split: str = "train"
    test_split: str = "test"

    @property
    def tables(self) -> DataSource:
        """The same place, for what reads tables."""
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
    """A text generation task, as one TOML file says it."""

    name: str
    instruction: str  # "Write these facts as a text."
    input_name: str = "Input"  # what stands before an input in a prompt: "Facts"
    target_name: str = "Output"  # what stands before what is to be written: "Text"
    data: PairSource = PairSource()


class Pair(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An input, and what is right to write for it."""

    input: str
    target: str
    references: tuple[str, ...] = ()  # where there are several right answers: all of them, the target first
    is_corrected: bool = False  # a person put the target in place of a teacher's

    @property
    def right(self) -> tuple[str, ...]:
        """All right answers, at least one."""
        return self.references or (self.target,)


def writing_prompt(task: GenerationTask, text: str) -> str:
    """What a model is asked: it continues with the target, after a blank, and its end token."""
    return f"{drawing_prompt(task)}{text}{between(task)}"


def drawing_prompt(task: GenerationTask) -> str:
    """The beginning of `writing_prompt`, up to where an input would stand: for a model that writes inputs too."""
    return f"{task.instruction}\n\n{task.input_name}:\n"


def between(task: GenerationTask) -> str:
    """What stands between an input and its target."""
    return f"\n\n{task.target_name}:"
