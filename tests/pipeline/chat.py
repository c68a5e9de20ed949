"""Chat turns of no model, for tests of what is asked and not of what is answered."""

from fourshot.engine.chat import ChatTurns

CHAT = ChatTurns(
    begin="<|user|>\n",
    answer="<|end|>\n<|model|>\n",
    next="<|end|>\n<|user|>\n",
    open="<|end|>\n<|model|>\n",
    marks=("<|end|>",),
    template_hash="0" * 12,
)
