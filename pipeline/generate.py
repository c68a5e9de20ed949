"""Drawing candidates: the model continues a list of one class's shots with another text.

The paper draws with two beams and keeps the better one. vLLM has no sampling with beams; two samples, of which the
likelier per token is kept, stand for it (``keep_likelier_of=2``): either way two tries are made, and the one that the
model finds likelier stays.
"""

import random
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from engine.core import Completion, Engine, Sampling
from pipeline.events import Event, OnEvent, ignore
from pipeline.filters import clean_text
from pipeline.nouns import Candidate, Example, Task
from pipeline.prompts import END_OF_TEXT, generation_prompt, prompt_hash
from pipeline.settings import RunSettings

TOKENS_OVER_LONGEST_SHOT = 1.5
FEWEST_MAX_TOKENS = 32
EVENTS_PER_ROUND = 20


def draw_round(
    engine: Engine,
    task: Task,
    shots: Sequence[Example],
    settings: RunSettings,
    round_number: int,
    open_labels: Sequence[str],
    on_event: OnEvent = ignore,
) -> list[Candidate]:
    """``draws_per_round`` candidates for each of ``open_labels``, class by class.

    Each prompt shows the class's shots in an order of its own. The same seed, round and class give the same prompts
    and the same random numbers, whatever ran before: so a round that was cut short is drawn again, not continued. The
    caller empties the prefix cache first.
    """
    prompts: list[str] = []
    drawn_for: list[tuple[str, tuple[int, ...]]] = []
    for label in task.labels:
        if label.name not in open_labels:
            continue
        own = [index for index, shot in enumerate(shots) if shot.label == label.name]
        orders = random.Random(f"{settings.seed}/{round_number}/{label.name}")
        for _ in range(settings.generate.draws_per_round):
            order = tuple(orders.sample(own, len(own)))
            prompts.append(
                generation_prompt(
                    task, label, [shots[index] for index in order], max_text_words=settings.max_text_words
                )
            )
            drawn_for.append((label.name, order))
    sampling = draw_sampling(
        engine, shots, settings, seed=random.Random(f"{settings.seed}/{round_number}").getrandbits(31)
    )
    message = f"{task.name}, sampling round {round_number + 1}"
    best = likeliest(_told(engine.sample(prompts, sampling), len(prompts) * sampling.n, message, on_event))
    return [
        Candidate(
            id=f"r{round_number:02d}-{index:06d}",
            text=clean_text(best[index].text),
            label=label_name,
            round=round_number,
            prompt_hash=prompt_hash(prompts[index]),
            shots=order,
            num_tokens=best[index].num_tokens,
            cumulative_logprob=best[index].cumulative_logprob,
            finish_reason=best[index].finish_reason,
        )
        for index, (label_name, order) in enumerate(drawn_for)
    ]


def draw_sampling(engine: Engine, shots: Sequence[Example], settings: RunSettings, seed: int) -> Sampling:
    """How texts are drawn: one line each, at most half as long again as the longest shot."""
    return msgspec.structs.replace(
        settings.sampling,
        n=settings.generate.keep_likelier_of,
        stop=(END_OF_TEXT,),
        max_tokens=settings.generate.max_tokens or _token_bound(engine, shots, settings),
        seed=seed,
    )


def likeliest(completions: Iterable[Completion]) -> dict[int, Completion]:
    """By prompt index, the completion that is taken of those drawn for it."""
    best: dict[int, Completion] = {}
    for completion in completions:
        rival = best.get(completion.prompt_index)
        if rival is None or _preference(completion) > _preference(rival):
            best[completion.prompt_index] = completion
    return best


def _told(completions: Iterable[Completion], total: int, message: str, on_event: OnEvent) -> Iterator[Completion]:
    for done, completion in enumerate(completions, start=1):
        if done % max(1, total // EVENTS_PER_ROUND) == 0 or done == total:
            on_event(Event(stage="generate", message=message, done=done, total=total, unit="draws"))
        yield completion


def _preference(completion: Completion) -> tuple[bool, float, int]:
    """Finished before cut off, then likelier per token; the index breaks ties the same way every time."""
    per_token = completion.cumulative_logprob / max(1, completion.num_tokens)
    return completion.finish_reason == "stop", per_token, -completion.sample_index


def _token_bound(engine: Engine, shots: Sequence[Example], settings: RunSettings) -> int:
    longest = max(engine.count_tokens([" ".join(shot.text.split()[: settings.max_text_words]) for shot in shots]))
    return max(FEWEST_MAX_TOKENS, round(TOKENS_OVER_LONGEST_SHOT * longest))
