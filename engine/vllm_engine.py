"""`VllmEngine`: the engine that works. vLLM in this process, on the CPU or on a GPU, the same code.

Importing this module does not load vllm; opening the engine does.
"""

import time
from collections import deque
from collections.abc import Generator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from fourshot.engine import seeds
from fourshot.engine.adapters import per_prompt
from fourshot.engine.core import Adapter, Completion, EngineSettings, EngineStats, PerPromptAdapter, Sampling
from fourshot.engine.errors import AdapterError, FourshotError, InputError
from fourshot.engine.labels import LabelTokens, Question, label_tokens
from fourshot.engine.tokens import check_lengths, encode_prompts, load_tokenizer, word_biases
from fourshot.engine.vllm_start import MAX_LABEL_IDS, start, stop

if TYPE_CHECKING:
    import numpy as np
    from vllm import RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest


class Scoring:
    """One prompt that is being scored. ``logprobs`` float32 [num_labels], nats, are whole once it is ``done``."""

    def __init__(self, logprobs: "np.ndarray") -> None:
        self.logprobs = logprobs
        self.prompt_tokens = self.cached_tokens = 0
        self.pending: dict[str, Question] = {}  # request id -> what it was asked

    @property
    def done(self) -> bool:
        return not self.pending

    def append(self, output: "RequestOutput") -> None:
        """Take the answer to one of its questions."""
        question, answers = self.pending.pop(output.request_id), output.outputs[0].logprobs[0]
        for token, columns in zip(question.tokens, question.columns, strict=True):
            for column in columns:
                self.logprobs[column] += answers[token].logprob
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens or 0


