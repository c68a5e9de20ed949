"""Interpretation of an endpoint's errors: their cause, and their message."""

import re
from typing import TYPE_CHECKING

from fourshot.pipeline.faults import clipped
from fourshot.serving.clients.calls import BUSY, retry_after_s
from fourshot.serving.clients.remote.completions import StrangeAnswerError

if TYPE_CHECKING:
    import openai

MOST_MESSAGE_CHARS = 300  # of an endpoint's error message: some send a page
LONGEST_RETRY_AFTER_S = 120.0  # more than a limit per minute needs; an endpoint that asks for more is not waited for
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


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    import openai

    if isinstance(error, openai.APIStatusError):
        if is_used_up(error) or (retry_after_s(error.response.headers) or 0) > LONGEST_RETRY_AFTER_S:
            return False
        return error.status_code in (408, 409, BUSY, 500, *range(502, 600))
    return isinstance(error, openai.APIConnectionError | TimeoutError | StrangeAnswerError)


def is_used_up(error: "openai.APIStatusError") -> bool:
    return "insufficient_quota" in (error.code, error.type)


def is_moderated(error: "openai.APIStatusError") -> bool:
    """Whether a text is refused for its content: other texts are answered, and another key would not help."""
    return error.status_code == 403 and bool(MODERATED.search(error.response.text))
