"""Versions on the base model that vLLM runs: adapters, and tasks in context. Importing this module loads no vllm."""

import asyncio
import logging
import shutil
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourshot.engine.calibration import CONTENT_FREE, NONE, Calibration, apply, contextual
from fourshot.engine.checkpoints.models import Shapes
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import AdapterError, InputError
from fourshot.engine.labels import LabelTokens, label_tokens
from fourshot.engine.tokens import check_lengths, encode_prompts
from fourshot.engine.vllm_seams.client import InFlight, add_model, remove_model
from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.rows.fields import bare_text
from fourshot.pipeline.rows.text_words import words_left_out
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.prompts import classification_prompt
from fourshot.pipeline.synthesis.windows import classification_prompts
from fourshot.serving.answers import RefusalError
from fourshot.serving.api import Method
from fourshot.serving.models.admission import stage
from fourshot.serving.models.dispatcher import Dispatcher
from fourshot.serving.models.in_context import InContext
from fourshot.serving.models.registry import Card, StoredAdapter
from fourshot.serving.models.scorer import ScoredText, Scorer, combined_answers
from fourshot.serving.models.version import PreparedRequest, Version

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm.lora.request import LoRARequest

logger = logging.getLogger("fourshot.serving")
WARM_UP_TEXT = "N/A"
MOST_CHARS_AT_ONCE = 20_000  # of a request's prompts: more are tokenized in a thread, so that no other request waits
FIRST_ID = 1 << 20  # of adapters; vLLM's own (--lora-modules) begin at 1, and of two with one id it loads the first
PIN_AGAIN_S = 10.0  # after a failed attempt to pin
GRACE_S = 30.0  # a request on vLLM's own routes may have looked an adapter up, but not reached the engine yet


