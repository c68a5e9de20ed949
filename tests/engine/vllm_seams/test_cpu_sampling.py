"""Log-probabilities without the table are those of vLLM's own sampler; what is drawn is as likely as it should be."""

from typing import Any

import pytest
import torch
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from vllm.v1.sample.sampler import Sampler

from fourshot.engine.vllm_seams import cpu_eager, cpu_sampling
from fourshot.engine.vllm_seams.cpu_eager import FEW_ROWS

ROWS, VOCABULARY = 5, 96


def metadata(**changes: Any) -> SamplingMetadata:
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
        **changes,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "changes",
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
    changes: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_sampling.apply()
    cpu_eager.apply()
    torch.manual_seed(0)
    logits = (3 * torch.randn(ROWS, VOCABULARY)).to(dtype)
    sampler = Sampler()
    output = sampler(logits.clone(), metadata(**changes))
    monkeypatch.setattr("vllm.v1.sample.sampler.batched_count_greater_than", lambda x, values: (x >= values).sum(-1))
    vllm_output = Sampler.forward.__wrapped__(sampler, logits.clone(), metadata(**changes))
    assert torch.equal(output.sampled_token_ids, vllm_output.sampled_token_ids)
    if vllm_output.logprobs_tensors is None:
        assert output.logprobs_tensors is None
        return
    torch.testing.assert_close(
        output.logprobs_tensors.logprobs, vllm_output.logprobs_tensors.logprobs, atol=1e-5, rtol=0
    )
    assert torch.equal(output.logprobs_tensors.logprob_token_ids, vllm_output.logprobs_tensors.logprob_token_ids)
    assert torch.equal(output.logprobs_tensors.selected_token_ranks, vllm_output.logprobs_tensors.selected_token_ranks)


@pytest.mark.parametrize("given", [{1: [4, 9], 3: [7]}, {1: [4, 9, 2, 8, 1], 3: [7]}], ids=["fewer", "more"])
def test_rows_that_want_their_likeliest_tokens_have_them_beside_rows_whose_tokens_are_given(
    given: dict[int, list[int]],
) -> None:
    """Completions of the server share steps with what is classified; vLLM's own sampler forgets them there."""
    cpu_sampling.apply()
    cpu_eager.apply()
    logits = 3 * torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0))
    changes: list[dict[str, Any]] = [
        {"max_num_logprobs": 3, "logprob_token_ids": given},
        {"max_num_logprobs": 3},
        {"max_num_logprobs": None, "logprob_token_ids": given},
    ]
    together, likeliest, only_given = (Sampler()(logits.clone(), metadata(**own)).logprobs_tensors for own in changes)
    for row in range(ROWS):
        expected = only_given if row in given else likeliest
        width = 1 + (len(given[row]) if row in given else 3)
        for tensors in zip(together[:2], expected[:2], strict=True):
            assert torch.equal(*(tensor[row, :width] for tensor in tensors))
        assert (together.logprobs[row, width:] == -torch.inf).all()
    assert torch.equal(together.selected_token_ranks, likeliest.selected_token_ranks)


def test_the_table_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def table(logits: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a table was made")

    cpu_sampling.apply()
    cpu_eager.apply()
    sampler = Sampler()
    monkeypatch.setattr(sampler, "compute_logprobs", table)
    output = sampler(torch.randn(ROWS, VOCABULARY), metadata(max_num_logprobs=0))
    assert (output.logprobs_tensors.logprobs < 0).all()
    with pytest.raises(AssertionError, match="a table"):
        sampler(torch.randn(ROWS, VOCABULARY), metadata(max_num_logprobs=-1))


@pytest.mark.parametrize("rows", [1, FEW_ROWS, 3 * FEW_ROWS + 2])
def test_normalisers_are_those_of_all_rows_at_once(rows: int) -> None:
    torch.manual_seed(rows)
    logits = 30 * torch.randn(rows, VOCABULARY)
    logits[:, 0] = -torch.inf  # a token that cannot come
    torch.testing.assert_close(cpu_sampling.normalisers(logits), logits.logsumexp(-1, keepdim=True), atol=1e-4, rtol=0)


def test_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*_: Any, **__: Any) -> None:
        raise AssertionError("a function was compiled")

    cpu_sampling.apply()
    cpu_eager.apply()
    torch._dynamo.reset()
    monkeypatch.setattr("torch._dynamo.convert_frame.ConvertFrame.__call__", compiled)
    for changes in ({"max_num_logprobs": 0}, {"max_num_logprobs": None, "logprob_token_ids": {1: [4, 9]}}):
        assert Sampler()(torch.randn(ROWS, VOCABULARY), metadata(**changes)).logprobs_tensors is not None


def drawn(logits: torch.Tensor, k: list[int], generators: dict[int, torch.Generator] | None = None) -> torch.Tensor:
    cpu_sampling.apply()
    sampler = TopKTopPSampler()
    tokens, _ = sampler.forward_cpu(logits.clone(), generators or {}, torch.tensor(k, dtype=torch.int32), None)
    return tokens


def seeded(*seeds: int) -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(seed) for row, seed in enumerate(seeds)}


def test_tokens_are_drawn_among_the_k_likeliest_as_often_as_they_are_likely() -> None:
    torch.manual_seed(1)
    row, rows, k = 2 * torch.randn(VOCABULARY), 40_000, 7
    tokens = drawn(row.repeat(rows, 1), [k] * rows)
    shares = torch.bincount(tokens, minlength=VOCABULARY) / rows
    likeliest = row.topk(k)
    expected = torch.zeros(VOCABULARY).scatter(0, likeliest.indices, likeliest.values.softmax(0))
    torch.testing.assert_close(shares, expected, atol=4 * (0.25 / rows) ** 0.5, rtol=0)  # four standard errors
    assert not shares[expected == 0].any()


def test_rows_keep_their_own_k_and_their_own_seed_whatever_shares_the_batch() -> None:
    torch.manual_seed(2)
    logits = torch.randn(6, VOCABULARY)
    ks = [3, VOCABULARY, 20, 1, VOCABULARY, 3]  # those without top-k, as rows that are scored, in between
    first = drawn(logits, ks, seeded(*range(6)))
    assert torch.equal(first, drawn(logits, ks, seeded(*range(6))))
    generators = seeded(*range(6))
    twice = [drawn(logits, ks, generators) for _ in range(2)][1]
    for row in (0, 2, 3, 5):
        alone = {0: torch.Generator().manual_seed(row)}
        assert [drawn(logits[[row]], [ks[row]], alone)[0] for _ in range(2)] == [first[row], twice[row]]
        assert first[row] in logits[row].topk(ks[row]).indices
    other_draws = [drawn(logits, ks, seeded(*range(10 * n, 10 * n + 6))).tolist() for n in range(1, 9)]
    assert len({tuple(tokens_of_row) for tokens_of_row in other_draws}) == 8


def test_without_top_k_vllm_draws_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("the likeliest were looked for")

    cpu_sampling.apply()
    monkeypatch.setattr(cpu_sampling, "_draw", refused)
    assert len(drawn(torch.randn(3, VOCABULARY), [VOCABULARY] * 3)) == 3
    with pytest.raises(AssertionError, match="likeliest"):
        drawn(torch.randn(3, VOCABULARY), [4] * 3)
