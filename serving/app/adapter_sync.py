"""Keeps what the engine serves true to the adapters' folder: new versions in, old ones out, nobody interrupted.

A version answers from the moment it is loaded and has answered once; until then the one before it does. A version that
is gone from the folder answers what it was already asked, then its memory and its copy are given back. One that is
damaged there is not gone: the copy that was checked answers on, and whoever asks what is refused is told.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from fourshot.engine.calibration import CONTENT_FREE, Calibration, contextual
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import AdapterError, FourshotError, InputError
from fourshot.engine.labels import LabelTokens, label_tokens
from fourshot.engine.models import Shapes
from fourshot.engine.tokens import encode_prompts
from fourshot.engine.vllm_seams.client import InFlight, add_model, remove_model
from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.synthesis.prompts import reading_prompt
from fourshot.serving.api import Method, Refused, TaskInfo
from fourshot.serving.app.admission import stage
from fourshot.serving.app.registry import FolderContents, InContext, Registry, Signature, StoredAdapter
from fourshot.serving.app.scorer import Scorer
from fourshot.serving.app.version import Version

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm.lora.request import LoRARequest

logger = logging.getLogger("fourshot.serving")
WARM_UP_TEXT = "N/A"
GRACE_S = 30.0  # a request of vLLM's own routes may have looked an adapter up and not come to the engine yet


class AdapterSync:
    """Owns the versions that answer. Everything but the reading of files happens on the server's event loop."""

    def __init__(
        self,
        registry: Registry,
        *,
        engine: Any,
        models: Any,
        tokenizer: "PreTrainedTokenizerBase",
        scorer: Scorer,
        staging: Path,
        base_shapes: Shapes,
        largest_rank: int,
        settings: EngineSettings,
        hot: Sequence[str] = (),
    ) -> None:
        """``engine`` is vLLM's ``EngineClient``, ``models`` its ``OpenAIServingModels``, which lists adapters, too.
        ``settings``: of the engine, as far as prompts depend on it.
        """
        self._registry, self._engine, self._models, self._tokenizer = registry, engine, models, tokenizer
        self._scorer, self._staging, self._shapes, self._rank = scorer, staging, base_shapes, largest_rank
        self._settings, self._hot = settings, set(hot)
        self._in_flight = InFlight(engine)
        self._ids = count(1)
        self._ready: dict[str, Version] = {}  # by adapter name
        self._bad: dict[Path, tuple[Signature, str]] = {}  # by folder: why its files were refused
        self._leaving: dict[str, Version] = {}
        self._contents: FolderContents | None = None
        self._logged: list[Refused] = []  # refusals that the log has already
        self.current: dict[str, Version] = {}  # by task: what answers
        self.damaged: set[str] = set()  # tasks that answer on with what is damaged in the folder
        self.on_change: Callable[[str, str], None] = lambda task, name: None

    @property
    def num_in_engine(self) -> int:
        """Requests inside the engine, whichever route they came by."""
        return self._in_flight.total

    async def refresh(self) -> None:
        """Look at the folder and act on it. Returns when all that is new answers."""
        try:
            contents = await asyncio.to_thread(self._registry.read)
        except OSError as error:  # a network disk that is away for a moment takes no task away
            logger.warning("the adapters' folder cannot be read: %s", error)
            return
        contents = self._with_damaged(contents)
        for refused in contents.refused:
            if refused not in self._logged:
                logger.warning("%s is refused: %s", refused.path, refused.reason)
        self._logged = contents.refused
        self._contents = contents
        for task in sorted({*contents.tasks, *contents.in_context, *self.current}):
            await self._choose(task, contents)
        await self._clear_out()
        await self._pin_hot()

    def _with_damaged(self, contents: FolderContents) -> FolderContents:
        """``contents`` with what is served, lies there still, and can no longer be read as it was."""
        refused = {one.path: one for one in contents.refused}
        adapters, in_context = list(contents.adapters), dict(contents.in_context)
        names = {stored.name for stored in adapters}
        self.damaged = set()
        for task, version in self.current.items():
            stored = version.stored
            place = self._registry.place(stored)
            if place not in refused or version.name in names or task in in_context:
                continue
            if isinstance(stored, StoredAdapter):
                adapters.append(stored)
            else:
                in_context[task] = stored
            self.damaged.add(task)
            reason = f"{refused[place].reason} The task {task} is answered on, by the copy that was loaded before."
            refused[place] = Refused(path=place, reason=reason)
        return msgspec.structs.replace(
            contents, adapters=adapters, in_context=in_context, refused=list(refused.values())
        )

    async def _pin_hot(self) -> None:
        """Keep the adapters of hot tasks in their slots; a task's old version must be out first, or slots run out."""
        leaving = {version.task.name for version in self._leaving.values()}
        for task in self._hot & self.current.keys() - leaving:
            version = self.current[task]
            if version.lora is not None and not version.pinned:
                version.pinned = await self._engine.pin_lora(version.lora.lora_int_id)

    async def _choose(self, task: str, contents: FolderContents) -> None:
        """Have the first version of ``task`` that can answer do so."""
        now = self.current.get(task)
        for stored in contents.versions(task):
            if now is not None and now.name == stored.name:
                now.card = stored.card
                return
            version = self._ready.get(stored.name) or await self._admit(stored)
            if version is not None:
                self._answer_with(task, version)
                return
        entry = contents.in_context.get(task)
        if entry is not None:
            if now is None or now.lora is not None or (now.task, now.shots) != (entry.task, entry.shots):
                await self._in_context(task, entry)
        elif now is not None:
            self._retire(task)

    async def _in_context(self, task: str, entry: InContext) -> None:
        try:
            labels = self._labels(entry)
        except FourshotError as error:
            logger.warning("task %s cannot be answered in context: %s", task, error)
            return
        self._answer_with(task, Version(entry, labels, None, None, self._settings))

    def _answer_with(self, task: str, version: Version) -> None:
        now = self.current.get(task)
        if now is not None:
            self._leave(now)
        self._leaving.pop(version.name, None)
        self.current[task] = version
        if version.lora is not None:
            add_model(self._models, version.lora)  # so that it is a model of the OpenAI routes, too
        logger.info("task %s is answered %s", task, f"by {version.name}" if version.lora else "in context")
        self.on_change(task, version.name)

    async def _admit(self, stored: StoredAdapter) -> Version | None:
        """Copy, check, load and try an adapter; None where it is refused."""
        known = self._bad.get(stored.folder)
        if known is not None and known[0] == stored.signature:
            return None
        try:
            labels = self._labels(stored.card)
            folder = await asyncio.to_thread(stage, stored.folder, stored.card, self._staging, self._shapes, self._rank)
            version = Version(stored, labels, await self._load(stored.name, folder), folder, self._settings)
            await self._warm_up(version)
        except FourshotError as error:
            self._bad[stored.folder] = (stored.signature, str(error))
            logger.warning("adapter %s is refused: %s", stored.name, error)
            return None
        self._bad.pop(stored.folder, None)
        self._ready[stored.name] = version
        return version

    def _labels(self, source: AdapterCard | InContext) -> dict[Method, LabelTokens]:
        """What an adapter was trained to say; the base, shown examples, says the words that they have.

        The latter is left out where a prompt has no room for the examples; InputError if there is no adapter either.
        """
        task, words, most = source.task, source.task.label_words, self._settings.max_model_len
        in_context = label_tokens(self._tokenizer, words)
        (shortest,) = encode_prompts(self._tokenizer, [reading_prompt(task, "a", source.prompt_format, source.shots)])
        needed = len(shortest) + in_context.longest
        labels: dict[Method, LabelTokens] = {"icl": in_context} if needed <= most else {}
        if isinstance(source, AdapterCard):
            labels["adapter"] = label_tokens(self._tokenizer, words, source.verbalizer)
        elif not labels:
            raise InputError(f"its {len(source.shots)} examples need {needed:,} tokens, and a prompt has {most:,}.")
        return labels

    async def _load(self, name: str, folder: Path) -> "LoRARequest":
        from vllm.lora.request import LoRARequest

        lora = LoRARequest(name, next(self._ids), str(folder))
        try:
            await self._engine.add_lora(lora)
        except Exception as error:  # of any type: it crossed a process
            raise AdapterError(f"vLLM cannot load it: {error}") from error
        return lora

    async def _warm_up(self, version: Version) -> None:
        """One answer before the first request: the instruction is in the prefix cache, and the adapter works."""
        (ids,) = encode_prompts(self._tokenizer, version.prompts(WARM_UP_TEXT, "adapter"))
        await self._scorer.score(ids, version.labels["adapter"], version.lora)

    def _retire(self, task: str) -> None:
        self._leave(self.current.pop(task))
        logger.info("task %s is no longer served", task)
        self.on_change(task, "")

    def _leave(self, version: Version) -> None:
        """Nobody new gets to ``version``; those who have it may finish."""
        if version.lora is not None:
            version.left_at = time.monotonic()
            self._leaving[version.name] = version
            remove_model(self._models, version.name)

    async def _clear_out(self) -> None:
        """Give back what nobody uses any more."""
        for name, version in list(self._leaving.items()):
            if self._in_flight.of(name) or version.in_use or time.monotonic() < version.left_at + GRACE_S:
                continue
            del self._leaving[name]
            self._ready.pop(name, None)
            if version.lora is not None and version.folder is not None:
                await self._engine.remove_lora(version.lora.lora_int_id)
                await asyncio.to_thread(shutil.rmtree, version.folder, ignore_errors=True)

    async def icl_calibration(self, version: Version) -> Calibration:
        """Contextual calibration of a task's in-context prompt; three short requests, once per version."""
        if version.icl_calibration is None:
            import numpy as np

            asked = [prompt for text in CONTENT_FREE for prompt in version.prompts(text, "icl")]
            prompts = encode_prompts(self._tokenizer, asked)
            scored = await self._scorer.score_all(prompts, version.labels["icl"], None)
            version.icl_calibration = contextual(np.array([text.logprobs for text in scored]))
        return version.icl_calibration

    def tasks(self) -> list[TaskInfo]:
        """What is served, in the order of the tasks' names."""
        contents = self._contents
        return [
            TaskInfo(
                task=task,
                labels=list(version.task.label_names),
                adapter=version.name,
                versions=_names(contents, task),
                pinned=bool(contents and version.name and contents.pins.get(task) == version.name),
                methods=version.methods,
                fields=list(version.task.input_fields) or UNSET,
            )
            for task, version in sorted(self.current.items())
        ]

    def refused(self) -> list[Refused]:
        """What lies in the folder and is not served, and why."""
        contents = self._contents
        if contents is None:
            return []
        bad = [
            Refused(path=str(stored.folder.relative_to(self._registry.root)), reason=known[1])
            for stored in contents.adapters
            if (known := self._bad.get(stored.folder)) is not None and known[0] == stored.signature
        ]
        return [*contents.refused, *bad]


def _names(contents: FolderContents | None, task: str) -> list[str]:
    """Of the versions in the folder, the newest first, each once."""
    stored = sorted(contents.versions(task), key=lambda adapter: -adapter.written_at) if contents else []
    return list(dict.fromkeys(adapter.name for adapter in stored))
