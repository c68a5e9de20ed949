"""What an endpoint answered, and what that says of a text: the probability of each label, and of anything else."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

LEAST = 1e-4  # probability on the labels below which an answer names none of them
LEADING_CHARS = " \t\r\n*_`\"'\u2018\u2019\u201c\u201d\u00ab\u00bb[(<#:-"  # what may stand before a label
WORD = re.compile(r"[^\W\d_]['\u2019]|[AEIOUYKSVWZ]\s+(?-i:[^\W\d_A-Z])", re.IGNORECASE)  # "A bill came", "C'est"
THOUGHT = re.compile(r"^.*?</think>", re.DOTALL)  # what models say aloud before they answer


class TokenStep(msgspec.Struct, frozen=True, array_like=True):
    """One token of an answer."""

    token: str  # that was said
    likely: dict[str, float]  # log-probability of the likeliest tokens, in nats


class CompletionResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to one request, as far as it is used."""

    texts: tuple[str, ...]  # one for each sample
    steps: tuple[TokenStep, ...] = ()  # of the first, where the endpoint tells
    prompt_tokens: int = 0
    output_tokens: int = 0
    is_cut: bool = False  # it had no room to end


MOST_TOKENS = 1 << 40  # of one answer, by what an endpoint says; more than any reads


class StrangeAnswerError(ValueError):
    """It is none of a completion."""


class FailedAnswerError(StrangeAnswerError):
    """It says that there is none, with a status of success: the message is the endpoint's own."""


class _Token(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list["_Token"] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None  # of chat
    tokens: list[str] | None = None  # of completions
    top_logprobs: list[dict[str, float] | None] | None = None


class _Part(msgspec.Struct):
    text: str | None = None  # none in parts of another kind, such as what was thought


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
    error: msgspec.Raw = msgspec.Raw(b"null")  # of endpoints that answer 200 whatever happened


def read_completion(content: bytes, sent_chars: int) -> CompletionResponse:
    """The body of an answer to a request of ``sent_chars`` characters. Raises StrangeAnswerError.

    An endpoint that does not count tokens is taken to have four characters in each: a limit on what is spent must hold.
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
    """Tokens as the endpoint counts them, where that can be; else a quarter of the characters."""
    return math.ceil(reported if reported and 0 < reported <= MOST_TOKENS else chars / 4)


def _failure(error: msgspec.Raw) -> str:
    """What an endpoint says that went wrong; "" where it says nothing of it."""
    try:
        detail = msgspec.json.decode(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        detail = "something that cannot be read"
    message = detail.get("message") if isinstance(detail, dict) else detail
    return " ".join(str(message or detail or "").split())


def _steps(content: msgspec.Raw) -> tuple[TokenStep, ...]:
    """Empty where no probabilities are told, or in a form of the endpoint's own: the answer itself is still good."""
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
    """What an answer says of a text."""

    masses: list[float]  # [num_labels]: probability of each label; what they lack of one is on no label
    agreement: float | None = None  # of votes: the share for the likeliest label, of those that name one

    @property
    def outside(self) -> float:
        return max(0.0, 1 - sum(self.masses))


def bare(text: str) -> str:
    """As labels and answers are compared: without case, and without what may stand before."""
    return text.lstrip(LEADING_CHARS).casefold()


def read_labels(completion: CompletionResponse, words: Sequence[str]) -> LabelAnswer:
    """Of an answer that is to be one of ``words``: from its tokens' probabilities where told, else from what it says.

    ``words`` must differ where they are `bare`.
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
    """Along the tokens that were said, the probability of every label that a likely token tells apart from the others.

    Tokens that several labels begin with are followed where they were said; elsewhere their probability is shared.
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
    """Places of the label that ``text`` begins with, none or the longest one, and of those that it may become."""
    ended = [place for place, name in enumerate(names) if text.startswith(name) and not text[len(name) :][:1].isalnum()]
    possible = [place for place, name in enumerate(names) if name.startswith(text) and name != text]
    return sorted(ended, key=lambda place: -len(names[place]))[:1], possible


def _named(text: str, words: Sequence[str]) -> int | None:
    """The place of the one label that a whole answer names: as its beginning, else anywhere; None: none or several.

    One of a letter counts as it is written, and not where a sentence begins with it that names no other.
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
