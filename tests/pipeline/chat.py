"""Chat turns that belong to no model, for tests of prompts that do not need responses."""

from fourshot.engine.chat import ChatTurns

CHAT = ChatTurns(
    begin="<|user|>\n",
    answer="<|end|>\n<|model|>\n",
    next="<|end|>\n<|user|>\n",
    open="<|end|>\n<|model|>\n",
    marks=("<|end|>",),
    template_hash="0" * 12,
)
