"""Drawing candidates: what a prompt shows, what is kept of two tries, and that a round can be drawn again."""

from collections import Counter

import msgspec

from fourshot.engine.core import Engine, EngineSettings
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.loop.rounds import draw_round
from fourshot.pipeline.synthesis.overuse import WordUse
from fourshot.pipeline.synthesis.settings import AnnotateSettings, GenerateSettings, RunSettings, VarietySettings
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task

TASK = load_task("support_tickets")
SHOTS = take_shots(TASK, k=4, seed=0)
TWO = TASK.label_names[:2]


def settings(**generate: int) -> RunSettings:
    return RunSettings(generate=GenerateSettings(**{"draws_per_round": 6, "max_tokens": 16, **generate}))  # type: ignore[arg-type]


def draw(engine: Engine, run_settings: RunSettings, number: int = 0) -> list[Candidate]:
    engine.reset_prefix_cache()
    return draw_round(engine, TASK, SHOTS, run_settings, number, TWO)


def test_a_round_draws_for_open_classes_from_their_own_shots_in_changing_order(narrow_engine: Engine) -> None:
    drawn = draw(narrow_engine, settings(), 3)
    assert Counter(candidate.label for candidate in drawn) == dict.fromkeys(TWO, 6)
    assert all({SHOTS[index].label for index in candidate.shots} == {candidate.label} for candidate in drawn)
    assert len({candidate.shots for candidate in drawn if candidate.label == TWO[0]}) > 1
    assert [candidate.id for candidate in drawn] == [f"r03-{number:06d}" for number in range(12)]
    assert all(0 < candidate.num_tokens <= 16 and "\n" not in candidate.text for candidate in drawn)


def test_the_same_round_again_is_the_same_and_the_next_one_is_not(narrow_engine: Engine) -> None:
    def texts(drawn: list[Candidate]) -> set[str]:
        """Those of several words: chance draws each of them once."""
        return {candidate.text for candidate in drawn if candidate.num_tokens > 4}

    first = draw(narrow_engine, settings())
    assert draw(narrow_engine, settings()) == first
    assert len(texts(first)) > 6
    for other in (
        draw(narrow_engine, settings(), number=1),
        draw(narrow_engine, msgspec.structs.replace(settings(), seed=1)),
    ):
        assert not texts(first) & texts(other)


def test_of_two_tries_the_likelier_is_kept(narrow_engine: Engine) -> None:
    def likelihood(drawn: list[Candidate]) -> float:
        return sum(candidate.cumulative_logprob / candidate.num_tokens for candidate in drawn) / len(drawn)

    once, twice = (draw(narrow_engine, settings(keep_likelier_of=tries, draws_per_round=16)) for tries in (1, 2))
    assert len(once) == len(twice) == 32
    assert likelihood(twice) > likelihood(once)


def test_shots_can_keep_one_order_or_be_drawn_anew() -> None:
    engine = FakeEngine(EngineSettings(model="fake"))

    def shown(**variety: object) -> set[tuple[int, ...]]:
        run_settings = msgspec.structs.replace(settings(draws_per_round=40), variety=VarietySettings(**variety))  # type: ignore[arg-type]
        return {candidate.shots for candidate in draw_round(engine, TASK, SHOTS, run_settings, 0, TWO[:1])}

    class_shots = tuple(index for index, shot in enumerate(SHOTS) if shot.label == TWO[0])
    assert shown(order="fixed") == {class_shots}
    assert {tuple(sorted(order)) for order in shown()} == {class_shots} and len(shown()) > 10
    pairs = shown(shots_shown=2)
    assert {len(order) for order in pairs} == {2} and len(pairs) == 12
    assert len(shown(shots_shown=2, order="fixed")) == 6
    assert shown(shots_shown=9) == shown()


def test_words_that_earlier_rounds_over_used_are_pushed_down(vllm_engine: Engine) -> None:
    def with_word(kept: list[str]) -> int:
        strong = msgspec.structs.replace(
            settings(draws_per_round=16, max_tokens=24), variety=VarietySettings(suppress=20.0)
        )
        vllm_engine.reset_prefix_cache()
        use = WordUse(TASK, SHOTS, TWO[0], strength=20.0)
        use.add(kept)
        drawn = draw_round(vllm_engine, TASK, SHOTS, strong, 1, TWO[:1], biases=lambda label: use.biases())
        return sum(" I " in f" {candidate.text} " for candidate in drawn)

    assert with_word([]) > with_word(["I"] * 40)


def test_half_of_the_prompts_of_a_run_that_learns_all_texts_ask_for_no_class() -> None:
    engine = FakeEngine(EngineSettings(model="fake"))
    soft = msgspec.structs.replace(settings(draws_per_round=60), annotate=AnnotateSettings(targets="soft"))
    drawn = draw_round(engine, TASK, SHOTS, soft, 0, TWO)
    mixed = [candidate for candidate in drawn if candidate.mixed]
    assert 0.3 < len(mixed) / len(drawn) < 0.7
    assert len({candidate.prompt_hash for candidate in mixed}) <= 16, "few enough for the engine to have them cached"
    assert any(len({SHOTS[index].label for index in candidate.shots}) > 2 for candidate in mixed)
    assert all(
        {SHOTS[index].label for index in candidate.shots} == {candidate.label}
        for candidate in drawn
        if not candidate.mixed
    )
    assert not any(
        candidate.mixed for candidate in draw_round(engine, TASK, SHOTS, settings(draws_per_round=20), 0, TWO)
    )
