"""Label probabilities from vLLM, for `VllmEngine` and the server: requests that score labels, and sums of the outputs.

Importing this module does not load vllm.
"""

import inspect
from collections.abc import MutableSequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.engine.errors import FourshotError
from fourshot.engine.labels import LabelTokens, TrieRequest

if TYPE_CHECKING:
    import numpy as np
    from vllm import RequestOutput, SamplingParams

MAX_LABEL_IDS = 128  # vLLM's limit on the length of `logprob_token_ids`
SCORING_FIELD = "logprob_token_ids"  # of `SamplingParams`; vLLM 0.19, the last release for V100s, has none
CANNOT_SCORE = (
    "This build of vLLM cannot return label probabilities: it is older than fourshot's, as the build for V100s is. "
    "Only training works here. Generate, filter, evaluate and serve on the CPU (make env BUILD=cpu) or on a newer "
    "card (make env BUILD=gpu); adapters trained here work there. See docs/install.md, V100."
)


def check_scoring(sampling_params: type) -> None:
    """Raise FourshotError if vLLM's ``SamplingParams`` cannot request the log-probabilities of given tokens."""
    if SCORING_FIELD not in inspect.signature(sampling_params).parameters:
        raise FourshotError(CANNOT_SCORE)


def installed_vllm_scores() -> bool:
    """Whether the installed vLLM can return label probabilities, by its source; True if there is none to check."""
    spec = find_spec("vllm")
    if spec is None or not spec.origin:
        return True
    try:
        return SCORING_FIELD in (Path(spec.origin).parent / "sampling_params.py").read_text(encoding="utf-8")
    except OSError:
        return True


@lru_cache(maxsize=4096)
def scoring_requests(labels: LabelTokens) -> "tuple[tuple[TrieRequest, SamplingParams], ...]":
    """Return the requests that score all labels for a prompt: one if they are single tokens, else one per trie node."""
    from vllm import SamplingParams

    # The sampled token is ignored, so no tokens are masked, and the log-probabilities are the raw ones.
    return tuple(
        (
            request,
            SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=list(request.tokens), detokenize=False),
        )
        for request in labels.trie_requests(MAX_LABEL_IDS)
    )


class Scoring:
    """One prompt that is being scored. ``logprobs`` [num_labels], nats, is complete once it is ``done``."""

    def __init__(self, logprobs: "MutableSequence[float] | np.ndarray") -> None:
        """``logprobs`` are zeros, to which results are added in place."""
        self.logprobs: Any = logprobs
        self.prompt_tokens = self.cached_tokens = 0
        self.pending: dict[str, TrieRequest] = {}  # request id -> its part of the trie

    @property
    def done(self) -> bool:
        return not self.pending

    def append(self, output: "RequestOutput") -> None:
        """Add the output of one of the ``pending`` requests."""
        self.add(self.pending.pop(output.request_id), output)

    def add(self, request: TrieRequest, output: "RequestOutput") -> None:
        """Add the output of ``request`` to ``logprobs`` and the token counts."""
        answers = output.outputs[0].logprobs[0]
        for token, columns in zip(request.tokens, request.columns, strict=True):
            for column in columns:
                self.logprobs[column] += answers[token].logprob
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens or 0
