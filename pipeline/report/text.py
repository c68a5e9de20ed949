"""Format numbers, names and texts for readers of the page and of the Markdown file."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from fourshot.pipeline.synthesis.types import Reason

MISSING = "\u2013"

REASON_NAMES: dict[Reason, str] = {
    "kept": "kept",
    "surplus": "surplus",
    "label_disagrees": "label disagrees",
    "low_confidence": "low confidence",
    "dropped_in_review": "dropped in review",
    "exact_duplicate": "exact duplicate",
    "near_duplicate": "near duplicate",
    "copies_shot": "copies a shot",
    "in_test_set": "in the test set",
    "too_short": "too short",
    "too_long": "too long",
    "unfinished": "unfinished",
    "repeats_prompt": "repeats the prompt",
    "leaks_label": "leaks the label",
    "missing_field": "lacks a field",
    "malformed": "malformed",
}  # in the order of bars and legends: accepted, rejected by annotators or a person, not new, malformed


def now() -> str:
    """Return the present time in UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def per_cent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f}"


def error(value: float | None) -> str:
    """Format a probability, or a distance between two."""
    return MISSING if value is None else f"{value:.3f}"


def count(number: float | None) -> str:
    return MISSING if number is None else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """Format a time in the unit that suits its size: 3.4 ms, 12.0 s, 4 min 05 s, 1 h 02 min."""
    if seconds is None:
        return MISSING
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings with dotted keys: ``{"filter": {"bound": 0.8}}`` -> ``{"filter.bound": "0.8"}``."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return flat


def escape_markdown(value: object) -> str:
    """Escape a text so that Markdown prints it literally: on one line, no markup, no HTML, no end of a table cell."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&!])", r"\\\1", " ".join(str(value).split()))


def markdown_code(value: str) -> Markup:
    """Return a text as an indented block, which no content can end early, unlike a fence. It is not escaped again."""
    return Markup("\n".join(f"    {line}" for line in value.splitlines()))
