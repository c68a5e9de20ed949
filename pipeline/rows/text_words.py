"""Count words in any script, cut texts to the words that a prompt shows, and report how much is left out.

Words are separated by spaces. In scripts without spaces, two characters count as a word. With the tokenizer of Qwen2.5,
a character had 0.61 tokens in a Japanese text, 0.65 in a Chinese one and 0.84 in a Thai one. So such a word has at most
two tokens, like words of European texts (`pipeline.synthesis.aligned.TOKENS_PER_WORD`).

Importing this module loads no heavy library.
"""

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from fourshot.engine.errors import InputError

# What is left out of a text above the limit: its end, or its middle; windows: nothing, the text is split into parts.
LongTexts = Literal["cut", "middle", "windows"]

MAX_TEXT_WORDS = 300  # words of a text that a prompt shows
CHARS_PER_WORD = 2  # in scripts without spaces
LONGEST_WORD = 100  # characters without spaces; more are not a word in any script
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1}}}")
# Share of the shown words that are the beginning of a long text, if its middle is left out.
# Source: Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.3.1: 128 tokens of 510.
HEAD_SHARE = 0.25
GAP = "…"  # in place of the middle
OVERLAP = 0.25  # share of a window's words that the previous window has too

# Letters of scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Tai, Balinese, Javanese,
# kana, bopomofo, Chinese characters. Source: Unicode line breaking (UAX 14), classes SA, ID and CJ, without emoji.
_LETTERS = (
    "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9df\ua9e0-\ua9ff"
    "\uaa60-\uaadf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_SIGNS = "\u3001-\u303f\uff01-\uff65"  # full-width signs used with these letters
MARK = r"[[\p{Mn}\p{Mc}]--[\ufe00-\ufe0f]]"  # without variation selectors, such as those of emoji
UNSPACED = re.compile(f"[{_LETTERS}]")
# One character. For a flag, a pair of letters, \X examines all flags before it. So it only matches the last of a run.
_FLAG_LETTER = "[\U0001f1e6-\U0001f1ff]"
_CHARACTER = rf"(?:{_FLAG_LETTER}{{2}}(?={_FLAG_LETTER})|\X)"


def check_unicode(texts: Iterable[str]) -> None:
    """Raise InputError if a text has a lone surrogate, such as Python substitutes for bytes that are not UTF-8."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"a text is not valid Unicode: {error}. Decode it as UTF-8 first.") from None


def has_unspaced(text: str) -> bool:
    """Return whether any part of the text is in a script without spaces between words."""
    return not text.isascii() and UNSPACED.search(text) is not None


@lru_cache(maxsize=1)
def marks() -> "re.Pattern[str]":
    """Return the pattern of a combining mark."""
    import regex

    pattern: re.Pattern[str] = regex.compile(MARK, regex.V1)
    return pattern


def without_marks(text: str) -> str:
    """Return ``text`` without the combining marks above, below and around its letters."""
    return text if text.isascii() else marks().sub("", text)


def characters(text: str) -> list[str]:
    """Split a text into characters as people see them: a letter with its marks, an emoji with all its joined parts."""
    import regex

    return regex.findall(_CHARACTER, text)


def script_runs(text: str, most: int | None = None) -> list[str]:
    """Split ``text`` into runs of scripts without spaces and runs of other characters, never within a character.

    A run without spaces has at most ``most`` characters; None: no limit.
    """
    return _runs("" if most is None else str(most)).findall(text)


@lru_cache
def _runs(most: str) -> "re.Pattern[str]":
    import regex

    wide = f"[{_LETTERS}{_SIGNS}]"
    pattern: re.Pattern[str] = regex.compile(rf"(?:(?={wide})\X){{1,{most}}}|(?:(?!{wide}){_CHARACTER})+")
    return pattern


def word_pieces(text: str) -> list[str]:
    """Return the words of ``text``, each with the space before it, if any; joined, they are the text on one line."""
    if not has_unspaced(text) and not _LONG_WORD.search(text):
        first, *later_words = text.split() or [""]
        return [first, *(f" {word}" for word in later_words)] if first else []
    pieces: list[str] = []
    for word in text.split():
        runs = script_runs(word, CHARS_PER_WORD) if UNSPACED.search(word) else [word]
        parts = [part for run in runs for part in _parts(run)]
        pieces += [f" {parts[0]}" if pieces else parts[0], *parts[1:]]
    return pieces


def _parts(run: str) -> Sequence[str]:
    """Return ``run`` as one word or, if it is too long for one, such as a picture in base64, in parts of two tokens."""
    if len(run) <= LONGEST_WORD:
        return [run]
    size, chars = (4, run) if run.isascii() else (CHARS_PER_WORD, characters(run))
    return ["".join(chars[start : start + size]) for start in range(0, len(chars), size)]


def count_words(text: str) -> int:
    """Return the number of words between spaces; in scripts without spaces, two characters count as one."""
    return len(word_pieces(text) if has_unspaced(text) or _LONG_WORD.search(text) else text.split())


def shown_text(text: str, max_words: int, long_texts: LongTexts = "cut") -> str:
    """Return ``text`` with each run of white space as one space, cut to ``max_words`` words.

    "cut" keeps the beginning, "middle" the beginning and the end with `GAP` between them, and "windows" the first one.
    """
    pieces = word_pieces(text)
    if len(pieces) <= max_words or long_texts != "middle":
        return "".join(pieces[:max_words])
    head = math.ceil(HEAD_SHARE * max_words)
    tail = "".join(pieces[len(pieces) - (max_words - head) :]).lstrip() if max_words > head else ""
    return f"{''.join(pieces[:head])} {GAP} {tail}".rstrip()


def text_windows(text: str, max_words: int) -> list[str]:
    """Split ``text`` into overlapping windows of ``max_words`` words, the last up to its end; a short text is one."""
    pieces = word_pieces(text)
    step = max(1, max_words - math.floor(OVERLAP * max_words))
    if len(pieces) <= max_words or max_words < 1:
        return ["".join(pieces[:max_words])]
    starts = [*range(0, len(pieces) - max_words, step), len(pieces) - max_words]
    return ["".join(pieces[start : start + max_words]).lstrip() for start in starts]


def words_left_out(text: str, max_words: int, long_texts: LongTexts = "cut") -> int:
    """Return the number of words that no prompt shows."""
    return 0 if long_texts == "windows" else max(0, count_words(text) - max_words)


class CutTexts(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a set of texts prompts do not show."""

    texts: int
    cut: int  # texts above the limit
    words: int  # of all texts
    left_out: int  # words above the limit
    longest: int  # words
    max_text_words: int
    long_texts: LongTexts = "cut"

    def __str__(self) -> str:
        """Return a message for the user; "" if no text is above the limit."""
        if not self.cut:
            return ""
        start = (
            f"{self.cut:,} of {self.texts:,} texts {'have' if self.cut > 1 else 'has'} more than {self.max_text_words} "
            f"words (the longest {self.longest:,})"
        )
        if self.long_texts == "windows":
            return f"{start}: classified in parts of {self.max_text_words} words. Training uses only the first part."
        part = {"cut": "end", "middle": "middle"}[self.long_texts]
        return f"{start}: the {part} is not used, {self.left_out:,} of {self.words:,} words."


def cut_texts(texts: Iterable[str], max_words: int = MAX_TEXT_WORDS, long_texts: LongTexts = "cut") -> CutTexts:
    """Count the texts above ``max_words`` words, and the words above that limit."""
    counts = [count_words(text) for text in texts]
    over = [count - max_words for count in counts if count > max_words]
    return CutTexts(
        texts=len(counts),
        cut=len(over),
        words=sum(counts),
        left_out=sum(over),
        longest=max(counts, default=0),
        max_text_words=max_words,
        long_texts=long_texts,
    )
