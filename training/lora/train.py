"""LoRA training: from examples to an adapter folder that vLLM can load."""

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import UNSET

from fourshot.engine.checkpoints.loading import load_base
from fourshot.engine.core import Verbalizer
from fourshot.engine.errors import InputError
from fourshot.engine.labels import label_tokens
from fourshot.engine.machine.collector import collector_paused
from fourshot.engine.machine.gpus import torch_device
from fourshot.engine.probe import Probe
from fourshot.engine.tokens import load_tokenizer
from fourshot.training.lora.checkpoint import CHECKPOINT_S, Checkpoint
from fourshot.training.lora.examples import PROBE_TEXTS, OnStep, TrainingExample, TrainingResult
from fourshot.training.lora.fast import speed_up
from fourshot.training.lora.held_out import HeldOut
from fourshot.training.lora.label_loss import LabelLoss
from fourshot.training.lora.llama import LlamaDecoder, decoder_supports
from fourshot.training.lora.memory import check_base_fits
from fourshot.training.lora.optimize import Optimization
from fourshot.training.lora.precision import choose_precision
from fourshot.training.lora.saving import save_adapter
from fourshot.training.lora.settings import LoraSettings, rate_by_size
from fourshot.training.lora.share import ALL, BatchShare
from fourshot.training.lora.targets import lora_config
from fourshot.training.lora.written import check_written

LAYER = re.compile(r"(?:^|\.)(\d+)\.")  # the number of a decoder layer, in a weight's name


class LoraTrainer:
    """Trains one adapter after another on a frozen base model, which is loaded once for all of them."""

    def __init__(self, model: str | Path, share: BatchShare = ALL) -> None:
        """``model`` is a checkpoint folder; ``share`` is this process's share of each training."""
        with collector_paused():
            from transformers.utils import logging

        logging.disable_progress_bar()
        self.model_path, self.share = str(model), share
        self.device = torch_device()
        capability = torch.cuda.get_device_capability() if self.device == "cuda" else None
        self.precision = choose_precision(capability)
        check_base_fits(model, self.device, getattr(torch, self.precision.base).itemsize)
        self.tokenizer = load_tokenizer(model)
        # On the CPU, the backward pass of fused attention takes seven times as long as plain products at these lengths.
        self._base = load_base(
            self.model_path,
            dtype=getattr(torch, self.precision.base),
            attn_implementation="sdpa" if self.device == "cuda" else "eager",
            # Weights are read directly to the GPU: in several processes they could fill this machine's memory.
            device_map={"": self.device} if self.device == "cuda" else None,
        )
        self._base.requires_grad_(False)

    def train(
        self,
        examples: Sequence[TrainingExample],
        labels: Sequence[str],
        settings: LoraSettings,
        out_dir: str | Path,
        *,
        seed: int = 0,
        prefix: str = "adapter",
        on_step: OnStep | None = None,
        checkpoint: Path | None = None,
        checkpoint_s: float = CHECKPOINT_S,
        held_out: Sequence[TrainingExample] = (),
        verbalizer: Verbalizer = "word",
    ) -> TrainingResult:
        """Train an adapter and save it as ``out_dir``/<prefix>-<content hash>.

        ``labels``: as in `engine.core.Engine.score`; empty if the examples have written continuations instead. The same
        examples, settings, seed, machine and thread count give the same bytes. With ``checkpoint``, a file, the state
        is saved there every ``checkpoint_s`` seconds. A training that finds this file continues from it, to the same
        bytes, and removes it at the end. With ``held_out`` examples, the weights of the epoch with the lowest loss on
        them are saved. Raises InputError for no examples or a target that is no label, and FourshotError if the loss is
        no longer a number.
        """
        _check(examples, held_out, labels)
        settings = self._with_rate(settings)
        tokens = label_tokens(self.tokenizer, labels, verbalizer) if labels else None
        with self._adapted(settings, seed) as (wrapped, decoder):
            unfinished = Checkpoint(checkpoint, checkpoint_s) if checkpoint else None
            loss_of = LabelLoss(
                self.tokenizer,
                wrapped,
                [*examples, *held_out],
                tokens,
                whole_text=settings.loss == "text",
                smoothing=settings.label_smoothing,
                decoder=decoder,
            )
            unseen = HeldOut(wrapped, loss_of, len(examples), [example.target for example in held_out])
            size, scaling = (len(examples), len(labels)), self.precision.loss_scaling
            run = Optimization(loss_of, unseen, *size, settings, seed, self.share, loss_scaling=scaling)
            wrapped.train()
            run.run(on_step, unfinished)
            wrapped.eval()
            probe = _probe(loss_of, examples, labels, verbalizer) if labels else None
            if decoder:
                decoder.write_back()
            name, path = save_adapter(wrapped, Path(out_dir), prefix) if self.share.is_main else ("", Path())
            if unfinished and self.share.is_main:
                unfinished.remove()
            states = loss_of.frozen_states
            flops = operations(wrapped, run.num_tokens, states.num_tokens if states else run.num_tokens)
        return run.result(name, path, probe, float(flops))

    def _with_rate(self, settings: LoraSettings) -> LoraSettings:
        """Return ``settings`` with a learning rate; if it is 0, the rate for the size of the base model."""
        if settings.learning_rate:
            return settings
        size = sum(parameter.numel() for parameter in self._base.parameters())
        return msgspec.structs.replace(settings, learning_rate=rate_by_size(size))

    @contextmanager
    def _adapted(self, settings: LoraSettings, seed: int) -> Iterator[tuple[Any, LlamaDecoder | None]]:
        """Yield the base model in PEFT with a new adapter, and its `LlamaDecoder`, or None for models without one.

        The adapter is removed at the end. ``seed`` determines all random numbers of the training.
        """
        with collector_paused():
            from peft import get_peft_model

        num_layers = self._base.config.get_text_config().num_hidden_layers
        config = lora_config(self.model_path, num_layers, settings)
        random.seed(seed)
        torch.manual_seed(seed)
        wrapped = get_peft_model(self._base, config, autocast_adapter_dtype=False)
        try:
            decoder = LlamaDecoder(wrapped) if decoder_supports(wrapped) else None
            if decoder is None:
                speed_up(wrapped)
            yield wrapped, decoder
        finally:
            wrapped.unload()


