"""Label probabilities out of vLLM: what is asked for, and what an answer says. For `VllmEngine` and for the server.

Importing this module does not load vllm.
"""

import inspect
from collections.abc import MutableSequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.engine.errors import FourshotError
from fourshot.engine.labels import LabelTokens, Question

if TYPE_CHECKING:
    import numpy as np
    from vllm import RequestOutput, SamplingParams

MAX_LABEL_IDS = 128  # vLLM's bound on `logprob_token_ids`
SCORING_FIELD = "logprob_token_ids"  # of `SamplingParams`; vLLM 0.19, the last release for V100s, has none
CANNOT_SCORE = (
    "This build of vLLM cannot read label probabilities: it is older than fourshot's, as the build for V100s is. Only "
    "training works here. Draw, filter, evaluate and serve on the CPU (make env BUILD=cpu) or on a newer card "
    "(make env BUILD=gpu); adapters that are trained here work there. See docs/install.md, V100."
)


def check_scoring(sampling_params: type) -> None:
    """Raise FourshotError where vLLM's ``SamplingParams`` cannot ask for the log-probabilities of given tokens."""
    if SCORING_FIELD not in inspect.signature(sampling_params).parameters:
        raise FourshotError(CANNOT_SCORE)


def installed_vllm_scores() -> bool:
    """Can the installed vLLM read label probabilities, by its source? True without a vLLM, which others report."""
    spec = find_spec("vllm")
    if spec is None or not spec.origin:
        return True
    try:
        return SCORING_FIELD in (Path(spec.origin).parent / "sampling_params.py").read_text(encoding="utf-8")
    except OSError:
        return True


@lru_cache(maxsize=4096)
def questions(labels: LabelTokens) -> "tuple[tuple[Question, SamplingParams], ...]":
    """The requests that score one prompt for every label: one if all labels are one token, else one per trie node."""
    from vllm import SamplingParams

    # The token that vLLM picks is of no interest, so nothing is masked: the log-probabilities are the raw ones.
    return tuple(
        (
            question,
            SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=list(question.tokens), detokenize=False),
        )
        for question in labels.questions(MAX_LABEL_IDS)
    )


class Scoring:
    """One prompt that is being scored. ``logprobs`` [num_labels], nats, are whole once it is ``done``."""

    def __init__(self, logprobs: "MutableSequence[float] | np.ndarray") -> None:
        """``logprobs`` are zeros, to be added to."""
        self.logprobs: Any = logprobs
        self.prompt_tokens = self.cached_tokens = 0
        self.pending: dict[str, Question] = {}  # request id -> what it was asked

    @property
    def done(self) -> bool:
        return not self.pending

    def append(self, output: "RequestOutput") -> None:
        """Take the answer to one of its ``pending`` questions."""
        self.add(self.pending.pop(output.request_id), output)

    def add(self, question: Question, output: "RequestOutput") -> None:
        """Take the answer to ``question``."""
        answers = output.outputs[0].logprobs[0]
        for token, columns in zip(question.tokens, question.columns, strict=True):
            for column in columns:
                self.logprobs[column] += answers[token].logprob
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens or 0