class BaseModel:
    """Loads adapters into the engine of vLLM's server. A `serving.models.version.Loader`."""

    def __init__(
        self,
        *,
        engine: Any,
        models: Any,
        tokenizer: "PreTrainedTokenizerBase",
        scorer: Scorer,
        dispatcher: Dispatcher,
        staging: Path,
        base_shapes: Shapes,
        largest_rank: int,
        settings: EngineSettings,
        hot: Sequence[str] = (),
    ) -> None:
        """``engine`` is vLLM's ``EngineClient``, ``models`` its ``OpenAIServingModels``, which also lists adapters.

        ``settings``: of the engine, as far as prompts depend on it. ``hot``: tasks whose adapters stay in their slot.
        """
        self._engine, self._models, self._hot = engine, models, set(hot)
        self.tokenizer, self.scorer, self.dispatcher, self.settings = tokenizer, scorer, dispatcher, settings
        self._staging, self._shapes, self._rank = staging, base_shapes, largest_rank
        self._in_flight = InFlight(engine)
        self._ids = count(FIRST_ID)
        self._names: set[str] = set()  # of the adapters in the engine, which takes equal names for the same adapter

    @property
    def num_inside(self) -> int:
        return self._in_flight.total

    async def admit(self, stored: StoredAdapter | InContext) -> "ModelVersion":
        if isinstance(stored, InContext):
            return await asyncio.to_thread(ModelVersion, self, stored, self.labels(stored), None, None)
        card = stored.card
        assert isinstance(card, AdapterCard)
        labels = self.labels(card)
        folder = await asyncio.to_thread(stage, stored.folder, card, self._staging, self._shapes, self._rank)
        lora = None
        try:
            lora = await self._load(stored.key if stored.name in self._names else stored.name, folder)
            # In a thread: the search for filler takes a while with many shots.
            version = await asyncio.to_thread(ModelVersion, self, stored, labels, lora, folder)
            await self._warm_up(version)
        except Exception as error:  # of any type: it comes from vLLM
            if lora is not None:
                await self._engine.remove_lora(lora.lora_int_id)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise AdapterError(f"{'it cannot answer' if lora else 'vLLM cannot load it'}: {error}") from error
        self._names.add(lora.lora_name)
        return version

    async def _warm_up(self, version: "ModelVersion") -> None:
        """Score one text before the first request, to try the adapter and to cache the instruction."""
        (ids,) = encode_prompts(self.tokenizer, version.prompts(WARM_UP_TEXT, "adapter"))
        check_lengths([ids], version.labels["adapter"].longest, self.settings.max_model_len)
        await self.scorer.score(ids, version.labels["adapter"], version.lora)

    async def _load(self, name: str, folder: Path) -> "LoRARequest":
        from vllm.lora.request import LoRARequest

        lora = LoRARequest(name, next(self._ids), str(folder))
        await self._engine.add_lora(lora)
        return lora

    def labels(self, source: AdapterCard | InContext) -> dict[Method, LabelTokens]:
        """Return the label tokens by method: an adapter's verbalizer, and for ``icl`` the words shown in the examples.

        ``icl`` is left out if a prompt has no room for the examples. Raises InputError if there is no adapter either.
        """
        task, words, limit = source.task, source.task.label_words, self.settings.max_model_len
        in_context = label_tokens(self.tokenizer, words, "auto")
        (shortest,) = encode_prompts(
            self.tokenizer, [classification_prompt(task, "a", source.prompt_format, source.shots)]
        )
        needed = len(shortest) + in_context.longest
        labels: dict[Method, LabelTokens] = {"icl": in_context} if needed <= limit else {}
        if isinstance(source, AdapterCard):
            labels["adapter"] = label_tokens(self.tokenizer, words, source.verbalizer)
        elif not labels:
            raise InputError(
                f"its {len(source.shots)} examples need {needed:,} tokens, but a prompt has room for {limit:,}."
            )
        return labels

    def announce(self, version: Version) -> None:
        if isinstance(version, ModelVersion) and version.lora is not None:
            add_model(self._models, version.lora)  # so that it is a model of the OpenAI routes, too

    def withdraw(self, version: Version) -> None:
        assert isinstance(version, ModelVersion)
        remove_model(self._models, version.model_name)

    def is_busy(self, version: Version) -> bool:
        assert isinstance(version, ModelVersion)
        return self._in_flight.of(version.model_name) > 0 or time.monotonic() < version.left_at + GRACE_S

    async def unload(self, version: Version) -> None:
        assert isinstance(version, ModelVersion)
        if version.lora is not None and version.folder is not None:
            await self._engine.remove_lora(version.lora.lora_int_id)
            self._names.discard(version.model_name)
            await asyncio.to_thread(shutil.rmtree, version.folder, ignore_errors=True)

    async def pin(self, versions: Sequence[Version]) -> None:
        for version in versions:
            if not isinstance(version, ModelVersion) or version.task.name not in self._hot:
                continue
            if version.lora is not None and not version.pinned and time.monotonic() >= version.pin_from:
                await self._pin(version, version.lora)

    async def _pin(self, version: "ModelVersion", lora: "LoRARequest") -> None:
        """Keep an adapter in its slot. If that fails, it is served like any other, and pinning is tried again later."""
        try:
            await self._engine.add_lora(lora)  # adapters loaded since may have evicted it from memory
            version.pinned = await self._engine.pin_lora(lora.lora_int_id)
        except Exception as error:  # of any type: it crossed a process
            logger.warning("%s cannot be kept in a slot yet (--hot): %s", version.name, error)
            version.pin_from = time.monotonic() + PIN_AGAIN_S


