"""Generation of candidates: the model continues a list of one class's shots with another text.

The paper samples with two beams and keeps the better one, which vLLM does not support. The substitute
(``keep_likelier_of=2``) is two samples, of which the likelier per token is kept. Either way, two attempts are made, and
the one that the model finds more likely is kept.
"""

import random
from collections.abc import Callable, Iterable, Sequence

import msgspec

from fourshot.engine.chat import ChatTurns
from fourshot.engine.core import Completion, Engine, Sampling
from fourshot.pipeline.synthesis.attributes import Attributes
from fourshot.pipeline.synthesis.prompts import (
    END_OF_FIELDS,
    END_OF_TEXT,
    PromptFormat,
    generation_prompt,
    mixed_prompt,
    prompt_hash,
)
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Label, Task

TOKENS_OVER_LONGEST_SHOT = 1.5
FEWEST_MAX_TOKENS = 32
MIXED_PROMPTS = 16  # different prompts that request no class
MIXED_SHOTS = 8  # that each of them shows
MOST_PROMPTS = 256  # cached per class of each task; with many shots, every draw has a different order


class DrawPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt of one draw, with what it shows and requests."""

    label: str
    shots: tuple[int, ...]  # those that the prompt shows, as indices, in its order
    attributes: dict[str, str]
    prompt: str
    prompt_hash: str
    mixed: bool = False  # it requests no class


class PromptSource:
    """The prompts of one class."""

    def __init__(
        self,
        task: Task,
        label: Label,
        shots: Sequence[Example],
        settings: RunSettings,
        attributes: Attributes | None = None,
        chat: ChatTurns | None = None,
        fits: Callable[[str], bool] = lambda prompt: True,
    ) -> None:
        """``fits``: whether a prompt leaves room for an answer; if not, it shows fewer shots, but at least one."""
        self._task, self._label, self._shots, self._settings = task, label, shots, settings
        self._attributes, self._chat, self._fits = attributes, chat, fits
        self._class_shots = [index for index, shot in enumerate(shots) if shot.label == label.name]
        self._rendered: dict[tuple[object, ...], DrawPrompt] = {}  # cache: few shots have few orders
        self._shots_that_fitted = 0  # in the last prompt without room for all; 0: there was no such prompt

    def draw(self, numbers: random.Random) -> DrawPrompt:
        """Return the next prompt; ``numbers`` determines its shots, their order and the attributes."""
        variety, mixed = self._settings.variety, self._settings.mixed_share
        if mixed and numbers.random() < mixed:
            return self._mixed(numbers.randrange(MIXED_PROMPTS))
        count = min(variety.shots_shown or len(self._class_shots), len(self._class_shots))
        order = tuple(numbers.sample(self._class_shots, count))
        if variety.order == "fixed":
            order = tuple(sorted(order))
        attributes = self._attributes.draw(numbers) if self._attributes else {}
        key = (order, *attributes.items())
        if key not in self._rendered:
            if len(self._rendered) >= MOST_PROMPTS:
                self._rendered.clear()
            self._rendered[key] = self._fitting(order, attributes, self._class_prompt)
        return self._rendered[key]

    def _mixed(self, number: int) -> DrawPrompt:
        """Return one of a few prompts that are the same for all classes, so that the engine has them cached."""
        key = ("mixed", number)
        if key not in self._rendered:
            few = min(MIXED_SHOTS, len(self._shots))
            order = tuple(random.Random(f"{self._settings.seed}/mixed/{number}").sample(range(len(self._shots)), few))
            self._rendered[key] = self._fitting(order, {}, self._mixed_prompt, mixed=True)
        return self._rendered[key]

    def _mixed_prompt(self, order: tuple[int, ...], attributes: dict[str, str]) -> str:
        shown, words = [self._shots[index] for index in order], self._settings.max_text_words
        return mixed_prompt(self._task, shown, max_text_words=words, chat=self._chat)

    def _class_prompt(self, order: tuple[int, ...], attributes: dict[str, str]) -> str:
        return generation_prompt(
            self._task,
            self._label,
            [self._shots[index] for index in order],
            max_text_words=self._settings.max_text_words,
            of_shots=[self._attributes.of_shots[index] for index in order] if self._attributes else (),
            wanted_attributes=attributes,
            chat=self._chat,
        )

    def _fitting(
        self,
        order: tuple[int, ...],
        attributes: dict[str, str],
        render: Callable[[tuple[int, ...], dict[str, str]], str],
        mixed: bool = False,
    ) -> DrawPrompt:
        """Return the prompt with the first shots of ``order``, as many as fit.

        Counting the tokens of many shots is slow, so their number is found by bisection, from the last one that fitted.
        """
        last = self._shots_that_fitted
        fitting, too_many = 1, len(order) + 1
        count, step = (max(2, min(last, len(order))), 1) if last else (len(order), len(order))
        while too_many - fitting > 1:
            if self._fits(render(order[:count], attributes)):
                fitting, count = count, count + step
            else:
                too_many, count = count, count - step
            if not fitting < count < too_many:
                count = (fitting + too_many) // 2
            step *= 2
        if fitting < len(order):
            self._shots_that_fitted = fitting
        order = order[:fitting]
        prompt = render(order, attributes)
        return DrawPrompt(
            label=self._label.name,
            shots=order,
            attributes=attributes,
            prompt=prompt,
            prompt_hash=prompt_hash(prompt),
            mixed=mixed,
        )


def draw_sampling(
    engine: Engine,
    task: Task,
    shots: Sequence[Example],
    settings: RunSettings,
    seed: int,
    seed_offset: int = 0,
    bias: tuple[tuple[str, float], ...] = (),
) -> Sampling:
    """Return the sampling parameters of texts of one line, or one line per field, with at most `most_tokens` tokens."""
    drawn_from = msgspec.structs.replace(settings.sampling, bias=(*settings.sampling.bias, *bias))
    return Sampling(
        **msgspec.structs.asdict(drawn_from),
        n=settings.generate.keep_likelier_of,
        stop=END_OF_FIELDS if task.input_fields else (END_OF_TEXT,),
        max_tokens=most_tokens(task, shots, settings, engine.count_tokens),
        seed=seed,
        seed_offset=seed_offset,
    )


def most_tokens(
    task: Task, shots: Sequence[Example], settings: RunSettings, count: Callable[[list[str]], Sequence[int]]
) -> int:
    """Return the most tokens of a generated text: ``generate.max_tokens``, or 1.5 times the longest shot, at least 32.

    ``count`` returns the number of tokens of each of some texts.
    """
    if settings.generate.max_tokens:
        return settings.generate.max_tokens
    form = PromptFormat(max_text_words=settings.max_text_words)
    longest = max(count([form.shown_input(task, shot.text, name="") for shot in shots]))
    return max(FEWEST_MAX_TOKENS, round(TOKENS_OVER_LONGEST_SHOT * longest))


def likeliest(completions: Iterable[Completion]) -> dict[int, Completion]:
    """Return by prompt index the completion that becomes the candidate: complete, then likeliest per token."""
    best: dict[int, Completion] = {}
    for completion in completions:
        rival = best.get(completion.prompt_index)
        if rival is None or _preference(completion) > _preference(rival):
            best[completion.prompt_index] = completion
    return best


def _preference(completion: Completion) -> tuple[bool, float, int]:
    """Sort key: finished before truncated, then likelihood per token; the index makes ties deterministic."""
    per_token = completion.cumulative_logprob / max(1, completion.num_tokens)
    return completion.finish_reason == "stop", per_token, -completion.sample_index
