"""What a user may rely on when sampling."""

import pytest

from fourshot.engine.core import Adapter, Completion, Engine, Sampling
from fourshot.engine.errors import AdapterError, FourshotError, InputError
from fourshot.engine.vllm_start import CPU_BATCHED_TOKENS
from tests.engine.prompts import IN_CONTEXT, LABELS, ZERO_SHOT

PROMPT = "Here are some movie reviews.\nText: a joy from start to end\nText:"


def in_order(completions: list[Completion]) -> list[Completion]:
    return sorted(completions, key=lambda completion: (completion.prompt_index, completion.sample_index))


def test_every_prompt_gets_all_its_samples(vllm_engine: Engine) -> None:
    completions = in_order(list(vllm_engine.sample([PROMPT, ZERO_SHOT[0]], Sampling(n=3, max_tokens=8, seed=1))))
    assert [(c.prompt_index, c.sample_index) for c in completions] == [(i, j) for i in range(2) for j in range(3)]
    assert all(1 <= c.num_tokens <= 8 and c.cumulative_logprob < 0 for c in completions)
    assert len({c.text for c in completions[:3]}) > 1


def test_the_same_seed_gives_the_same_texts_whatever_ran_before(vllm_engine: Engine) -> None:
    sampling = Sampling(n=4, max_tokens=24, seed=7)
    vllm_engine.reset_prefix_cache()
    first = in_order(list(vllm_engine.sample([PROMPT] * 4, sampling)))
    list(vllm_engine.sample(IN_CONTEXT, Sampling(max_tokens=5)))
    vllm_engine.score(ZERO_SHOT, LABELS)
    vllm_engine.reset_prefix_cache()
    again = in_order(list(vllm_engine.sample([PROMPT] * 4, sampling)))
    assert again == first
    assert len({c.text for c in first}) > 8, "draws of one prompt must differ"


def test_seeded_prompts_longer_than_one_step_do_not_end_the_engine(vllm_engine: Engine) -> None:
    """Prompts of one call that fill more than one step, each with a seed: none is prefilled in pieces."""
    long_prompts = [f"{number} " + "a long story about nothing in particular . " * 90 for number in range(4)]
    assert sum(vllm_engine.count_tokens(long_prompts)) > CPU_BATCHED_TOKENS
    assert len(list(vllm_engine.sample(long_prompts, Sampling(max_tokens=2, seed=3)))) == 4


def test_a_stop_string_ends_a_text_and_is_not_part_of_it(vllm_engine: Engine) -> None:
    for completion in vllm_engine.sample([PROMPT] * 8, Sampling(max_tokens=48, seed=5, stop=("\n",))):
        assert "\n" not in completion.text
        assert completion.finish_reason == "stop" or completion.num_tokens == 48


def test_scores_can_be_had_while_a_sample_runs(vllm_engine: Engine) -> None:
    running = vllm_engine.sample([PROMPT] * 6, Sampling(max_tokens=16, seed=2))
    first = next(running)
    assert vllm_engine.score(ZERO_SHOT, LABELS).shape == (6, 2)
    assert {first.prompt_index, *(c.prompt_index for c in running)} == set(range(6))


def test_a_sample_that_is_given_up_leaves_nothing_behind(vllm_engine: Engine) -> None:
    running = vllm_engine.sample([PROMPT] * 6, Sampling(max_tokens=200, seed=2))
    next(running)
    with pytest.raises(FourshotError, match="in use"):
        vllm_engine.reset_prefix_cache()
    running.close()
    vllm_engine.reset_prefix_cache()
    assert len(list(vllm_engine.sample([PROMPT], Sampling(max_tokens=2)))) == 1


