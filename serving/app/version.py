"""One version of a task's answers, as the server has loaded it."""

from pathlib import Path
from typing import TYPE_CHECKING

from fourshot.engine.calibration import Calibration
from fourshot.engine.core import EngineSettings
from fourshot.engine.labels import LabelTokens
from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.windows import reading_prompts
from fourshot.pipeline.tasks.fields import bare_text
from fourshot.pipeline.tasks.text_words import words_left_out
from fourshot.serving.api import Method
from fourshot.serving.app.registry import InContext, StoredAdapter

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


class Version:
    """What a task is answered with: an adapter that the engine has, or examples alone."""

    def __init__(
        self,
        stored: StoredAdapter | InContext,
        labels: dict[Method, LabelTokens],
        lora: "LoRARequest | None",
        folder: Path | None,
        engine: EngineSettings,
    ) -> None:
        """``labels``: what is said for them, by method; without ``icl`` where the examples do not fit.

        ``lora``, ``folder``: None where there are examples alone.
        """
        self.stored, self.labels, self.lora, self.folder = stored, labels, lora, folder
        source = stored.card if isinstance(stored, StoredAdapter) else stored
        self.name = lora.lora_name if lora else ""
        self.task, self.shots = source.task, source.shots
        self._form = self._icl_form = source.prompt_format
        if source.align:
            self._icl_form = aligned(self._form, self.task, engine, self.shots)
        self.card = source if isinstance(source, AdapterCard) else None  # as it is now: its temperature may be new
        self.icl_calibration: Calibration | None = None  # fitted when it is first asked for
        self.pinned = False  # in its slot
        self.left_at = 0.0  # when it ceased to be what answers; monotonic seconds
        self.in_use = 0  # requests that were promised an answer of this version

    def prompts(self, text: str, method: Method) -> list[str]:
        """What the adapter is asked about ``text``, as in training, or the base with the examples before it.

        It is one prompt, or one for each window of a long text.
        """
        if method == "icl":
            return reading_prompts(self.task, text, self._icl_form, self.shots)
        return reading_prompts(self.task, text, self._form)

    def words_left_out(self, text: str) -> int:
        """Words of a text that neither is shown."""
        return words_left_out(bare_text(self.task, text), self._form.max_text_words, self._form.long_texts)

    @property
    def methods(self) -> list[Method]:
        """How it can answer, the usual way first."""
        methods: list[Method] = ["adapter"] if self.lora else []
        return [*methods, "icl"] if self.shots and "icl" in self.labels else methods
