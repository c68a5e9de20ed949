"""Check how a task file's instruction and noun read in prompts."""

import re
from typing import Any

from fourshot.pipeline.faults import TaskFault, note, shorten, warning

_PLACEHOLDER = re.compile(r"\{\{?\s{0,9}[\w.]{0,60}\s{0,9}\}?\}|%s\b")
# Nouns whose plural is not formed by an s at the end: compounds with a preposition, and words with other plurals.
_NOT_LAST = re.compile(r"\w\s+(?:about|at|by|for|from|in|of|on|to|with)\s+\w", re.IGNORECASE)
_OTHER_PLURAL = re.compile(r"(?:s|x|z|ch|sh|[^aeiou\W]y)$", re.IGNORECASE)
# Labels listed in an instruction, which is part of every prompt. Without a list of 77 labels, adapters of two base
# models trained in half of the time or less, with the same accuracy (docs/results.md, "77 classes"). With 18 labels,
# neither differed.
MOST_LISTED = 30


def instruction_form(instruction: str) -> list[TaskFault]:
    """Return a warning about a placeholder in the instruction, as in templates of other tools: none is filled in."""
    if not (place := _PLACEHOLDER.search(instruction)):
        return []
    problem = f"{place[0]!r} is not replaced: the text follows the instruction automatically."
    return [warning("$.instruction", problem, "Remove it, unless it is meant literally.")]


def instruction_names(instruction: str, labels: list[dict[str, str]]) -> list[TaskFault]:
    """Return a warning if an instruction uses label names instead of words, or a note if it lists many labels."""
    pairs = [(label.get("name", ""), label.get("word") or label.get("name", "")) for label in labels]
    renamed = [(name, word) for name, word in pairs if name.casefold() != word.casefold()]

    def named(text: str) -> bool:
        return bool(text.strip() and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", instruction, re.IGNORECASE))

    if len(renamed) >= 2 and all(named(name) and not named(word) for name, word in renamed):
        names, words = (shorten([repr(pair[part]) for pair in renamed]) for part in (0, 1))
        return [warning("$.instruction", f"it names {names}, but the model answers {words}.", "Use the words in it.")]
    if (listed := sum(named(word) for _, word in pairs)) > MOST_LISTED:
        remedy = "It is part of every prompt: with only a few as examples, training and answers are faster."
        return [note("$.instruction", f"it names {listed} labels.", remedy)]
    return []


def noun_form(document: dict[str, Any]) -> list[TaskFault]:
    """Return a warning about a noun whose default plural with an s is wrong, since generation prompts contain it."""
    noun = str(document.get("noun", "")).strip()
    if document.get("noun_plural") or not (_NOT_LAST.search(noun) or _OTHER_PLURAL.search(noun)):
        return []
    problem = f"the prompts for new texts call several of them {f'{noun}s'!r}."
    return [
        warning("$.noun_plural", problem, 'Write what several are called, such as noun_plural = "support tickets".')
    ]