def test_the_most_likely_token_and_its_log_probability_are_the_references(
    vllm_engine: Engine, reference_engine: Engine
) -> None:
    greedy = Sampling(temperature=0.0, max_tokens=1)
    completions = in_order(list(vllm_engine.sample(IN_CONTEXT, greedy)))
    references = in_order(list(reference_engine.sample(IN_CONTEXT, greedy)))
    for completion, reference in zip(completions, references, strict=True):
        assert abs(completion.cumulative_logprob - reference.cumulative_logprob) <= 0.25
    for prompt, completion, reference in zip(IN_CONTEXT, completions, references, strict=True):
        if completion.text != reference.text:  # then the reference is undecided between the two
            chosen, best = reference_engine.score([prompt], [completion.text.strip(), reference.text.strip()])[0]
            assert best - chosen <= 0.25


def test_the_reference_repeats_itself_under_a_seed_and_stops_at_stop_strings(reference_engine: Engine) -> None:
    sampling = Sampling(n=2, max_tokens=6, seed=9, stop=("\n",))
    first = in_order(list(reference_engine.sample([PROMPT, ZERO_SHOT[0]], sampling)))
    assert in_order(list(reference_engine.sample([ZERO_SHOT[1], PROMPT], Sampling(max_tokens=2, seed=1)))) != first
    assert in_order(list(reference_engine.sample([PROMPT, ZERO_SHOT[0]], sampling))) == first
    assert [(c.prompt_index, c.sample_index) for c in first] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all("\n" not in c.text for c in first)


@pytest.mark.parametrize("kind", ["vllm_engine", "reference_engine"])
def test_what_cannot_be_answered_is_refused_with_numbers(kind: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(kind)
    with pytest.raises(InputError, match=r"prompt 1 with 1\d\d\d tokens.*1024"):
        engine.score(["short", "word " * 1100], LABELS)
    with pytest.raises(InputError, match="max_model_len"):
        engine.sample(["short"], Sampling(max_tokens=1024))
    with pytest.raises(InputError, match="no tokens"):
        engine.score([""], LABELS)
    with pytest.raises(InputError, match="2 adapters for 1 prompts"):
        engine.score(["one"], LABELS, [None, None])
    with pytest.raises(AdapterError, match="nowhere"):
        engine.score(["one"], LABELS, Adapter(name="nowhere", path="/nowhere"))
    assert engine.score([], LABELS).shape == (0, 2)
    assert list(engine.sample([], Sampling())) == []
    assert engine.score(["still alive. Label:"], LABELS).shape == (1, 2)


def test_stats_count_what_was_done(vllm_engine: Engine) -> None:
    before = vllm_engine.stats()
    list(vllm_engine.sample(ZERO_SHOT[:2], Sampling(max_tokens=3, n=2, seed=1)))
    after = vllm_engine.stats()
    assert after.requests - before.requests == 4
    assert after.prompt_tokens - before.prompt_tokens == 2 * sum(vllm_engine.count_tokens(ZERO_SHOT[:2]))
    assert 4 <= after.output_tokens - before.output_tokens <= 12
    assert after.busy_s > before.busy_s


def test_a_sample_runs_from_when_it_is_asked_for(vllm_engine: Engine) -> None:
    """Whoever steps the engine: here it is `score`."""
    before = vllm_engine.stats()
    running = vllm_engine.sample([PROMPT] * 4, Sampling(max_tokens=1, seed=2))
    vllm_engine.score(ZERO_SHOT, LABELS)
    assert vllm_engine.stats().requests - before.requests == 4 + len(ZERO_SHOT)
    assert len(list(running)) == 4
    assert vllm_engine.stats().requests - before.requests == 4 + len(ZERO_SHOT)


@pytest.mark.parametrize("name", ["vllm_engine", "reference_engine"])
def test_a_bias_raises_and_lowers_a_word(name: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(name)

    def continuations(*bias: tuple[str, float]) -> list[str]:
        drawn = engine.sample([PROMPT, ZERO_SHOT[0]], Sampling(max_tokens=3, seed=4, bias=bias))
        return [completion.text for completion in in_order(list(drawn))]

    plain = continuations()
    assert continuations(("mountain", 200.0)) == [" mountain mountain mountain"] * 2
    word = plain[0].split()[0]
    assert continuations((word, -200.0))[0].split()[0] != word
    assert continuations(("floccinaucinihilipilification", 200.0)) == plain, "a word of several tokens stays as it is"
