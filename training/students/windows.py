"""Long texts that a student reads in parts: that its checkpoint says so, and which parts a text has."""

from pathlib import Path
from typing import Any

from fourshot.engine.checkpoints.config import read_config

WINDOWS = "fourshot_windows"  # in a checkpoint's configuration
SHARED = 8  # either end of a part may lose one of so many of its tokens to a word; parts share twice as many


def reads_windows(folder: Path) -> bool:
    """Whether the student in ``folder`` reads long texts in parts."""
    return bool(read_config(folder).get(WINDOWS)) and (folder / "tokenizer.json").is_file()


def windows(tokenizer: Any, text: str, max_tokens: int) -> list[str]:
    """``text``, or parts of it that overlap, of ``max_tokens`` or somewhat less, which begin and end with words.

    ``tokenizer``: of the library `tokenizers`, one that cuts nothing.
    """
    room = max_tokens - tokenizer.num_special_tokens_to_add(is_pair=False)
    coded = tokenizer.encode(text, add_special_tokens=False)
    offsets, words, count = coded.offsets, coded.word_ids, len(coded.ids)
    if count <= room:
        return [text]

    def begins(token: int) -> bool:
        return token in (0, count) or words[token] != words[token - 1]

    parts, shared = [], room // SHARED
    for start in [*range(0, count - room, room - 2 * shared), count - room]:
        first = next((token for token in range(start, start + shared) if begins(token)), start)
        end = next((token for token in range(start + room, start + room - shared, -1) if begins(token)), start + room)
        parts.append(text[offsets[first][0] : offsets[end - 1][1]])
    return parts
