"""`VllmEngine`: the production engine. vLLM in this process, with the same code on the CPU and on a GPU.

Importing this module does not load vllm; opening the engine does.
"""

import contextlib
import os
import weakref
from collections import deque
from collections.abc import Generator, Sequence
from functools import partial
from itertools import count, product
from typing import TYPE_CHECKING, Any

import numpy as np

from fourshot.engine import seeds
from fourshot.engine.adapters import per_prompt
from fourshot.engine.core import Adapter, Completion, EngineSettings, PerPromptAdapter, Sampling, Verbalizer
from fourshot.engine.errors import AdapterError, FourshotError, InputError
from fourshot.engine.labels import LabelTokens
from fourshot.engine.loaded import LoadedModel
from fourshot.engine.machine.engine_lock import engine_lock, run_after_lock
from fourshot.engine.machine.host_state import host_state_kept, library_variables_recorded
from fourshot.engine.tokens import word_biases
from fourshot.engine.vllm_scoring import Scoring, scoring_requests
from fourshot.engine.vllm_seams import in_process
from fourshot.engine.vllm_start import start

if TYPE_CHECKING:
    from vllm import LLMEngine, RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest

_inherited: "list[list[LLMEngine]]" = []  # kept alive in a fork: deleting their process groups would end the process


class VllmEngine(LoadedModel):
    """One base model in vLLM. `sample` and `score` may be interleaved: an unfinished `sample` continues running."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._request_ids = count()
        self._waiting: dict[str, deque[RequestOutput] | Scoring] = {}  # request id -> receiver of its output
        self._loras: dict[str, LoRARequest] = {}
        self._lora_ids = count(1)  # the id of a failed load is not reused: vLLM may regard it as loaded
        with engine_lock(), library_variables_recorded(), host_state_kept():
            self._is_ready(start(settings))
        self._unless_closed = weakref.finalize(self, _dropped, [self._model], os.getpid())
        self._unless_closed.atexit = False  # the memory of a process is released with it

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        """See `engine.core.Engine.sample`. Raises InputError at once; closing the iterator drops unfinished requests.

        The requests are queued before this returns. From then on, every call that steps the engine runs them too.
        """
        with self._busy():
            ids = self._checked(prompts, sampling.max_tokens)
            loras = [self._lora_request(of_prompt) for of_prompt in per_prompt(adapter, len(ids))]
        running = self._sample(ids, sampling, loras)
        next(running)
        return running

    def _sample(
        self, prompts: list[list[int]], sampling: Sampling, loras: "list[LoRARequest | None]"
    ) -> Generator[Any, None, None]:
        """Yield None when the requests are queued, then the completions."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        done: deque[RequestOutput] = deque()
        pending: dict[str, tuple[int, int]] = {}
        try:
            with self._busy():
                biases, seed = word_biases(self._tokenizer, sampling.bias) or None, sampling.seed
                for i, j in product(range(len(prompts)), range(sampling.n)):
                    params = SamplingParams(
                        temperature=sampling.temperature,
                        top_k=sampling.top_k,
                        top_p=sampling.top_p,
                        max_tokens=sampling.max_tokens,
                        stop=list(sampling.stop),
                        seed=None if seed is None else seeds.derive(seed, sampling.seed_offset + i, j),
                        logit_bias=biases,
                        logprobs=0,  # of the sampled token only, for cumulative_logprob
                        output_kind=RequestOutputKind.FINAL_ONLY,
                    )
                    pending[self._add(prompts[i], params, loras[i], done)] = (i, j)
            yield
            while pending:
                while not done:
                    self.advance()
                while done:
                    output = done.popleft()
                    yield _completion(output, *pending.pop(output.request_id))
        finally:
            self._abort(pending)

    def score(
        self,
        prompts: Sequence[str],
        labels: Sequence[str],
        adapter: PerPromptAdapter = None,
        verbalizer: Verbalizer = "word",
    ) -> np.ndarray:
        """See `engine.core.Engine.score`. One request per prompt if all labels are single tokens, else one per node."""
        scorings: list[Scoring] = []
        try:
            with self._busy():
                tokens = self.label_tokens(labels, verbalizer)
                ids = self._checked(prompts, tokens.longest)
                for prompt, of_prompt in zip(ids, per_prompt(adapter, len(ids)), strict=True):
                    scorings.append(self.begin_score(prompt, tokens, of_prompt))
            for scoring in scorings:
                while not scoring.done:
                    self.advance()
        finally:
            for scoring in scorings:
                self._abort(scoring.pending)
        scores = np.zeros((len(ids), len(tokens.ids)), dtype=np.float32)
        for row, scoring in zip(scores, scorings, strict=True):
            row[:] = scoring.logprobs
        return scores

    def begin_score(self, prompt: Sequence[int], labels: LabelTokens, adapter: Adapter | None = None) -> "Scoring":
        """Queue one prompt, token ids of allowed length, for scoring as in `score`; `advance` until it is ``done``."""
        scoring = Scoring(np.zeros(len(labels.ids), dtype=np.float32))
        with self._busy():
            lora = self._lora_request(adapter)
            for request, params in scoring_requests(labels):
                scoring.pending[self._add([*prompt, *request.prefix], params, lora, scoring)] = request
        return scoring

    def advance(self) -> None:
        """Run one engine step for all queued requests, and append finished outputs to their receivers."""
        with self._busy():
            for output in self._model.step():
                if output.finished:
                    num_output_tokens = len(output.outputs[0].token_ids)
                    self._count(len(output.prompt_token_ids), num_output_tokens, output.num_cached_tokens or 0)
                    self._waiting.pop(output.request_id).append(output)

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache. Raises FourshotError while a `sample` is unfinished: its prefixes are in use."""
        with self._busy():
            if not self._model.reset_prefix_cache():
                raise FourshotError(
                    "The prefix cache is in use by an unfinished `sample`. Take all its completions or close it first."
                )

    def close(self) -> None:
        """Release the memory. Idempotent."""
        if self._is_inherited:
            return
        with engine_lock():
            if self._model is not None:
                self._unless_closed.detach()
                engines, self._model = [self._model], None
                self._waiting.clear()
                in_process.stop(engines)

    def _add(
        self,
        ids: list[int],
        params: "SamplingParams",
        lora: "LoRARequest | None",
        done: "deque[RequestOutput] | Scoring",
    ) -> str:
        """Queue one request, whose output will be appended to ``done``, and return its id."""
        request_id = str(next(self._request_ids))
        self._model.add_request(request_id, {"type": "token", "prompt_token_ids": ids}, params, lora_request=lora)
        self._waiting[request_id] = done
        return request_id

    def _abort(self, pending: "dict[str, Any]") -> None:
        """Abort the unfinished requests of an interrupted call. Does nothing if the call was completed."""
        if self._is_inherited:
            return
        with engine_lock():
            unfinished = [request_id for request_id in pending if self._waiting.pop(request_id, None) is not None]
            if unfinished and self._model is not None:
                self._model.abort_request(unfinished)

    def _lora_request(self, adapter: Adapter | None) -> "LoRARequest | None":
        """Return vLLM's request for an adapter, which is loaded and checked on first use. Ids come from a counter."""
        if adapter is None:
            return None
        loaded = self._loras.get(adapter.name)
        if loaded is not None:
            return loaded
        from vllm.lora.request import LoRARequest

        if not self.settings.max_loras:
            raise InputError(
                f"Adapter {adapter.name!r} was given to an engine that was opened without LoRA (max_loras=0). "
                "Open it with max_loras of at least 1."
            )
        request = LoRARequest(adapter.name, next(self._lora_ids), adapter.path)
        try:
            self._model.add_lora(request)
        except Exception as error:
            with contextlib.suppress(Exception):  # it may be partly loaded, and vLLM may regard it as loaded
                self._model.remove_lora(request.lora_int_id)
            raise AdapterError(
                f"vLLM cannot load adapter {adapter.name!r} from {adapter.path}: {error}. It must be a LoRA adapter "
                f"for {self.settings.model} of rank at most {self.settings.max_lora_rank} (max_lora_rank)."
            ) from error
        self._loras[adapter.name] = request
        return request


def _dropped(engines: "list[LLMEngine]", process: int) -> None:
    """Stop an engine that was never closed and has no references any more, because vLLM would keep its memory."""
    if os.getpid() == process:
        run_after_lock(partial(in_process.stop, engines))
    else:
        _inherited.append(engines)


def _completion(output: "RequestOutput", prompt_index: int, sample_index: int) -> Completion:
    sampled = output.outputs[0]
    return Completion(
        prompt_index=prompt_index,
        sample_index=sample_index,
        text=sampled.text,
        num_tokens=len(sampled.token_ids),
        cumulative_logprob=float(sampled.cumulative_logprob),
        finish_reason="length" if sampled.finish_reason == "length" else "stop",
    )
