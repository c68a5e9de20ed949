"""One LoRA training: examples in, an adapter folder that vLLM loads out."""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import FourshotError, InputError
from engine.labels import LabelTokens, label_tokens
from engine.tokens import encode_prompts, load_tokenizer
from training.checkpoint import CHECKPOINT_S, Checkpoint
from training.examples import TrainingExample, TrainingResult
from training.packing import PackedRow, micro_batches, pack, shared_prefix_length
from training.precision import choose_precision
from training.saving import save_adapter
from training.settings import LoraSettings

if TYPE_CHECKING:
    import torch

    from training.llama import LlamaDecoder

MOST_ROW_TOKENS = 2048  # attention inside a packed row grows with its square
GRADIENT_NORM = 1.0  # gradients are clipped to this norm

OnStep = Callable[[int, int, float], None]  # step, planned steps, loss


class LoraTrainer:
    """A frozen base model that trains one adapter after another, so that the base is loaded once for all of them."""

    def __init__(self, model: str | Path) -> None:
        """``model`` is a checkpoint folder."""
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.model_path = str(model)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        capability = torch.cuda.get_device_capability() if self.device == "cuda" else None
        self.precision = choose_precision("cuda" if capability else "cpu", capability)
        self.tokenizer = load_tokenizer(model)
        # On the CPU the fused attention's backward pass takes seven times as long as plain products at these lengths.
        self._base = AutoModelForCausalLM.from_pretrained(
            self.model_path,
            dtype=getattr(torch, self.precision.base),
            attn_implementation="sdpa" if self.device == "cuda" else "eager",
        ).to(self.device)
        self._base.requires_grad_(False)

    def train(
        self,
        examples: Sequence[TrainingExample],
        labels: Sequence[str],
        settings: LoraSettings,
        out_dir: str | Path,
        *,
        prefix: str = "adapter",
        on_step: OnStep | None = None,
        checkpoint: Path | None = None,
        checkpoint_s: float = CHECKPOINT_S,
    ) -> TrainingResult:
        """Train and save under ``out_dir``/<prefix>-<content hash>. Label words as in `engine.core.Engine.score`.

        Same examples, settings, machine and thread count give the same bytes. With ``checkpoint``, a file, the state
        goes there every ``checkpoint_s`` seconds; a training that finds one there goes on from it, to the same bytes,
        and removes it at the end. Raises InputError for no examples or a
        target that is no label, FourshotError where the loss is no longer a number.
        """
        import torch
        from peft import LoraConfig, get_peft_model

        from training.fast import speed_up
        from training.llama import LlamaDecoder, fits

        _check(examples, labels)
        tokens = label_tokens(self.tokenizer, labels)
        random.seed(settings.seed)
        torch.manual_seed(settings.seed)
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.target_modules),
            task_type="CAUSAL_LM",
        )
        wrapped = get_peft_model(self._base, config, autocast_adapter_dtype=False)
        decoder = LlamaDecoder(wrapped) if fits(wrapped) else None
        if decoder is None:
            speed_up(wrapped)
        try:
            saved = Checkpoint(checkpoint, checkpoint_s) if checkpoint else None
            losses, num_tokens, planned, seconds = self._loop(
                wrapped, decoder, examples, tokens, settings, on_step, saved
            )
            if decoder:
                decoder.write_back()
            name, path = save_adapter(wrapped, Path(out_dir), prefix)
            if saved:
                saved.remove()
        finally:
            wrapped.unload()
        return TrainingResult(
            name=name,
            path=str(path),
            steps=len(losses),
            planned_steps=planned,
            losses=tuple(losses),
            tokens=num_tokens,
            seconds=seconds,
            examples=len(examples),
        )

    def _loop(
        self,
        wrapped: Any,
        decoder: "LlamaDecoder | None",
        examples: Sequence[TrainingExample],
        tokens: LabelTokens,
        settings: LoraSettings,
        on_step: OnStep | None,
        checkpoint: Checkpoint | None,
    ) -> tuple[list[float], int, int, float]:
        import torch

        started = time.perf_counter()

        wrapped.train()
        weights = (
            decoder.parameters()
            if decoder
            else [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
        )
        # Steps of this size vanish in bfloat16, so the optimizer owns float32 copies.
        masters = [weight.detach().float() for weight in weights]
        optimizer = torch.optim.AdamW(
            masters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=self.device == "cpu"
        )
        scaler = torch.amp.GradScaler(self.device, enabled=self.precision.loss_scaling)
        loss_of = _LabelLoss(self, wrapped, examples, tokens, whole_text=settings.loss == "text", decoder=decoder)
        planned = settings.planned_steps(len(examples))
        order = _Order(len(examples), settings.batch_size, settings.seed)
        losses: list[float] = []
        label_losses: list[float] = []  # a text keeps being surprising; whether the task is learnt shows on the label
        num_tokens, first = 0, 0
        if checkpoint and (state := checkpoint.load()):
            with torch.no_grad():
                torch._foreach_copy_(masters, state["masters"])
                torch._foreach_copy_(weights, masters)
            optimizer.load_state_dict(state["optimizer"])
            scaler.load_state_dict(state["scaler"])
            torch.set_rng_state(state["random"])
            losses, label_losses = state["losses"], state["label_losses"]
            num_tokens, first = state["num_tokens"], len(losses)
            started -= state["seconds"]
            for _ in range(first):
                order.next_batch()
        for step in range(first, planned):
            rate = settings.learning_rate * _schedule(step, planned, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, label_loss, used = loss_of.backward(order.next_batch(), scaler)
            num_tokens += used
            if loss != loss:
                raise _diverged("The loss is", step + 1, planned, settings)
            for master, weight in zip(masters, weights, strict=True):
                master.grad = weight.grad.float()
                weight.grad = None
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(masters, GRADIENT_NORM)
            scaler.step(optimizer)
            scaler.update()
            with torch.no_grad():
                torch._foreach_copy_(weights, masters)
            losses.append(loss)
            label_losses.append(label_loss)
            if on_step:
                on_step(step + 1, planned, loss)
            if _converged(label_losses, order.batches_per_pass, settings.converged_loss):
                break
            if checkpoint and checkpoint.is_due():
                checkpoint.save(
                    {
                        "masters": masters,
                        "optimizer": optimizer.state_dict(),
                        "scaler": scaler.state_dict(),
                        "random": torch.get_rng_state(),
                        "losses": losses,
                        "label_losses": label_losses,
                        "num_tokens": num_tokens,
                        "seconds": time.perf_counter() - started,
                    }
                )
        if not all(bool(torch.isfinite(master).all()) for master in masters):  # no loss was taken after the last step
            raise _diverged("The weights are", len(losses), planned, settings)
        return losses, num_tokens, planned, time.perf_counter() - started


class _LabelLoss:
    """Mean cross-entropy of a batch, and its gradients: through ``decoder`` where there is one, else ``wrapped``."""

    def __init__(
        self,
        trainer: LoraTrainer,
        wrapped: Any,
        examples: Sequence[TrainingExample],
        tokens: LabelTokens,
        *,
        whole_text: bool,
        decoder: "LlamaDecoder | None" = None,
    ) -> None:
        import torch

        self._device = trainer.device
        self._dtype = getattr(torch, trainer.precision.base)
        model = wrapped.get_base_model()
        self._written_out, self._decoder, self._head = decoder, model.get_decoder(), model.get_output_embeddings()
        self._whole_text = whole_text
        self._weights = [example.weight for example in examples]
        prompts = encode_prompts(trainer.tokenizer, [example.prompt for example in examples])
        answers = [tokens.ids[example.target] for example in examples]
        # The last token of the label is predicted, never read.
        sequences = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
        shared = 0 if whole_text else shared_prefix_length(prompts)
        self._prefix = sequences[0][:shared]
        self._tails = [sequence[shared:] for sequence in sequences]
        self._answers = answers
        # One softmax over the labels where one token tells them apart: it is what scoring compares. Words of several
        # tokens are scored by whole-vocabulary probabilities at every step, so they are trained on those.
        self._choices = torch.tensor([label[0] for label in tokens.ids], device=self._device) if tokens.single else None
        self._targets = [example.target for example in examples]

    def backward(self, batch: Sequence[int], scaler: "torch.amp.GradScaler") -> tuple[float, float, int]:
        """Accumulate the gradients of the batch's mean loss.

        Returns that loss, its part on label tokens (both nats, means over the batch) and the number of tokens computed.
        """
        import torch

        total_weight = sum(self._weights[index] for index in batch)
        lengths = [len(self._tails[index]) for index in batch]
        loss_value, label_value, num_tokens = 0.0, 0.0, 0
        for run in micro_batches(lengths, len(self._prefix), MOST_ROW_TOKENS):
            chosen = [batch[position] for position in run]
            row = pack(self._prefix, [self._tails[index] for index in chosen], self._device)
            hidden = self._hidden(row)
            positions, targets, weights, label_weights = self._aims(chosen, row.starts)
            logits = self._logits(hidden[positions])
            each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            loss = (each * weights).sum() / total_weight
            scaler.scale(loss).backward()
            loss_value += float(loss.detach())
            label_value += float((each.detach() * label_weights).sum() / total_weight)
            num_tokens += row.input_ids.shape[1]
        return loss_value, label_value, num_tokens

    def _hidden(self, row: PackedRow) -> "torch.Tensor":
        """Last hidden states [T, hidden_size] of the T tokens of the row."""
        if self._written_out:
            return self._written_out(row)
        output = self._decoder(
            input_ids=row.input_ids,
            position_ids=row.position_ids,
            attention_mask=row.mask(self._dtype),
            use_cache=False,
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def _logits(self, hidden: "torch.Tensor") -> "torch.Tensor":
        """Float32 logits [num_positions, num_labels or vocabulary] of hidden states [num_positions, hidden_size]."""
        if self._choices is None or self._whole_text:
            return self._head(hidden).float()
        import torch

        return torch.nn.functional.linear(hidden, self._head.weight[self._choices]).float()

    def _aims(
        self, chosen: Sequence[int], starts: Sequence[int]
    ) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor", "torch.Tensor"]:
        """Where in the row something is predicted, what, how much it counts, and how much as a label token.

        Each [num_positions]; both kinds of weights of one text sum to the text's weight.
        """
        import torch

        positions: list[int] = []
        targets: list[int] = []
        weights: list[float] = []
        label_weights: list[float] = []
        for index, start in zip(chosen, starts, strict=True):
            tail, answer, weight = self._tails[index], self._answers[index], self._weights[index]
            last = start + len(tail) - len(answer)  # the prompt's last token: it predicts the label's first
            if self._whole_text:
                at, said = range(start, start + len(tail)), [*tail[1:], answer[-1]]
            else:
                at = range(last, last + len(answer))
                said = [self._targets[index]] if self._choices is not None else list(answer)
            positions.extend(at)
            targets.extend(said)
            weights.extend([weight / len(said)] * len(said))
            label_weights.extend(weight / len(answer) if position >= last else 0.0 for position in at)
        place = self._device
        return (
            torch.tensor(positions, device=place),
            torch.tensor(targets, device=place),
            torch.tensor(weights, device=place),
            torch.tensor(label_weights, device=place),
        )


class _Order:
    """Batches of example indices: every pass shuffled anew, the leftover of a pass goes on into the next."""

    def __init__(self, num_examples: int, batch_size: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._all = list(range(num_examples))
        self._queue: list[int] = []
        self._batch_size = min(batch_size, num_examples)
        self.batches_per_pass = -(-num_examples // self._batch_size)

    def next_batch(self) -> list[int]:
        while len(self._queue) < self._batch_size:
            self._random.shuffle(self._all)
            self._queue.extend(self._all)
        batch, self._queue = self._queue[: self._batch_size], self._queue[self._batch_size :]
        return batch


def _schedule(step: int, planned: int, settings: LoraSettings) -> float:
    """Factor on the learning rate: linear warm-up, then linear decay to zero where that is asked for."""
    warm = min(1.0, (step + 1) / max(1.0, settings.warmup * planned))
    return warm * (1 - step / planned) if settings.decay else warm


def _diverged(what: str, step: int, planned: int, settings: LoraSettings) -> FourshotError:
    return FourshotError(
        f"{what} not a number at step {step} of {planned}. Nothing was saved. Lower learning_rate "
        f"(it is {settings.learning_rate}) or look for texts that are not text."
    )


def _converged(losses: Sequence[float], per_pass: int, bound: float) -> bool:
    """Whether the label loss of the last whole pass, and of at least five steps, is below ``bound`` on average."""
    window = max(5, per_pass)
    return bound > 0 and len(losses) >= window and sum(losses[-window:]) / window < bound


def _check(examples: Sequence[TrainingExample], labels: Sequence[str]) -> None:
    if not examples:
        raise InputError("There is nothing to train on: no examples. Give at least one per label.")
    wrong = [example.target for example in examples if not 0 <= example.target < len(labels)]
    if wrong:
        raise InputError(
            f"Targets must be indices of the {len(labels)} labels, 0 to {len(labels) - 1}; got {wrong[:5]}."
        )
    if len(labels) < 2:
        raise InputError(f"A classifier needs at least two labels, got {list(labels)}.")
