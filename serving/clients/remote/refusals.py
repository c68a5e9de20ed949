"""What an endpoint means by an error: whose fault it is, and what it says of it."""

import re
from typing import TYPE_CHECKING

from fourshot.pipeline.faults import clipped

if TYPE_CHECKING:
    import openai

MOST_MESSAGE_CHARS = 300  # characters of what an endpoint says that went wrong: some answer with a page
# Source: error codes of OpenAI (content_policy_violation, moderation_blocked), Azure (content_filter, 400) and
# OpenRouter (403, "requires moderation and your input was flagged").
MODERATED = re.compile(
    r"moderat|flagged|content[ _-]*(filter|policy|management)|guardrail|harmful|unsafe", re.IGNORECASE
)


def message_of(error: "openai.APIStatusError") -> str:
    """In one line, cut."""
    body = error.body
    message = (body.get("message") or body.get("detail")) if isinstance(body, dict) else None
    return clipped(" ".join(str(message or error.response.text).split()), MOST_MESSAGE_CHARS)


def is_used_up(error: "openai.APIStatusError") -> bool:
    return "insufficient_quota" in (error.code, error.type)


def is_moderated(error: "openai.APIStatusError") -> bool:
    """Whether a text is refused for what it says: other texts are answered, and with another key it is refused too."""
    return error.status_code == 403 and bool(MODERATED.search(error.response.text))
