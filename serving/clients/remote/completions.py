"""Parsing of an endpoint's answer, and what it says about a text: the probability of each label, and of the rest."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

LEAST = 1e-4  # total probability of the labels, below which an answer names none of them
LEADING_CHARS = " \t\r\n*_`\"'\u2018\u2019\u201c\u201d\u00ab\u00bb[(<#:-"  # may precede a label
WORD = re.compile(r"[^\W\d_]['\u2019]|[AEIOUYKSVWZ]\s+(?-i:[^\W\d_A-Z])", re.IGNORECASE)  # "A bill came", "C'est"
THOUGHT = re.compile(r"^(?:.*?</think>|\s*<think>.*)", re.DOTALL)  # reasoning before an answer, which may not come


class TokenStep(msgspec.Struct, frozen=True, array_like=True):
    """One token of an answer."""

    token: str  # that was generated
    likely: dict[str, float]  # log-probabilities of the most likely tokens, in nats


class CompletionResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The response to one request, as far as it is used."""

    texts: tuple[str, ...]  # one for each sample
    steps: tuple[TokenStep, ...] = ()  # of the first, if the endpoint returns probabilities
    prompt_tokens: int = 0
    output_tokens: int = 0
    is_cut: bool = False  # it reached the maximum number of tokens


MOST_TOKENS = 1 << 40  # of one answer, as reported; no model takes more, so a larger number is wrong


class StrangeAnswerError(ValueError):
    """A response that is no completion."""


class FailedAnswerError(StrangeAnswerError):
    """A failure reported with a status of success: the message is the endpoint's own."""


