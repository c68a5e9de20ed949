"""vLLM's sampling on the CPU with less work per step: no table of log-probabilities, and noise for the top k only.

Importing this module loads vllm and torch: only `engine.vllm_start` and `engine.vllm_seams.imports` do.

Replaces: ``Sampler.forward``. In every step in which a request needs a log-probability, vLLM computes a table of them
[rows, vocabulary] and takes a few columns. Here the columns are taken from the logits, and each row's normaliser is
subtracted. It also replaces ``TopKTopPSampler.forward_cpu``. For top-k, vLLM finds the k-th logit, masks all below it,
and draws noise for the whole vocabulary. Here noise is drawn only for the k largest. The sampling distribution is the
same, but a seed gives other texts than in vLLM. docs/engine.md has the measurement.
"""

from collections.abc import Collection
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch.nn.functional import pad

from fourshot.engine.vllm_seams.contract import Seam
from fourshot.engine.vllm_seams.cpu_eager import FEW_ROWS

EVERY_TOKEN = -1  # vLLM's value for log-probabilities of the whole vocabulary
MOST_LIKELIEST = 1024  # largest k for which finding the k largest logits saves time

Generators = dict[int, torch.Generator]


_SAMPLER = "vllm.v1.sample.sampler:Sampler"
_DRAW = "vllm.v1.sample.ops.topk_topp_sampler:TopKTopPSampler"
_METADATA = "vllm.v1.sample.metadata:SamplingMetadata"
SEAM = Seam(
    name="our sampling on the CPU",
    written_for=("0.26", "0.32"),
    relies_on=(
        f"{_SAMPLER}.forward(self, logits, sampling_metadata, predict_bonus_token, logprobs_mode_override)",
        f"{_SAMPLER}.gather_logprobs(logprobs, num_logprobs, token_ids)",
        f"{_SAMPLER}.gather_specific_token_logprobs(self, logprobs, logprob_token_ids, sampled)",
        f"{_SAMPLER}.__init__ sets logprobs_mode",
        f"{_METADATA}.__init__ sets max_num_logprobs",
        f"{_METADATA}.__init__ sets logprob_token_ids",
        f"{_DRAW}.forward_cpu(self, logits, generators, k, p)",
        f"{_DRAW}.__init__ sets logprobs_mode",
        f"{_DRAW}.__init__ sets use_fp64_gumbel",
    ),
    without="Sampling is slower, and a seed gives other texts than with this seam.",
)


def apply() -> None:
    """Apply the replacements to engines opened from now on, if `SEAM` holds. Idempotent."""
    if not SEAM.holds():
        return
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
    from vllm.v1.sample.sampler import Sampler

    if not hasattr(Sampler.forward, "__wrapped__"):
        Sampler.forward = _without_table(Sampler.forward)
    if not hasattr(TopKTopPSampler.forward_cpu, "__wrapped__"):
        TopKTopPSampler.forward_cpu = _among_the_likeliest(TopKTopPSampler.forward_cpu)


def _without_table(forward: Any) -> Any:
    @wraps(forward)
    def forward_without_table(
        sampler: Any,
        logits: torch.Tensor,
        sampling_metadata: Any,
        predict_bonus_token: bool = False,
        logprobs_mode_override: Any = None,
    ) -> Any:
        metadata = sampling_metadata
        num_logprobs, ids = metadata.max_num_logprobs, metadata.logprob_token_ids
        mode = logprobs_mode_override or sampler.logprobs_mode
        if (num_logprobs is None and not ids) or num_logprobs == EVERY_TOKEN or mode != "raw_logprobs":
            return forward(sampler, logits, metadata, predict_bonus_token, logprobs_mode_override)
        raw = logits.clone() if logits.dtype == torch.float32 else logits  # vLLM modifies float32 in place
        sampled = forward(
            sampler,
            logits,
            replace(metadata, max_num_logprobs=None, logprob_token_ids=None),
            predict_bonus_token,
            logprobs_mode_override,
        )
        tokens = sampled.sampled_token_ids.squeeze(-1).long()
        if not ids:
            gathered = sampler.gather_logprobs(raw, num_logprobs, token_ids=tokens)
        else:
            gathered = sampler.gather_specific_token_logprobs(raw, ids, tokens)
            if num_logprobs and len(ids) < len(raw):
                gathered = _with_likeliest(gathered, sampler.gather_logprobs(raw, num_logprobs, token_ids=tokens), ids)
        return replace(
            sampled, logprobs_tensors=gathered._replace(logprobs=gathered.logprobs.float() - normalisers(raw))
        )

    return forward_without_table


