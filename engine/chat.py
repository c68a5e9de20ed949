"""Chat templates as data: the text that a base model's template writes around messages, found by rendering it once.

A prompt can then be assembled without a tokenizer, in any process, and a card can contain all that its prompts need.
Importing this module loads neither torch nor transformers.
"""

import hashlib
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.errors import InputError
from fourshot.engine.tokens import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_TURNS = 3  # user turns in the rendered conversation, so that the text between turns appears twice
# Placeholder messages while a template is rendered; no template contains these words.
STAND_INS = {"user": "fourshotasks{}here", "assistant": "fourshotsays{}here"}
PLAIN_INSTEAD = "Use --prompt-style plain, or another model."


class ChatTurns(msgspec.Struct, frozen=True, kw_only=True):
    """The text around the messages of a conversation that begins with the user. No system message is passed.

    Rendered: ``begin`` user ``answer`` assistant ``next`` user ``open``; the model continues from there.
    """

    begin: str  # with the template's default system prompt, if any; without a begin token that the tokenizer adds
    answer: str
    next: str
    open: str
    marks: tuple[str, ...] = ()  # special tokens that end or begin a turn, and must not occur in a text
    template_hash: str  # twelve hex digits

    def inert(self, text: str) -> str:
        """Return ``text`` with every mark broken up by a space, so that the text cannot end its turn."""
        for mark in self.marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text


@cache
def turns_of(model_path: str, name: str) -> ChatTurns:
    """Return the turns of the checkpoint in a folder; loads its tokenizer. ``name`` is for errors. See `chat_turns`."""
    return chat_turns(load_tokenizer(model_path), name)


def chat_turns(tokenizer: "PreTrainedTokenizerBase", model: str = "") -> ChatTurns:
    """Return the turns of a tokenizer's chat template. ``model`` is the name used in errors.

    Raises InputError if there is no template, it cannot be rendered, or its turns differ from each other.
    """
    name = model or tokenizer.name_or_path or "this model"
    if not tokenizer.chat_template:
        raise InputError(
            f"The base model {name} has no chat template, so the prompt style 'chat' cannot be used. {PLAIN_INSTEAD}"
        )
    several, single = _rendered(tokenizer, NUM_TURNS, name), _rendered(tokenizer, 1, name)
    begin, *between, opened = several
    answers, nexts = between[::2], between[1::2]
    if single != [begin, opened] or len({*answers}) != 1 or len({*nexts}) != 1 or not begin + opened:
        raise _broken(name, "what it adds around a turn differs between turns")
    answer, following = answers[0], nexts[0]
    if _rendered(tokenizer, 1, name, asks=False) == single:  # the template does not open the assistant's turn
        opened = answer.rstrip(" ")
    specials = {token for token in tokenizer.all_special_tokens if len(token) > 1}
    ends = {token for token in (tokenizer.bos_token, tokenizer.eos_token) if token}
    around = begin + answer + following + opened
    return ChatTurns(
        begin=_without_begin_token(tokenizer, begin),
        answer=answer,
        next=following,
        open=opened,
        marks=tuple(sorted(token for token in specials if token in around or token in ends)),
        template_hash=template_hash(tokenizer),
    )


def template_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the first twelve hex digits of the SHA-256 of the template for conversations without tools."""
    return hashlib.sha256(str(tokenizer.get_chat_template()).encode()).hexdigest()[:12]


def _rendered(tokenizer: "PreTrainedTokenizerBase", turns: int, model: str, *, asks: bool = True) -> list[str]:
    """Return a template's text before, between and after the messages of ``turns`` turns, the last one unanswered."""
    messages = [
        {"role": role, "content": words.format(turn)} for turn in range(turns) for role, words in STAND_INS.items()
    ][:-1]
    try:
        # Disables the thinking of reasoning models; other templates ignore the argument.
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=asks, enable_thinking=False
        )
    except Exception as error:  # a template is a program and can raise anything
        raise _broken(model, f"it cannot be rendered: {error}") from error
    parts, rest = [], str(text)
    for message in messages:
        before, separator, rest = rest.partition(message["content"])
        if not separator:
            raise _broken(model, "it leaves out messages, or changes their order")
        parts.append(before)
    return [*parts, rest]


def _without_begin_token(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """Return ``text`` without the begin token if the tokenizer adds one, because two begin tokens change the prompt."""
    begin = tokenizer.bos_token
    if not begin or not text.startswith(begin):
        return text
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return text.removeprefix(begin) if ids[:1] == [tokenizer.bos_token_id] else text


def _broken(model: str, reason: str) -> InputError:
    return InputError(f"The chat template of {model} cannot be used: {reason}. {PLAIN_INSTEAD}")