class _Token(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list["_Token"] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None  # of chat
    tokens: list[str] | None = None  # of completions
    top_logprobs: list[dict[str, float] | None] | None = None


class _Part(msgspec.Struct):
    text: str | None = None  # None in parts of another kind, such as reasoning


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None  # some endpoints answer in parts

    @property
    def text(self) -> str:
        parts = self.content if isinstance(self.content, list) else ()
        return self.content if isinstance(self.content, str) else "".join(part.text or "" for part in parts)


class _Choice(msgspec.Struct):
    message: _Message | None = None  # of chat
    text: str | None = None  # of completions
    logprobs: msgspec.Raw = msgspec.Raw(b"null")
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: float | None = None
    completion_tokens: float | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")  # of endpoints that respond with 200 to everything


def read_completion(content: bytes, sent_chars: int) -> CompletionResponse:
    """Parse the response to a request of ``sent_chars`` characters. Raises StrangeAnswerError.

    If an endpoint does not count tokens, four characters are assumed in each: a limit on the cost must hold.
    """
    try:
        body = msgspec.json.decode(content, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StrangeAnswerError(str(error)) from None
    if not body.choices or all(choice.message is None and choice.text is None for choice in body.choices):
        if message := _failure(body.error):
            raise FailedAnswerError(message)
        raise StrangeAnswerError("it has no `choices` with a message or a text")
    texts = tuple((choice.message.text if choice.message else choice.text) or "" for choice in body.choices)
    usage = body.usage or _Usage()
    return CompletionResponse(
        texts=texts,
        steps=_steps(body.choices[0].logprobs),
        prompt_tokens=_counted(usage.prompt_tokens, sent_chars),
        output_tokens=_counted(usage.completion_tokens, sum(map(len, texts))),
        is_cut=any(choice.finish_reason == "length" for choice in body.choices),
    )


def _counted(reported: float | None, chars: int) -> int:
    """Return the tokens that the endpoint reports, if plausible; else a quarter of ``chars``."""
    return math.ceil(reported if reported and 0 < reported <= MOST_TOKENS else chars / 4)


def _failure(error: msgspec.Raw) -> str:
    """Return the message of an endpoint's error; "" if there is none."""
    try:
        detail = msgspec.json.decode(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        detail = "something that cannot be read"
    message = detail.get("message") if isinstance(detail, dict) else detail
    return " ".join(str(message or detail or "").split())


def _steps(content: msgspec.Raw) -> tuple[TokenStep, ...]:
    """Return tokens with probabilities; () without any, or in an unknown format: the answer itself is still usable."""
    try:
        logprobs = msgspec.json.decode(content, type=_Logprobs | None)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()
    if logprobs is None:
        return ()
    if logprobs.content is not None:
        return tuple(
            TokenStep(step.token, {likely.token: likely.logprob for likely in (step, *(step.top_logprobs or ()))})
            for step in logprobs.content
        )
    pairs = zip(logprobs.tokens or (), logprobs.top_logprobs or (), strict=False)
    return tuple(TokenStep(token, likely or {}) for token, likely in pairs)


class LabelAnswer(NamedTuple):
    """What an answer says about a text."""

    masses: list[float]  # [num_labels]: probability of each label; the rest to one is on no label
    agreement: float | None = None  # of votes: share of the most likely label among those that name one

    @property
    def outside(self) -> float:
        return max(0.0, 1 - sum(self.masses))


def bare(text: str) -> str:
    """Return ``text`` as labels and answers are compared: without case, and without what may precede a label."""
    return text.lstrip(LEADING_CHARS).casefold()


def read_labels(completion: CompletionResponse, words: Sequence[str]) -> LabelAnswer:
    """Return the probabilities of ``words``, one of which is the expected answer: by its tokens, or else by its text.

    The tokens' probabilities are used if the endpoint returned them. ``words`` must still differ when `bare`.
    """
    names = [bare(word) for word in words]
    texts = [THOUGHT.sub("", text).lstrip(LEADING_CHARS).strip() for text in completion.texts]
    votes = [_named(text, words) for text in texts]
    if completion.steps and (votes[0] is None or bare(completion.texts[0]).startswith(names[votes[0]])):
        return LabelAnswer(_walked(completion.steps, names))
    counts = [float(votes.count(place)) for place in range(len(names))]
    agreement = max(counts) / sum(counts) if any(counts) and len(votes) > 1 else None
    return LabelAnswer([count / len(votes) for count in counts], agreement)


def _walked(steps: Sequence[TokenStep], names: Sequence[str]) -> list[float]:
    """Follow the generated tokens, and return the probability of every label, from the likely tokens that identify it.

    A token with which several labels begin is followed if it was generated; else its probability is shared by them.
    """
    masses = [0.0] * len(names)
    reached, prefix = 1.0, ""
    for number, step in enumerate(steps):
        followed = 0.0
        for token, logprob in step.likely.items():
            probability, text = reached * math.exp(min(logprob, 0.0)), bare(prefix + token)
            ended, possible = _matches(text, names) if text else ([], [])
            is_open = len(ended) + len(possible) > 1 or not text
            if is_open and token == step.token and number + 1 < len(steps):
                followed = probability
                continue
            for place in ended or possible:
                masses[place] += probability / len(ended or possible)
        if not followed:
            break
        reached, prefix = followed, prefix + step.token
    return masses


def _matches(text: str, names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the index of the longest label that ``text`` begins with, if any, and those of labels it may become."""
    ended = [place for place, name in enumerate(names) if text.startswith(name) and not text[len(name) :][:1].isalnum()]
    possible = [place for place, name in enumerate(names) if name.startswith(text) and name != text]
    return sorted(ended, key=lambda place: -len(names[place]))[:1], possible


def _named(text: str, words: Sequence[str]) -> int | None:
    """Return the index of the one label that a complete answer names, first or else anywhere; None: none or several.

    A label of one letter is searched for as it is written. It does not count as the first word of a sentence.
    """
    names = [bare(word) for word in words]
    ended, _ = _matches(text.casefold(), names)
    if ended and not (len(names[ended[0]]) == 1 and WORD.match(text)):
        return ended[0]
    searched = [
        (word.lstrip(LEADING_CHARS), text) if len(name) == 1 else (name, text.casefold())
        for word, name in zip(words, names, strict=True)
    ]
    mentioned = [
        place for place, (name, within) in enumerate(searched) if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", within)
    ]
    longest = [
        place for place in mentioned if not any(names[place] in names[other] for other in mentioned if other != place)
    ]
    return longest[0] if len(longest) == 1 and longest != ended else None
