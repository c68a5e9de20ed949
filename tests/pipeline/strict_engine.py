"""A fake engine that refuses prompts that are too long, as a real one does."""

from collections.abc import Sequence

import numpy as np

from fourshot.engine.core import EngineSettings, PerPromptAdapter, Verbalizer
from fourshot.engine.errors import InputError
from fourshot.engine.fake_engine import FakeEngine


class StrictEngine(FakeEngine):
    """Writes down the prompts that it scores."""

    def __init__(self, max_model_len: int) -> None:
        super().__init__(EngineSettings(model="fake", kind="fake", max_model_len=max_model_len))
        self.prompts: list[str] = []

    def score(
        self,
        prompts: Sequence[str],
        labels: Sequence[str],
        adapter: PerPromptAdapter = None,
        verbalizer: Verbalizer = "word",
    ) -> np.ndarray:
        if max(self.count_tokens(prompts)) >= self.settings.max_model_len:
            raise InputError("a prompt is too long")
        self.prompts += prompts
        return super().score(prompts, labels, adapter, verbalizer)
