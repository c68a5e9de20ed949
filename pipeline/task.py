"""Types of a classification task: its labels, the source of its examples, and an example.

All are frozen. Unknown keys in a user's file are an error. Importing this module loads neither torch nor vllm.
"""

import msgspec
from msgspec import UNSET, UnsetType

from fourshot.engine.core import Typed


class Label(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One class. ``word`` stands for it in prompts and predictions of the model, ``name`` in the data and for users."""

    name: str
    word: str = ""  # "" means: the name
    description: str = ""  # completes "Few examples of {noun}s ... are given"
    plural: str = ""  # completes "Generate more ..."; "" means: {word} {noun}s

    @property
    def read_as(self) -> str:
        return self.word or self.name


class DataSource(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Source of the examples: exactly one of ``hub`` (a data set) and ``folder`` (train and test files)."""

    hub: str = ""  # e.g. "stanfordnlp/sst2"
    hub_config: str = ""
    folder: str = ""  # relative to the task file; one table per split, such as train.jsonl and test.csv
    encoding: str = ""  # of the folder's files; "" means: by the byte-order mark, else UTF-8
    header: bool = True  # whether the first line of CSV files and spreadsheets names the columns; else "1", "2", ...
    text_column: str = "text"
    label_column: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    label_values: dict[str, str] = msgspec.field(default_factory=dict)  # value in the data -> label name
    leave_out: tuple[str, ...] | UnsetType = UNSET  # values that are no label of the task: their rows are left out


class Task(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text classification task, as defined by one TOML file."""

    name: str
    instruction: str
    noun: str  # of one text: "movie review"
    noun_plural: str = ""  # "" means: {noun}s
    # Fields of an input, in the order of its lines, and columns of the data. Inputs of other tasks are texts. Unset, it
    # is not written, so that cards and hashes of such tasks equal those of versions before there were fields.
    fields: tuple[str, ...] | UnsetType = UNSET
    labels: tuple[Label, ...]
    data: DataSource = DataSource()

    @property
    def nouns(self) -> str:
        return self.noun_plural or f"{self.noun}s"

    @property
    def input_fields(self) -> tuple[str, ...]:
        return self.fields or ()

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns of the data from which an input is read."""
        return self.input_fields or (self.data.text_column,)

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @property
    def label_words(self) -> tuple[str, ...]:
        return tuple(label.read_as for label in self.labels)


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A text and the name of its label."""

    text: str  # of a task with fields: a line for each, see `pipeline.rows.fields`
    label: str