class ModelVersion:
    """An adapter in the engine, or a task in context. Implements `serving.models.version.ClassifierVersion`."""

    def __init__(
        self,
        model: BaseModel,
        stored: StoredAdapter | InContext,
        labels: dict[Method, LabelTokens],
        lora: "LoRARequest | None",
        folder: Path | None,
    ) -> None:
        """``labels``: label tokens by method, as from `BaseModel.labels`; without ``icl`` if the examples do not fit.

        ``lora``, ``folder``: None for a task in context.
        """
        self._model, self.labels, self.lora, self.folder = model, labels, lora, folder
        self.dispatcher = model.dispatcher
        self.stored: StoredAdapter | InContext = stored
        source = stored.card if isinstance(stored, StoredAdapter) else stored
        assert isinstance(source, AdapterCard | InContext)
        self.name = stored.name if isinstance(stored, StoredAdapter) else ""
        self.model_name = lora.lora_name if lora else ""  # on vLLM's routes; not `name` if two versions share that
        self.task, self.shots = source.task, source.shots
        self._form = self._icl_form = source.prompt_format
        if source.align:
            self._icl_form = aligned(self._form, self.task, model.settings, self.shots)
        self.card: Card | None = source if isinstance(source, AdapterCard) else None
        self._icl_calibration: Calibration | None = None  # fitted on the first request in context
        self._fitting: asyncio.Task[Calibration] | None = None
        self.pinned, self.pin_from = False, 0.0  # in its slot; when pinning may be tried, monotonic seconds
        self.left_at, self.in_use = 0.0, 0
        # Characters in a prompt beside the text: hundreds with an instruction, thousands with examples.
        self._added_chars = {method: len(self.prompts(WARM_UP_TEXT, method)[0]) for method in self.methods}

    @property
    def methods(self) -> list[Method]:
        methods: list[Method] = ["adapter"] if self.lora else []
        return [*methods, "icl"] if self.shots and "icl" in self.labels else methods

    def prompts(self, text: str, method: Method) -> list[str]:
        """Return the prompts for ``text``: for the adapter as in training, for ``icl`` with the examples before it.

        It is one prompt, or one for each window of a long text.
        """
        if method == "icl":
            return classification_prompts(self.task, text, self._icl_form, self.shots)
        return classification_prompts(self.task, text, self._form)

    async def prepare(self, texts: Sequence[str], method: Method) -> PreparedRequest:
        if sum(map(len, texts)) + len(texts) * self._added_chars[method] > MOST_CHARS_AT_ONCE:
            return await asyncio.to_thread(self._prepare, texts, method)
        return self._prepare(texts, method)

    def _prepare(self, texts: Sequence[str], method: Method) -> PreparedRequest:
        parts = [self.prompts(text, method) for text in texts]
        prompts = encode_prompts(self._model.tokenizer, [prompt for windows in parts for prompt in windows])
        try:
            check_lengths(prompts, self.labels[method].longest, self._model.settings.max_model_len)
        except InputError as error:
            raise RefusalError(400, "too_long", str(error)) from None
        form, bare = self._form, [bare_text(self.task, text) for text in texts]
        cut_words = [words_left_out(text, form.max_text_words, form.long_texts) for text in bare]
        return PreparedRequest(prompts=prompts, parts=list(map(len, parts)), cut_words=cut_words)

    def work_tokens(self, prepared: PreparedRequest, method: Method) -> int:
        return self._model.scorer.work_tokens(prepared.prompts, self.labels[method], self._lora_of(method))

    async def score(
        self, prepared: PreparedRequest, method: Method, client: str
    ) -> tuple[list[ScoredText], np.ndarray]:
        calibration = self.card.calibration if isinstance(self.card, AdapterCard) else NONE
        if method == "icl":
            calibration = await self._calibrated_in_context()
        labels, lora = self.labels[method], self._lora_of(method)
        scored = await self._model.scorer.score_all(prepared.prompts, labels, lora, client)
        scored = combined_answers(scored, prepared.parts)
        return scored, np.exp(apply(calibration, np.array([text.logprobs for text in scored])))

    def _lora_of(self, method: Method) -> "LoRARequest | None":
        return self.lora if method == "adapter" else None

    async def _calibrated_in_context(self) -> Calibration:
        """Return the contextual calibration of the in-context prompt; takes three short requests, once per version."""
        if self._icl_calibration is None:
            if self._fitting is None or self._fitting.done():  # the last attempt has failed
                self._fitting = asyncio.create_task(self._fit_in_context())
            self._icl_calibration = await asyncio.shield(self._fitting)  # others may wait for it, too
        return self._icl_calibration

    async def _fit_in_context(self) -> Calibration:
        prompt_texts = [prompt for text in CONTENT_FREE for prompt in self.prompts(text, "icl")]
        prompts = encode_prompts(self._model.tokenizer, prompt_texts)
        scored = await self._model.scorer.score_all(prompts, self.labels["icl"], None)
        return contextual(np.array([text.logprobs for text in scored]))
