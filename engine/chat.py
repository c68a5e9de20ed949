"""Chat templates as data: what a base model's template writes around what is said, found once by rendering it.

A prompt is then put together without a tokenizer, in any process, and a card can carry all that its prompts need.
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

NUM_TURNS = 3  # of the conversation that is rendered: what stands between turns is seen twice
# What stands for messages while a template is rendered; no template has these words.
STAND_INS = {"user": "fourshotasks{}here", "assistant": "fourshotsays{}here"}
PLAIN_INSTEAD = "Use --prompt-style plain, or another model."


class ChatTurns(msgspec.Struct, frozen=True, kw_only=True):
    """What stands around the messages of a conversation that begins with the user. No system message is given.

    Rendered: ``begin`` user ``answer`` assistant ``next`` user ``open``, and the model goes on.
    """

    begin: str  # with the template's own system prompt, where it has one; without a begin token that encoding adds
    answer: str
    next: str
    open: str
    marks: tuple[str, ...] = ()  # special tokens that end a turn or begin one: no text may bring them along
    template_hash: str  # twelve hex digits

    def inert(self, text: str) -> str:
        """``text`` with every mark broken by a blank, so that it stays inside its turn."""
        for mark in self.marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text


@cache
def turns_of(model_path: str, name: str) -> ChatTurns:
    """Of the checkpoint in a folder; ``name`` is what an error calls it. Loads its tokenizer. See `chat_turns`."""
    return chat_turns(load_tokenizer(model_path), name)


def chat_turns(tokenizer: "PreTrainedTokenizerBase", model: str = "") -> ChatTurns:
    """The turns of a tokenizer's chat template. ``model`` is what an error calls it.

    Raises InputError where there is no template, or none that puts users' and assistants' turns one after another.
    """
    name = model or tokenizer.name_or_path or "this model"
    if not tokenizer.chat_template:
        raise InputError(
            f"The base model {name} has no chat template, so nothing can be asked in the style 'chat'. {PLAIN_INSTEAD}"
        )
    several, single = _rendered(tokenizer, NUM_TURNS, name), _rendered(tokenizer, 1, name)
    begin, *between, opened = several
    answers, nexts = between[::2], between[1::2]
    if single != [begin, opened] or len({*answers}) != 1 or len({*nexts}) != 1 or not begin + opened:
        raise _broken(name, "what it writes around one turn differs from what it writes around another")
    answer, following = answers[0], nexts[0]
    if _rendered(tokenizer, 1, name, asks=False) == single:  # it knows no assistant's turn that is still open
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
    """Of the template that renders conversations without tools."""
    return hashlib.sha256(str(tokenizer.get_chat_template()).encode()).hexdigest()[:12]


def _rendered(tokenizer: "PreTrainedTokenizerBase", turns: int, model: str, *, asks: bool = True) -> list[str]:
    """What a template writes before, between and after the messages of so many turns, the last one unanswered."""
    messages = [
        {"role": role, "content": words.format(turn)} for turn in range(turns) for role, words in STAND_INS.items()
    ][:-1]
    try:
        # A model that thinks first is to answer at once; other templates do not look at it.
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=asks, enable_thinking=False
        )
    except Exception as error:  # of any kind: a template is a program
        raise _broken(model, f"it cannot be rendered: {error}") from error
    parts, rest = [], str(text)
    for message in messages:
        before, separator, rest = rest.partition(message["content"])
        if not separator:
            raise _broken(model, "it leaves out what is said, or puts it in another order")
        parts.append(before)
    return [*parts, rest]


def _without_begin_token(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """``text`` without the begin token that encoding puts before every text: twice, it is another prompt."""
    begin = tokenizer.bos_token
    if not begin or not text.startswith(begin):
        return text
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return text.removeprefix(begin) if ids[:1] == [tokenizer.bos_token_id] else text


def _broken(model: str, reason: str) -> InputError:
    return InputError(f"The chat template of {model} cannot be used: {reason}. {PLAIN_INSTEAD}")
