"""Label probabilities from a running vLLM server: as `engine.vllm_engine.VllmEngine.score`, one text at a time.

Importing this module loads no vllm.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from fourshot.engine.labels import LabelTokens, TrieRequest
from fourshot.engine.vllm_scoring import Scoring, scoring_requests
from fourshot.engine.vllm_seams.client import began_s
from fourshot.pipeline.synthesis.windows import combined
from fourshot.serving.answers import RefusalError
from fourshot.serving.concurrency import all_or_none
from fourshot.serving.models.dispatcher import BASE, Dispatcher

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

BEGINNING_TOKENS, MOST_BEGINNINGS = 32, 4096  # one block of the cache; beginnings that are remembered


class ScoredText(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of one text."""

    logprobs: tuple[float, ...]  # nats, one per label, under the model's whole vocabulary
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_s: float  # until the engine began
    model_s: float


class Scorer:
    """Scores prompts on ``engine``, a vLLM ``EngineClient``."""

    def __init__(self, engine: Any, dispatcher: Dispatcher) -> None:
        self._engine, self._dispatcher = engine, dispatcher
        self._ids = count()
        self._hits = ExpectedHits()

    async def score_all(
        self, prompts: Sequence[Sequence[int]], labels: LabelTokens, lora: "LoRARequest | None", client: str = ""
    ) -> list[ScoredText]:
        """Score the prompts of one request, and return the results in their order. See `score`."""
        offsets = [0, *accumulate(map(len, prompts))]
        return await all_or_none(
            self.score(prompt, labels, lora, offset, client) for prompt, offset in zip(prompts, offsets, strict=False)
        )

    def work_tokens(self, prompts: Sequence[Sequence[int]], labels: LabelTokens, lora: "LoRARequest | None") -> int:
        """Return the tokens that the model is expected to compute for ``prompts``."""
        adapter = lora.lora_name if lora else BASE
        return len(scoring_requests(labels)) * sum(len(ids) - self._hits.expected(adapter, ids) for ids in prompts)

    async def score(
        self,
        prompt: Sequence[int],
        labels: LabelTokens,
        lora: "LoRARequest | None",
        after_tokens: int = 0,
        client: str = "",
    ) -> ScoredText:
        """Score one prompt, given as token ids, for every label. If cancelled, it leaves the queue.

        ``after_tokens`` and ``client`` as for `Dispatcher.turn`. Raises RefusalError if there will be no result.
        """
        arrived = time.monotonic()
        scoring = Scoring([0.0] * len(labels.ids))
        answers = await all_or_none(
            self._ask([*prompt, *request.prefix], params, request, lora, after_tokens, client)
            for request, params in scoring_requests(labels)
        )
        began, ended = float("inf"), arrived
        for request, output, turn, done in answers:
            scoring.add(request, output)
            began, ended = min(began, _began(output, turn, done)), max(ended, done)
        return ScoredText(
            logprobs=tuple(scoring.logprobs),
            prompt_tokens=scoring.prompt_tokens,
            cached_tokens=scoring.cached_tokens,
            completion_tokens=len(answers),
            queue_s=began - arrived,
            model_s=ended - began,
        )

    async def _ask(
        self,
        ids: list[int],
        params: Any,
        request: TrieRequest,
        lora: "LoRARequest | None",
        after_tokens: int,
        client: str,
    ) -> tuple[TrieRequest, Any, float, float]:
        """Return the request, the engine's output, when its turn came and when it ended; monotonic seconds."""
        adapter = lora.lora_name if lora else BASE
        work_tokens = len(ids) - self._hits.expected(adapter, ids)
        await self._dispatcher.turn(adapter, work_tokens, after_tokens, client)
        turn, last = time.monotonic(), None
        try:
            async for output in self._engine.generate(
                {"type": "token", "prompt_token_ids": ids}, params, f"classify-{next(self._ids)}", lora_request=lora
            ):
                last = output
        except Exception as error:
            if self._engine.errored:
                raise _engine_down() from error
            raise
        else:
            if last is None or last.outputs[0].finish_reason == "abort":  # it is being stopped
                raise _engine_down()
        finally:
            self._dispatcher.done(work_tokens, is_computed=last is not None)
        self._hits.record(adapter, ids, last.num_cached_tokens or 0)
        return request, last, turn, time.monotonic()


def combined_answers(scored: Sequence[ScoredText], counts: Sequence[int]) -> list[ScoredText]:
    """Return one result per text, from those of its prompts (``counts``). See `pipeline.synthesis.windows`."""
    if len(counts) == len(scored):
        return list(scored)
    rows = combined(np.array([part.logprobs for part in scored]), counts)
    answers, start = [], 0
    for row, number in zip(rows, counts, strict=True):
        parts = scored[start : (start := start + number)]
        began = min(part.queue_s for part in parts)
        answers.append(
            ScoredText(
                logprobs=tuple(row.tolist()),
                prompt_tokens=sum(part.prompt_tokens for part in parts),
                cached_tokens=sum(part.cached_tokens for part in parts),
                completion_tokens=sum(part.completion_tokens for part in parts),
                queue_s=began,
                model_s=max(part.queue_s + part.model_s for part in parts) - began,
            )
        )
    return answers


def _engine_down() -> RefusalError:
    """Return the refusal for an engine whose process has ended: it will answer nothing more."""
    return RefusalError(503, "engine_down", "The engine has stopped; it is being started again.", 5.0)


def _began(output: Any, turn: float, done: float) -> float:
    """Return when the engine began with ``output``: by its own record, which uses the same clock, else ``turn``."""
    scheduled = began_s(output)
    return min(max(scheduled, turn), done) if scheduled else turn


class ExpectedHits:
    """Estimates the tokens of a prompt that the prefix cache will serve, from the last prompt with the same beginning.

    Cached tokens are no work. If they were counted as work, prompts with examples would wait longer than necessary.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, tuple[int, ...]], int] = OrderedDict()

    def expected(self, adapter: str, ids: Sequence[int]) -> int:
        return min(self._last.get((adapter, tuple(ids[:BEGINNING_TOKENS])), 0), len(ids) - 1)

    def record(self, adapter: str, ids: Sequence[int], cached_tokens: int) -> None:
        key = adapter, tuple(ids[:BEGINNING_TOKENS])
        self._last[key] = cached_tokens
        self._last.move_to_end(key)
        if len(self._last) > MOST_BEGINNINGS:
            self._last.popitem(last=False)
