"""Interpretation of an endpoint's errors: their cause, and their message."""

import re
from typing import TYPE_CHECKING

from fourshot.pipeline.faults import clipped

if TYPE_CHECKING:
    import openai

MOST_MESSAGE_CHARS = 300  # of an endpoint's error message: some send a page
# Source: error codes of OpenAI (content_policy_violation, moderation_blocked), Azure (content_filter, 400) and
# OpenRouter (403, "requires moderation and your input was flagged").
MODERATED = re.compile(
    r"moderat|flagged|content[ _-]*(filter|policy|management)|guardrail|harmful|unsafe", re.IGNORECASE
)


def message_of(error: "openai.APIStatusError") -> str:
    """Return the message of ``error`` in one line, cut if it is long."""
    body = error.body
    message = (body.get("message") or body.get("detail")) if isinstance(body, dict) else None
    return clipped(" ".join(str(message or error.response.text).split()), MOST_MESSAGE_CHARS)


def is_used_up(error: "openai.APIStatusError") -> bool:
    return "insufficient_quota" in (error.code, error.type)


def is_moderated(error: "openai.APIStatusError") -> bool:
    """Whether a text is refused for its content: other texts are answered, and another key would not help."""
    return error.status_code == 403 and bool(MODERATED.search(error.response.text))