def _with_likeliest(given: Any, likeliest: Any, ids: Collection[int]) -> Any:
    """Combine `LogprobsTensors`: ``given`` for the rows ``ids``, whose tokens were given, ``likeliest`` for the others.

    Token ids and log-probabilities, in nats, are [rows, most tokens of a row], padded with token 0 and -inf. vLLM uses
    ``given`` for all rows, so a completion in the same step as a scored prompt would lose its most likely tokens.
    """
    width = max(given.logprobs.shape[1], likeliest.logprobs.shape[1])
    given, likeliest = (
        part._replace(
            logprob_token_ids=pad(part.logprob_token_ids, (0, width - part.logprobs.shape[1])),
            logprobs=pad(part.logprobs, (0, width - part.logprobs.shape[1]), value=-torch.inf),
        )
        for part in (given, likeliest)
    )
    has_ids = torch.zeros(len(given.logprobs), 1, dtype=torch.bool)
    has_ids[list(ids)] = True
    return given._replace(
        logprob_token_ids=torch.where(has_ids, given.logprob_token_ids, likeliest.logprob_token_ids),
        logprobs=torch.where(has_ids, given.logprobs, likeliest.logprobs),
    )


def normalisers(logits: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the sum of exponentials of logits [rows, vocabulary]: float32 [rows, 1].

    It processes a few rows at a time, whose table fits into the processor's cache: 3 ms for 128 rows. Compiled, it
    would take 2 ms, after a start that takes as long as a thousand such steps.
    """
    return torch.cat([_normalisers(rows.float()) for rows in logits.split(FEW_ROWS)])


def _normalisers(logits: torch.Tensor) -> torch.Tensor:
    """Subtract the log-probability of the largest logit from that logit: torch fuses `log_softmax`, not `logsumexp`."""
    return logits.amax(dim=-1, keepdim=True) - torch.log_softmax(logits, dim=-1).amax(dim=-1, keepdim=True)


def _among_the_likeliest(forward_cpu: Any) -> Any:
    @wraps(forward_cpu)
    def draw_among_the_likeliest(
        sampler: Any, logits: torch.Tensor, generators: Generators, k: torch.Tensor | None, p: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if k is None or p is not None or sampler.use_fp64_gumbel or sampler.logprobs_mode != "raw_logprobs":
            return forward_cpu(sampler, logits, generators, k, p)
        few = k <= min(MOST_LIKELIEST, logits.shape[1] - 1)
        if bool(few.all()):
            return _draw(logits, generators, k), None
        # Some rows have no top-k, or a large k: scored prompts, for example, can share a step with sampled ones.
        tokens = torch.empty(len(logits), dtype=torch.int64)
        for rows, is_few in ((few.nonzero().flatten(), True), ((~few).nonzero().flatten(), False)):
            if len(rows):
                place = {row: new for new, row in enumerate(rows.tolist())}
                row_generators = {place[row]: generator for row, generator in generators.items() if row in place}
                some_logits, its_k = logits[rows], k[rows]
                tokens[rows] = (
                    _draw(some_logits, row_generators, its_k)
                    if is_few
                    else forward_cpu(sampler, some_logits, row_generators, its_k, None)[0].long()
                )
        return tokens, None

    return draw_among_the_likeliest


def _draw(logits: torch.Tensor, generators: Generators, k: torch.Tensor) -> torch.Tensor:
    """Sample one token per row, int64 [rows], from the ``k`` most likely, int [rows], with probabilities of ``logits``.

    It is the largest of the logits, each with its own Gumbel noise (minus the logarithm of an exponential variable).
    """
    own_k = k.tolist()
    largest_k = max(own_k)
    values, tokens = logits.topk(largest_k, dim=1)
    noise = torch.empty(values.shape, dtype=torch.float32).exponential_()
    for row, generator in generators.items():  # only its k values, so that its state is the same in any batch
        noise[row, : own_k[row]].exponential_(generator=generator)
    scores = values.float() - noise.log_()
    scores.masked_fill_(torch.arange(largest_k) >= k[:, None], -torch.inf)
    return tokens.gather(1, scores.argmax(dim=1, keepdim=True)).squeeze(1)
