"""The nouns of the pipeline room: a task and what flows through it.

All frozen; unknown keys in a user's file are an error.

Importing this module loads neither torch nor vllm.
"""

from typing import Literal

import msgspec

Reason = Literal[
    "kept",
    "exact_duplicate",  # same text, whitespace and case ignored, as an earlier candidate
    "near_duplicate",  # token-set similarity above the bound
    "too_short",
    "too_long",
    "unfinished",  # ran into max_tokens
    "repeats_prompt",
    "leaks_label",  # carries a label line of its own
    "malformed",  # empty, mostly signs and digits, or the same words over and over
    "copies_shot",
    "in_test_set",
    "label_disagrees",  # the annotator predicts another label
    "low_confidence",  # the annotator agrees, below the bound
    "surplus",  # good, but its class already has N
]


class Label(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One class. ``word`` is what the model reads and answers; ``name`` is what the data and the user say."""

    name: str
    word: str = ""  # "" means: the name
    description: str = ""  # completes "Few examples of {noun}s ... are given"
    plural: str = ""  # completes "Generate more ..."; "" means: {word} {noun}s

    @property
    def read_as(self) -> str:
        return self.word or self.name


class DataSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the examples are: exactly one of ``hub`` (a data set) and ``folder`` (train and test files)."""

    hub: str = ""  # e.g. "stanfordnlp/sst2"
    hub_config: str = ""
    folder: str = ""  # relative to the task file; train.{jsonl,csv,parquet} and test.{jsonl,csv,parquet}
    text_column: str = "text"
    label_column: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    label_values: dict[str, str] = {}  # value in the data -> label name, where they differ


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text classification task, as one TOML file says it."""

    name: str
    instruction: str
    noun: str  # of one text: "movie review"
    noun_plural: str = ""  # "" means: {noun}s
    labels: tuple[Label, ...]
    data: DataSource = DataSource()

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @property
    def label_words(self) -> tuple[str, ...]:
        return tuple(label.read_as for label in self.labels)


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A text and the name of its label."""

    text: str
    label: str


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A synthetic text with its whole lineage."""

    id: str  # "r02-000137": round, position
    text: str
    label: str  # intended: the class it was generated for
    round: int
    prompt_hash: str
    shots: tuple[int, ...]  # indices into the run's shots that the prompt showed
    num_tokens: int
    cumulative_logprob: float
    finish_reason: Literal["stop", "length"]
    attributes: dict[str, str] = {}  # that the prompt asked for, value by dimension


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a candidate."""

    candidate_id: str
    kept: bool
    reason: Reason
    predicted: str = ""  # the annotator's label; "" where the candidate never reached it
    probabilities: dict[str, float] = {}  # the annotator's, by label name
    train_label: str = ""  # the label it is trained with where kept; may differ from the intended one


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """How well a classifier did on a test split."""

    n: int
    accuracy: float
    macro_f1: float
    ece: float  # expected calibration error, 15 equal-width bins
    interval: tuple[float, float]  # 95 % Wilson interval of the accuracy
    seconds: float  # inside the engine
    prompt_tokens: int
    cached_tokens: int
