"""The base class of both engines: tokenizer, counters, and checks of whether a call can be answered."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fourshot.engine.core import EngineSettings, EngineStats, Verbalizer
from fourshot.engine.errors import FourshotError
from fourshot.engine.labels import LabelTokens, label_tokens
from fourshot.engine.machine.engine_lock import engine_lock
from fourshot.engine.tokens import check_lengths, encode_prompts, load_tokenizer


class LoadedModel:
    """Base class of an engine. A subclass loads its model after this `__init__`, and passes it to `_is_ready`.

    Threads may share an engine. All code that uses the model runs within `_busy`, one thread of the process at a time.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._started_s = time.perf_counter()
        self.settings = settings
        self._tokenizer = load_tokenizer(settings.model)
        self._labels: dict[tuple[tuple[str, ...], Verbalizer], LabelTokens] = {}
        self._prompt_tokens = self._output_tokens = self._cached_tokens = self._requests = 0
        self._busy_s = self._start_s = 0.0
        self._process, self._depth = os.getpid(), 0
        self._model: Any = None  # None until it is loaded, and after `close`

    def _is_ready(self, model: Any) -> None:
        self._model = model
        self._start_s = time.perf_counter() - self._started_s

    def __reduce__(self) -> str:
        """Raise TypeError, as Python does for objects that cannot be pickled: a copy would contain the model."""
        raise TypeError(
            "A classifier or engine holds a model, which cannot be copied or pickled. Open one in each process, and "
            "pass its folder there."
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text as a prompt. Raises InputError as `engine.tokens.encode_prompts` does."""
        return encode_prompts(self._tokenizer, texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text as a prompt."""
        return [len(ids) for ids in self.encode(texts)]

    def label_tokens(self, labels: Sequence[str], verbalizer: Verbalizer = "word") -> LabelTokens:
        """Return the tokens that stand for each of the label words; cached by words and verbalizer."""
        key = tuple(labels), verbalizer
        if key not in self._labels:
            self._labels[key] = label_tokens(self._tokenizer, *key)
        return self._labels[key]

    def stats(self) -> EngineStats:
        return EngineStats(
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            cached_tokens=self._cached_tokens,
            requests=self._requests,
            busy_s=self._busy_s,
            start_s=self._start_s,
        )

    def _checked(self, prompts: Sequence[str], extra_tokens: int) -> list[list[int]]:
        """Return the token ids of prompts. Raises InputError if one of them leaves no room for ``extra_tokens``."""
        self._check_open()
        ids = self.encode(prompts)
        check_lengths(ids, extra_tokens, self.settings.max_model_len)
        return ids

    @property
    def _is_inherited(self) -> bool:
        """Whether this process is a fork of the engine's: locks that other threads held there are never released."""
        return os.getpid() != self._process

    def _check_open(self) -> None:
        if self._is_inherited:
            raise FourshotError(
                "This engine was opened in another process, and cannot be used in a fork of it. Open one in each "
                'process: with multiprocessing, in workers started with the method "spawn".'
            )
        if self._model is None:
            raise FourshotError("This classifier or engine is closed. Open another one.")

    def _count(self, prompt_tokens: int, output_tokens: int, cached_tokens: int = 0) -> None:
        """Count one answered request."""
        self._requests += 1
        self._prompt_tokens += prompt_tokens
        self._output_tokens += output_tokens
        self._cached_tokens += cached_tokens

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._check_open()  # before the lock, because of `_is_inherited`
        with engine_lock():
            self._check_open()  # another thread may have closed it in the meantime
            self._depth += 1
            started = time.perf_counter()
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._busy_s += time.perf_counter() - started
