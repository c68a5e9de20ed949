"""Drawing candidates: the model continues a list of one class's shots with another text.

The paper draws with two beams and keeps the better one. vLLM has no sampling with beams; two samples, of which the
likelier per token is kept, stand for it (``keep_likelier_of=2``): either way two tries are made, and the one that the
model finds likelier stays.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from fourshot.engine.core import Completion, Engine, Sampling
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.synthesis.attributes import Attributes
from fourshot.pipeline.synthesis.filters import clean_text
from fourshot.pipeline.synthesis.overuse import WordUse
from fourshot.pipeline.synthesis.prompts import END_OF_TEXT, generation_prompt, prompt_hash
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.tasks.types import Example, Label, Task

TOKENS_OVER_LONGEST_SHOT = 1.5
FEWEST_MAX_TOKENS = 32
EVENTS_PER_ROUND = 20
MOST_PROMPTS = 4096  # kept per class; with many shots every draw has an order of its own


def draw_round(
    engine: Engine,
    task: Task,
    shots: Sequence[Example],
    settings: RunSettings,
    round_number: int,
    open_labels: Sequence[str],
    on_event: OnEvent = ignore,
    *,
    attributes: Mapping[str, Attributes] | None = None,
    kept: Mapping[str, Sequence[str]] | None = None,
) -> list[Candidate]:
    """``draws_per_round`` candidates for each of ``open_labels``, class by class.

    The same seed, round and class give the same prompts and the same random numbers, whatever ran before: so a round
    that was cut short is drawn again, not continued. The caller empties the prefix cache first. ``attributes`` and
    ``kept``, the texts of earlier rounds, by class: for the settings of `VarietySettings` that need them.
    """
    asked: list[Asked] = []
    groups: list[tuple[int, int, Sampling]] = []  # first, last + 1: requests that are sampled alike
    sampling = draw_sampling(
        engine, shots, settings, seed=random.Random(f"{settings.seed}/{round_number}").getrandbits(31)
    )
    for label in task.labels:
        if label.name not in open_labels:
            continue
        numbers = random.Random(f"{settings.seed}/{round_number}/{label.name}")
        first = len(asked)
        asker = Asker(task, label, shots, settings, (attributes or {}).get(label.name))
        asked += [asker.ask(numbers) for _ in range(settings.generate.draws_per_round)]
        if settings.variety.suppress:
            use = WordUse(shots, label.name, settings.variety.suppress)
            use.add((kept or {}).get(label.name, ()))
            bias = (*sampling.bias, *use.biases())
            own = msgspec.structs.replace(sampling, seed=numbers.getrandbits(31), bias=bias)
            groups.append((first, len(asked), own))
    completions = _sampled(engine, [one.prompt for one in asked], groups or [(0, len(asked), sampling)])
    message = f"{task.name}, sampling round {round_number + 1}"
    best = likeliest(_told(completions, len(asked) * sampling.n, message, on_event))
    return [
        Candidate(
            id=f"r{round_number:02d}-{index:06d}",
            text=clean_text(best[index].text),
            label=one.label,
            round=round_number,
            prompt_hash=one.prompt_hash,
            shots=one.shots,
            num_tokens=best[index].num_tokens,
            cumulative_logprob=best[index].cumulative_logprob,
            finish_reason=best[index].finish_reason,
            attributes=one.attributes,
        )
        for index, one in enumerate(asked)
    ]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What one draw asks for."""

    label: str
    shots: tuple[int, ...]  # that the prompt shows, in its order
    attributes: dict[str, str]
    prompt: str
    prompt_hash: str


class Asker:
    """Makes the prompts of one class."""

    def __init__(
        self,
        task: Task,
        label: Label,
        shots: Sequence[Example],
        settings: RunSettings,
        attributes: Attributes | None = None,
    ) -> None:
        self._task, self._label, self._shots, self._settings = task, label, shots, settings
        self._attributes = attributes
        self._own = [index for index, shot in enumerate(shots) if shot.label == label.name]
        self._made: dict[tuple[object, ...], Asked] = {}  # few shots have few orders

    def ask(self, numbers: random.Random) -> Asked:
        """The next prompt; shots, their order and attributes follow from ``numbers``."""
        variety = self._settings.variety
        count = min(variety.shots_shown or len(self._own), len(self._own))
        order = tuple(numbers.sample(self._own, count))
        if variety.order == "fixed":
            order = tuple(sorted(order))
        wanted = self._attributes.draw(numbers) if self._attributes else {}
        key = (order, *wanted.items())
        if key not in self._made:
            if len(self._made) >= MOST_PROMPTS:
                self._made.clear()
            self._made[key] = self._render(order, wanted)
        return self._made[key]

    def _render(self, order: tuple[int, ...], wanted: dict[str, str]) -> Asked:
        prompt = generation_prompt(
            self._task,
            self._label,
            [self._shots[index] for index in order],
            max_text_words=self._settings.max_text_words,
            of_shots=[self._attributes.of_shots[index] for index in order] if self._attributes else (),
            wanted=wanted,
        )
        return Asked(
            label=self._label.name, shots=order, attributes=wanted, prompt=prompt, prompt_hash=prompt_hash(prompt)
        )


def _sampled(
    engine: Engine, prompts: Sequence[str], groups: Sequence[tuple[int, int, Sampling]]
) -> Iterator[Completion]:
    """The completions of all groups, numbered through; the engine has them all from the start."""
    running = [(first, engine.sample(prompts[first:end], sampling)) for first, end, sampling in groups]
    for first, completions in running:
        for completion in completions:
            yield msgspec.structs.replace(completion, prompt_index=first + completion.prompt_index)


def draw_sampling(engine: Engine, shots: Sequence[Example], settings: RunSettings, seed: int) -> Sampling:
    """How texts are drawn: one line each, at most half as long again as the longest shot."""
    return Sampling(
        **msgspec.structs.asdict(settings.sampling),
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
