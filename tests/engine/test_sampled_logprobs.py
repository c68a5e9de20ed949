"""Log-probabilities without the table are those of vLLM's own sampler, token by token."""

from typing import Any

import pytest
import torch
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

from engine import sampled_logprobs

ROWS, VOCABULARY = 5, 96


def metadata(**asked: Any) -> SamplingMetadata:
    none = torch.zeros(ROWS)
    return SamplingMetadata(
        temperature=torch.full((ROWS,), 0.7),
        all_greedy=False,
        all_random=True,
        top_p=None,
        top_k=torch.full((ROWS,), 10, dtype=torch.int32),
        generators={row: torch.Generator().manual_seed(row) for row in range(ROWS)},
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=none,
        presence_penalties=none,
        repetition_penalties=none,
        output_token_ids=[[] for _ in range(ROWS)],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
        **asked,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "asked",
    [
        {"max_num_logprobs": 0},
        {"max_num_logprobs": 3},
        {"max_num_logprobs": None, "logprob_token_ids": {1: [4, 9], 3: [7]}},
        {"max_num_logprobs": 0, "logprob_token_ids": {0: [1, 2, 3]}},
        {"max_num_logprobs": None},
        {"max_num_logprobs": -1},
    ],
)
def test_they_are_those_of_vllms_table(
    asked: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm.v1.sample.sampler.batched_count_greater_than", lambda x, values: (x >= values).sum(-1))
    sampled_logprobs.apply()
    torch.manual_seed(0)
    logits = (3 * torch.randn(ROWS, VOCABULARY)).to(dtype)
    sampler = Sampler()
    mine = sampler(logits.clone(), metadata(**asked))
    theirs = Sampler.forward.__wrapped__(sampler, logits.clone(), metadata(**asked))
    assert torch.equal(mine.sampled_token_ids, theirs.sampled_token_ids)
    if theirs.logprobs_tensors is None:
        assert mine.logprobs_tensors is None
        return
    torch.testing.assert_close(mine.logprobs_tensors.logprobs, theirs.logprobs_tensors.logprobs, atol=1e-5, rtol=0)
    assert torch.equal(mine.logprobs_tensors.logprob_token_ids, theirs.logprobs_tensors.logprob_token_ids)
    assert torch.equal(mine.logprobs_tensors.selected_token_ranks, theirs.logprobs_tensors.selected_token_ranks)


def test_the_table_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(logits: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a table was made")

    monkeypatch.setattr("vllm.v1.sample.sampler.batched_count_greater_than", lambda x, values: (x >= values).sum(-1))
    sampled_logprobs.apply()
    sampler = Sampler()
    monkeypatch.setattr(sampler, "compute_logprobs", made)
    found = sampler(torch.randn(ROWS, VOCABULARY), metadata(max_num_logprobs=0))
    assert (found.logprobs_tensors.logprobs < 0).all()
    with pytest.raises(AssertionError, match="a table"):
        sampler(torch.randn(ROWS, VOCABULARY), metadata(max_num_logprobs=-1))