def _probe(
    loss_of: LabelLoss, examples: Sequence[TrainingExample], labels: Sequence[str], verbalizer: Verbalizer
) -> Probe:
    """Return the trainer's label probabilities for up to `PROBE_TEXTS` examples, evenly spaced over ``examples``."""
    count = min(PROBE_TEXTS, len(examples))
    chosen = [index * len(examples) // count for index in range(count)]
    answers = loss_of.probabilities(chosen).tolist()
    return Probe(
        prompts=tuple(examples[index].prompt for index in chosen),
        labels=tuple(labels),
        verbalizer=verbalizer,
        probabilities=tuple(tuple(round(value, 6) for value in row) for row in answers),
    )


def operations(wrapped: Any, num_tokens: int, tokens_below: int) -> int:
    """Return the number of operations of a training, by the rule in docs/training.md.

    ``num_tokens`` passed forward and backward; ``tokens_below`` passed forward through the layers below the adapter. A
    frozen weight takes 2 operations per token in each direction, and an adapter weight takes 6. The adapter must be in
    ``wrapped``, so that its weights are counted.
    """
    first = (wrapped.active_peft_config.layers_to_transform or [0])[0]
    decoder = wrapped.get_base_model().get_decoder()
    embeddings = {id(parameter) for parameter in decoder.get_input_embeddings().parameters()}
    frozen = below = adapted = 0
    for name, parameter in decoder.named_parameters():
        number = LAYER.search(name)
        if parameter.requires_grad:
            adapted += parameter.numel()
        elif number and int(number[1]) < first:
            below += parameter.numel()
        elif id(parameter) not in embeddings:
            frozen += parameter.numel()
    return num_tokens * (4 * frozen + 6 * adapted) + tokens_below * 2 * below


def _check(examples: Sequence[TrainingExample], held_out: Sequence[TrainingExample], labels: Sequence[str]) -> None:
    if not examples:
        raise InputError("There is nothing to train on: no examples. Give at least one per label.")
    if not labels:
        if held_out:
            raise InputError(
                "Held-out examples choose the epoch by the labels' loss, but there are no labels. Leave them out."
            )
        check_written(examples)
        return
    shown = [label.target for example in examples if example.shown is not UNSET for label in example.shown]
    targets = [*(example.target for example in (*examples, *held_out)), *shown]
    wrong = [target for target in targets if not 0 <= target < len(labels)]
    if wrong:
        raise InputError(
            f"Targets must be indices of the {len(labels)} labels, 0 to {len(labels) - 1}; got {wrong[:5]}."
        )
    for example in (*examples, *held_out):
        if example.soft is not UNSET and (
            len(example.soft) != len(labels) or min(example.soft) < 0 or abs(sum(example.soft) - 1) > 1e-3
        ):
            raise InputError(
                f"Soft targets must be {len(labels)} probabilities, one per label, that sum to 1; got "
                f"{list(example.soft)[:8]}."
            )
    if len(labels) < 2:
        raise InputError(f"A classifier needs at least two labels, got {list(labels)}.")
