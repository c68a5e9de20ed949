"""Long texts that a student reads in parts: whether its checkpoint is configured so, and the parts of a text."""

from pathlib import Path
from typing import Any

from fourshot.engine.checkpoints.config import read_config

WINDOWS = "fourshot_windows"  # in a checkpoint's configuration
SHARED = 8  # each end of a part may move by 1 / SHARED of its tokens to a word boundary; parts overlap by 2 / SHARED


def reads_windows(folder: Path) -> bool:
    """Whether the student in ``folder`` reads long texts in parts."""
    return bool(read_config(folder).get(WINDOWS)) and (folder / "tokenizer.json").is_file()


def windows(tokenizer: Any, text: str, max_tokens: int) -> list[str]:
    """Return [``text``], or its overlapping parts, which begin and end at words and have at most ``max_tokens`` tokens.

    ``tokenizer``: of the library `tokenizers`, without truncation.
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
