"""`TransformersEngine`: the reference engine, with transformers and PEFT as in the paper.

It is the reference of the parity tests and the baseline of every benchmark: simple rather than fast.
Importing this module does not load torch; opening the engine does.
"""

import gc
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourshot.engine import seeds
from fourshot.engine.adapters import per_prompt
from fourshot.engine.checkpoints.loading import load_base
from fourshot.engine.core import Adapter, Completion, EngineSettings, PerPromptAdapter, Sampling, Verbalizer
from fourshot.engine.errors import AdapterError
from fourshot.engine.labels import LabelTokens
from fourshot.engine.loaded import LoadedModel
from fourshot.engine.machine.collector import collector_paused
from fourshot.engine.machine.engine_lock import engine_lock
from fourshot.engine.machine.gpus import torch_device
from fourshot.engine.machine.host_state import random_numbers_kept
from fourshot.engine.machine.threads import available_cores
from fourshot.engine.tokens import word_biases

if TYPE_CHECKING:
    import torch

BATCH_ROWS = 16


class TransformersEngine(LoadedModel):
    """One base model in transformers, in the checkpoint's dtype. Rows are padded on the left."""

    def __init__(self, settings: EngineSettings) -> None:
        with collector_paused():
            import torch
            from transformers.utils import logging

        super().__init__(settings)
        torch.set_num_threads(available_cores())
        logging.disable_progress_bar()
        self._device = torch_device()
        # The checkpoint's dtype, except on GPUs before compute capability 8.0 (V100, T4), which have no bfloat16.
        is_old = self._device == "cuda" and torch.cuda.get_device_capability() < (8, 0)
        self._adapters: dict[str, str] = {}  # adapter name -> its key in PEFT, which allows no dots
        dtype = torch.float16 if is_old else "auto"
        with engine_lock():
            self._is_ready(load_base(settings.model, dtype=dtype).to(self._device).eval())

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        """See `engine.core.Engine.sample`. With a seed, texts are sampled one by one, each from its own generator."""
        ids = self._checked(prompts, sampling.max_tokens)
        return self._sample(ids, sampling, per_prompt(adapter, len(ids)))

    def _sample(
        self, prompts: list[list[int]], sampling: Sampling, adapters: list[Adapter | None]
    ) -> Generator[Completion, None, None]:
        import torch

        draws = list(product(range(len(prompts)), range(sampling.n)))
        rows_at_once = BATCH_ROWS if sampling.seed is None else 1
        for adapter, positions in _by_adapter([adapters[i] for i, _ in draws]):
            for start in range(0, len(positions), rows_at_once):
                chunk = [draws[position] for position in positions[start : start + rows_at_once]]
                with self._busy(), torch.random.fork_rng():
                    if sampling.seed is not None:
                        i, j = chunk[0]
                        torch.manual_seed(seeds.derive(sampling.seed, sampling.seed_offset + i, j))
                    completions = self._generate([prompts[i] for i, _ in chunk], chunk, sampling, adapter)
                yield from completions

    def _generate(
        self, rows: list[list[int]], draws: list[tuple[int, int]], sampling: Sampling, adapter: Adapter | None
    ) -> list[Completion]:
        import torch
        from transformers import GenerationConfig

        ids, mask = self._padded(rows)
        end = self._tokenizer.eos_token_id
        warm = sampling.temperature > 0
        biases = word_biases(self._tokenizer, sampling.bias)
        config = GenerationConfig(
            do_sample=warm,
            temperature=sampling.temperature if warm else None,
            top_k=sampling.top_k if warm else None,
            top_p=sampling.top_p if warm else None,
            max_new_tokens=sampling.max_tokens,
            sequence_bias={(token,): nats for token, nats in biases.items()} or None,
            stop_strings=list(sampling.stop) or None,
            eos_token_id=end,
            pad_token_id=self._pad_id(),
            return_dict_in_generate=True,
            output_logits=True,
        )
        with torch.inference_mode(), self._adapted(adapter) as model:
            output = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, tokenizer=self._tokenizer
            )
        sampled = output.sequences[:, ids.shape[1] :]
        logprobs = torch.stack(output.logits, dim=1).float().log_softmax(-1).gather(2, sampled.unsqueeze(2)).squeeze(2)
        completions = []
        for row, (i, j) in enumerate(draws):
            tokens, text, stopped = self._cut(sampled[row].tolist(), sampling.stop)
            self._count(len(rows[row]), len(tokens))
            completions.append(
                Completion(
                    prompt_index=i,
                    sample_index=j,
                    text=text,
                    num_tokens=len(tokens),
                    cumulative_logprob=float(logprobs[row, : len(tokens)].sum()),
                    finish_reason="stop" if stopped else "length",
                )
            )
        return completions

    def _cut(self, tokens: list[int], stops: tuple[str, ...]) -> tuple[list[int], str, bool]:
        """Cut a row after the end token or a stop string. Returns tokens, text, and whether either was found."""
        stopped = False
        if self._tokenizer.eos_token_id in tokens:
            tokens, stopped = tokens[: tokens.index(self._tokenizer.eos_token_id) + 1], True
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        ends = [text.index(stop) for stop in stops if stop in text]
        if ends:
            text, stopped = text[: min(ends)], True
            length = next(
                n for n in range(1, len(tokens) + 1) if any(s in self._tokenizer.decode(tokens[:n]) for s in stops)
            )
            tokens = tokens[:length]
        return tokens, text, stopped

    def score(
        self,
        prompts: Sequence[str],
        labels: Sequence[str],
        adapter: PerPromptAdapter = None,
        verbalizer: Verbalizer = "word",
    ) -> np.ndarray:
        """See `engine.core.Engine.score`. Labels of several tokens are scored one by one, by teacher forcing."""
        with self._busy():
            tokens = self.label_tokens(labels, verbalizer)
            ids = self._checked(prompts, tokens.longest)
            scores = np.zeros((len(ids), len(tokens.ids)), dtype=np.float32)
            for adapter_, indices in _by_adapter(per_prompt(adapter, len(ids))):
                for chunk in _by_length(indices, ids):
                    scores[chunk] = self._score([ids[index] for index in chunk], tokens, adapter_)
        return scores

    def states(
        self, prompts: Sequence[str], adapter: Adapter | None = None, on_read: Callable[[int], None] = lambda _: None
    ) -> np.ndarray:
        """Return each prompt's last hidden state, which predicts the label: float32 [num_prompts, hidden_size]."""
        import torch

        with self._busy():
            ids = self._checked(prompts, 0)
            states: list[np.ndarray] = [np.zeros(0)] * len(ids)
            for chunk in _by_length(range(len(ids)), ids):
                rows, mask = self._padded([ids[index] for index in chunk])
                with torch.inference_mode(), self._adapted(adapter) as model:
                    output = model.get_decoder()(
                        input_ids=rows,
                        attention_mask=mask,
                        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                        use_cache=False,
                    )
                for index, state in zip(chunk, output.last_hidden_state[:, -1].float().cpu().numpy(), strict=True):
                    states[index] = state
                on_read(sum(state.size > 0 for state in states))  # number of prompts done so far
        return np.stack(states)

    def _score(self, rows: list[list[int]], tokens: LabelTokens, adapter: Adapter | None) -> np.ndarray:
        """Return log-probabilities [num_rows, num_labels]."""
        import torch

        if tokens.one_step:
            last = self._logprobs(rows, 1, adapter)[:, 0]
            return last[:, [label[0] for label in tokens.ids]].cpu().numpy()
        columns = []
        for label in tokens.ids:
            steps = self._logprobs([[*row, *label[:-1]] for row in rows], len(label), adapter)
            token_ids = torch.tensor(label, device=steps.device).expand(len(rows), -1).unsqueeze(2)
            columns.append(steps.gather(2, token_ids).squeeze(2).sum(1))
        return torch.stack(columns, dim=1).cpu().numpy()

    def _logprobs(self, rows: list[list[int]], steps: int, adapter: Adapter | None) -> "torch.Tensor":
        """Return log-probabilities over the vocabulary after the last ``steps`` tokens, [num_rows, steps, vocab]."""
        import torch

        ids, mask = self._padded(rows)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode(), self._adapted(adapter) as model:
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=steps
            )
        for row in rows:
            self._count(len(row), 1)
        return output.logits.float().log_softmax(-1)

    def reset_prefix_cache(self) -> None:
        """Do nothing: this engine has no prefix cache."""

    def close(self) -> None:
        """Release the memory. Idempotent."""
        import torch

        if self._is_inherited:
            return
        with engine_lock():
            self._model = None
            self._adapters.clear()
        gc.collect()
        torch.cuda.empty_cache()  # torch keeps freed GPU memory reserved, so other processes could not use it

    @contextmanager
    def _adapted(self, adapter: Adapter | None) -> Iterator[Any]:
        """Yield the model with ``adapter`` active, or the base model without adapters."""
        if adapter is not None:
            key = self._key(adapter)  # first, because it may wrap the model
            self._model.set_adapter(key)
            yield self._model
        elif self._adapters:
            with self._model.disable_adapter():
                yield self._model
        else:
            yield self._model

    def _key(self, adapter: Adapter) -> str:
        """Return the key of an adapter in PEFT, and load it on first use. Raises AdapterError if that fails."""
        if adapter.name not in self._adapters:
            from peft import PeftModel

            key = f"adapter{len(self._adapters)}"
            if not any(Path(adapter.path).glob("adapter_model.*")):  # PEFT would look up the folder on the hub
                raise AdapterError(
                    f"The adapter {adapter.path} has no weights (adapter_model.*). Copy it again completely."
                )
            try:
                with random_numbers_kept():  # PEFT initialises the weights randomly before it loads them
                    if self._adapters:
                        self._model.load_adapter(adapter.path, adapter_name=key)
                    else:
                        self._model = PeftModel.from_pretrained(self._model, adapter.path, adapter_name=key).eval()
            except (OSError, ValueError, RuntimeError) as error:
                raise AdapterError(
                    f"PEFT cannot load adapter {adapter.name!r} from {adapter.path}: {error}. It must be a LoRA "
                    f"adapter for {self.settings.model}."
                ) from error
            quick_output(self._model)
            self._adapters[adapter.name] = key
        return self._adapters[adapter.name]

    def _padded(self, rows: list[list[int]]) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return ids and mask, int64 [num_rows, longest], padded on the left so that all rows end together."""
        import torch

        longest = max(len(row) for row in rows)
        ids = torch.full((len(rows), longest), self._pad_id(), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, longest - len(row) :] = torch.tensor(row)
            mask[index, longest - len(row) :] = 1
        return ids.to(self._device), mask.to(self._device)

    def _pad_id(self) -> int:
        """Return a token for masked positions. Some tokenizers' padding token is not in the model's vocabulary."""
        pad = self._tokenizer.pad_token_id
        num_rows = self._model.get_input_embeddings().weight.shape[0]
        return pad if pad is not None and pad < num_rows else (self._tokenizer.eos_token_id or 0)


def quick_output(model: Any) -> None:
    """Keep the output layer's matrix product fast in a model that PEFT has frozen.

    For the last position, a slice, torch first copies the complete weight, unless the weight requires a gradient.
    The copy takes 37 ms of 70 for one text with SmolLM2-135M on two cores.
    """
    model.get_output_embeddings().weight.requires_grad_(True)


def _by_adapter(adapters: Sequence[Adapter | None]) -> list[tuple[Adapter | None, list[int]]]:
    """Group positions by adapter, in order of first use."""
    groups: dict[Adapter | None, list[int]] = {}
    for position, adapter in enumerate(adapters):
        groups.setdefault(adapter, []).append(position)
    return list(groups.items())


def _by_length(positions: Sequence[int], rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield ``positions`` in batches of at most `BATCH_ROWS` rows of similar length."""
    ordered = sorted(positions, key=lambda position: len(rows[position]))
    for start in range(0, len(ordered), BATCH_ROWS):
        yield ordered[start : start + BATCH_ROWS]