class VllmEngine:
    """One base model in vLLM. `sample` and `score` may be interleaved: an unfinished `sample` keeps running."""

    def __init__(self, settings: EngineSettings) -> None:
        started = time.perf_counter()
        self.settings = settings
        self._tokenizer = load_tokenizer(settings.model)
        self._llm: Any = start(settings)
        self._request_ids = count()
        self._waiting: dict[str, deque[RequestOutput] | Scoring] = {}  # request id -> where its output is waited for
        self._loras: dict[str, LoRARequest] = {}
        self._labels: dict[tuple[str, ...], LabelTokens] = {}
        self._asked: dict[LabelTokens, list[tuple[Question, SamplingParams]]] = {}
        self._prompt_tokens = self._output_tokens = self._cached_tokens = self._requests = 0
        self._busy_s = 0.0
        self._start_s = time.perf_counter() - started

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        """See `engine.core.Engine.sample`. Raises InputError at once; closing the iterator drops what is unfinished.

        The requests are queued before this returns: they run from then on, whichever call it is that steps the engine.
        """
        self._check_open()
        started = time.perf_counter()
        ids = encode_prompts(self._tokenizer, prompts)
        check_lengths(ids, sampling.max_tokens, self.settings.max_model_len)
        loras = self._lora_requests(adapter, len(ids))
        self._busy_s += time.perf_counter() - started
        running = self._sample(ids, sampling, loras)
        next(running)
        return running

    def _sample(
        self, prompts: list[list[int]], sampling: Sampling, loras: "list[LoRARequest | None]"
    ) -> Generator[Any, None, None]:
        """Yields nothing once the requests are queued, then completions."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        done: deque[RequestOutput] = deque()
        pending: dict[str, tuple[int, int]] = {}
        try:
            started = time.perf_counter()
            biases = word_biases(self._tokenizer, sampling.bias) or None
            for i, ids in enumerate(prompts):
                for j in range(sampling.n):
                    params = SamplingParams(
                        temperature=sampling.temperature,
                        top_k=sampling.top_k,
                        top_p=sampling.top_p,
                        max_tokens=sampling.max_tokens,
                        stop=list(sampling.stop),
                        seed=None if sampling.seed is None else seeds.derive(sampling.seed, i, j),
                        logit_bias=biases,
                        logprobs=0,  # of the sampled token only: what cumulative_logprob is made from
                        output_kind=RequestOutputKind.FINAL_ONLY,
                    )
                    pending[self._add(ids, params, loras[i], done)] = (i, j)
            self._busy_s += time.perf_counter() - started
            yield
            while pending:
                while not done:
                    self._step()
                while done:
                    output = done.popleft()
                    yield _completion(output, *pending.pop(output.request_id))
        finally:
            self._abort(pending)

    def score(self, prompts: Sequence[str], labels: Sequence[str], adapter: PerPromptAdapter = None) -> "np.ndarray":
        """See `engine.core.Engine.score`. One request per prompt if all labels are one token, else per trie node."""
        import numpy as np

        self._check_open()
        started = time.perf_counter()
        tokens = self.label_tokens(labels)
        ids = encode_prompts(self._tokenizer, prompts)
        check_lengths(ids, tokens.longest, self.settings.max_model_len)
        adapters = per_prompt(adapter, len(ids))
        scorings: list[Scoring] = []
        try:
            for prompt, one in zip(ids, adapters, strict=True):
                scorings.append(self.begin_score(prompt, tokens, one))
            self._busy_s += time.perf_counter() - started
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
        """Queue one prompt, token ids of allowed length, to be scored like `score`; `advance` until it is ``done``."""
        import numpy as np

        self._check_open()
        scoring = Scoring(np.zeros(len(labels.ids), dtype=np.float32))
        lora = self._lora_request(adapter)
        for question, params in self._questions(labels):
            scoring.pending[self._add([*prompt, *question.prefix], params, lora, scoring)] = question
        return scoring

    def _questions(self, labels: LabelTokens) -> "list[tuple[Question, SamplingParams]]":
        from vllm import SamplingParams

        if labels not in self._asked:
            # The token that vLLM picks is of no interest, so nothing is masked: the log-probabilities are the raw ones.
            self._asked[labels] = [
                (
                    question,
                    SamplingParams(
                        max_tokens=1, temperature=0.0, logprob_token_ids=list(question.tokens), detokenize=False
                    ),
                )
                for question in labels.questions(MAX_LABEL_IDS)
            ]
        return self._asked[labels]

    def advance(self) -> None:
        """Run the model once, for all that is queued."""
        self._step()

    def label_tokens(self, labels: Sequence[str]) -> LabelTokens:
        """Token ids of the label words; computed once per set of words."""
        words = tuple(labels)
        if words not in self._labels:
            self._labels[words] = label_tokens(self._tokenizer, words)
        return self._labels[words]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text as a prompt. Raises InputError as `engine.tokens.encode_prompts` does."""
        return encode_prompts(self._tokenizer, texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text as a prompt."""
        return [len(ids) for ids in encode_prompts(self._tokenizer, texts)]

    def reset_prefix_cache(self) -> None:
        """Forget cached prefixes. Raises FourshotError while a `sample` is unfinished: its prefixes are in use."""
        self._check_open()
        if not self._llm.reset_prefix_cache():
            raise FourshotError(
                "The prefix cache is in use by an unfinished `sample`. Take all its completions or close it first."
            )

    def stats(self) -> EngineStats:
        return EngineStats(
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            cached_tokens=self._cached_tokens,
            requests=self._requests,
            busy_s=self._busy_s,
            start_s=self._start_s,
        )

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        if self._llm is None:
            return
        held = [self._llm]
        self._llm = None
        self._waiting.clear()
        stop(held)

    def _add(
        self,
        ids: list[int],
        params: "SamplingParams",
        lora: "LoRARequest | None",
        done: "deque[RequestOutput] | Scoring",
    ) -> str:
        """Queue one request; its output will be appended to ``done``."""
        request_id = str(next(self._request_ids))
        self._llm.add_request(request_id, {"type": "token", "prompt_token_ids": ids}, params, lora_request=lora)
        self._waiting[request_id] = done
        return request_id

    def _step(self) -> None:
        """Run the model once and hand what finished to those who wait for it."""
        started = time.perf_counter()
        for output in self._llm.step():
            if not output.finished:
                continue
            self._requests += 1
            self._prompt_tokens += len(output.prompt_token_ids)
            self._cached_tokens += output.num_cached_tokens or 0
            self._output_tokens += len(output.outputs[0].token_ids)
            self._waiting.pop(output.request_id).append(output)
        self._busy_s += time.perf_counter() - started

    def _abort(self, pending: "dict[str, Any]") -> None:
        """Drop what is unfinished of a call that was interrupted. Does nothing after a call that ran to its end."""
        unfinished = [request_id for request_id in pending if self._waiting.pop(request_id, None) is not None]
        if unfinished and self._llm is not None:
            self._llm.abort_request(unfinished)

    def _check_open(self) -> None:
        if self._llm is None:
            raise FourshotError(
                "This engine is closed. Open another one with fourshot.engine.opening.open_engine(settings)."
            )

    def _lora_requests(self, adapter: PerPromptAdapter, num_prompts: int) -> "list[LoRARequest | None]":
        return [self._lora_request(one) for one in per_prompt(adapter, num_prompts)]

    def _lora_request(self, adapter: Adapter | None) -> "LoRARequest | None":
        """The request of an adapter, loaded and checked at first sight. Ids come from a counter, one per name."""
        if adapter is None:
            return None
        known = self._loras.get(adapter.name)
        if known is not None:
            return known
        from vllm.lora.request import LoRARequest

        if not self.settings.max_loras:
            raise InputError(
                f"Adapter {adapter.name!r} was given to an engine that was opened without LoRA (max_loras=0). "
                "Open it with max_loras of at least 1."
            )
        request = LoRARequest(adapter.name, len(self._loras) + 1, adapter.path)
        try:
            self._llm.add_lora(request)
        except Exception as error:
            raise AdapterError(
                f"vLLM cannot load adapter {adapter.name!r} from {adapter.path}: {error}. It must be a LoRA adapter "
                f"for {self.settings.model} of rank at most {self.settings.max_lora_rank} (max_lora_rank)."
            ) from error
        self._loras[adapter.name] = request
        return request


def _completion(output: "RequestOutput", prompt_index: int, sample_index: int) -> Completion:
    said = output.outputs[0]
    return Completion(
        prompt_index=prompt_index,
        sample_index=sample_index,
        text=said.text,
        num_tokens=len(said.token_ids),
        cumulative_logprob=float(said.cumulative_logprob),
        finish_reason="length" if said.finish_reason == "length" else "stop",
    )
