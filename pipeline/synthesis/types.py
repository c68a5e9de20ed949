"""What flows through synthesis: a candidate with its lineage, and the verdict on it.

Importing this module loads neither torch nor vllm.
"""

from typing import Literal

import msgspec

Reason = Literal[
    "kept",
    "exact_duplicate",  # same text, whitespace and case ignored, as an earlier candidate
    "near_duplicate",  # token-set similarity above the bound
    "missing_field",  # of the task's fields not all were written
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
    "dropped_in_review",  # by a person
]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A text that may be learnt, with its whole lineage: one that the model wrote, or one of the user's."""

    id: str  # "r02-000137": round, position; "u00000012": line of the user's file
    text: str
    label: str  # intended: the class it was generated for; "" of a user's text, which nobody has read yet
    round: int
    prompt_hash: str
    shots: tuple[int, ...]  # indices into the run's shots that the prompt showed
    num_tokens: int
    cumulative_logprob: float
    finish_reason: Literal["stop", "length"]
    attributes: dict[str, str] = {}  # that the prompt asked for, value by dimension
    origin: Literal["model", "user"] = "model"
    mixed: bool = False  # the prompt showed shots of all classes and asked for none: the label says nothing of the text


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a candidate."""

    candidate_id: str
    kept: bool
    reason: Reason
    predicted: str = ""  # the annotator's label; "" where the candidate never reached it
    probabilities: dict[str, float] = {}  # the annotator's, by label name


TextPairs = list[tuple[Candidate, Verdict]]
