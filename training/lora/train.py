"""One LoRA training: examples in, an adapter folder that vLLM loads out."""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.labels import label_tokens
from fourshot.engine.probe import Probe
from fourshot.engine.tokens import load_tokenizer
from fourshot.training.jobs.jobs import OnStep
from fourshot.training.lora.checkpoint import CHECKPOINT_S, Checkpoint
from fourshot.training.lora.data_parallel import ALL, Share
from fourshot.training.lora.examples import TrainingExample, TrainingResult
from fourshot.training.lora.held_out import HeldOut
from fourshot.training.lora.label_loss import LabelLoss
from fourshot.training.lora.memory import check_base_fits
from fourshot.training.lora.precision import choose_precision
from fourshot.training.lora.saving import save_adapter
from fourshot.training.lora.settings import LoraSettings

if TYPE_CHECKING:
    from fourshot.training.lora.llama import LlamaDecoder

PROBE_TEXTS = 10
GRADIENT_NORM = 1.0  # gradients are clipped to this norm


class LoraTrainer:
    """A frozen base model that trains one adapter after another, so that the base is loaded once for all of them."""

    def __init__(self, model: str | Path, share: Share = ALL) -> None:
        """``model`` is a checkpoint folder; ``share`` what this process does of each training."""
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.model_path, self.share = str(model), share
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        capability = torch.cuda.get_device_capability() if self.device == "cuda" else None
        self.precision = choose_precision("cuda" if capability else "cpu", capability)
        check_base_fits(model, self.device)
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
        seed: int = 0,
        prefix: str = "adapter",
        on_step: OnStep | None = None,
        checkpoint: Path | None = None,
        checkpoint_s: float = CHECKPOINT_S,
        held_out: Sequence[TrainingExample] = (),
    ) -> TrainingResult:
        """Train and save under ``out_dir``/<prefix>-<content hash>. Label words as in `engine.core.Engine.score`.

        Same examples, settings, seed, machine and thread count give the same bytes. With ``checkpoint``, a file, the
        state goes there every ``checkpoint_s`` seconds; a training that finds one there goes on from it, to the same
        bytes, and removes it at the end. With ``held_out`` examples, the weights of the pass that did best on those
        are saved. Raises InputError for no examples or a target that is no label, FourshotError where the loss is no
        longer a number.
        """
        import torch
        from peft import LoraConfig, get_peft_model

        from fourshot.training.lora.fast import speed_up
        from fourshot.training.lora.llama import LlamaDecoder, fits

        _check(examples, held_out, labels)
        tokens = label_tokens(self.tokenizer, labels)
        random.seed(seed)
        torch.manual_seed(seed)
        config = LoraConfig(
            r=settings.r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=list(settings.target_modules),
            task_type="CAUSAL_LM",
        )
        wrapped = get_peft_model(self._base, config, autocast_adapter_dtype=False)
        decoder = LlamaDecoder(wrapped) if fits(wrapped) else None
        if decoder is None:
            speed_up(wrapped)
        try:
            saved = Checkpoint(checkpoint, checkpoint_s) if checkpoint else None
            loss_of = LabelLoss(
                self.tokenizer,
                wrapped,
                [*examples, *held_out],
                tokens,
                whole_text=settings.loss == "text",
                decoder=decoder,
            )
            targets = [example.target for example in held_out]
            losses, num_tokens, planned, seconds, unseen = self._loop(
                wrapped, decoder, loss_of, len(examples), targets, settings, seed, on_step, saved
            )
            wrapped.eval()
            probe = _probe(loss_of, examples, labels)
            if decoder:
                decoder.write_back()
            name, path = ("", Path()) if self.share.rank else save_adapter(wrapped, Path(out_dir), prefix)
            if saved and not self.share.rank:
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
            flops=float(num_tokens * flops_per_token(wrapped)),
            probe=probe,
            held_out_losses=tuple(unseen.curve),
            best_step=unseen.best_step or len(losses),
        )

    def _loop(
        self,
        wrapped: Any,
        decoder: "LlamaDecoder | None",
        loss_of: LabelLoss,
        num_examples: int,
        unseen_targets: Sequence[int],
        settings: LoraSettings,
        seed: int,
        on_step: OnStep | None,
        checkpoint: Checkpoint | None,
    ) -> tuple[list[float], int, int, float, HeldOut]:
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
        planned = settings.planned_steps(num_examples)
        order = _Order(num_examples, settings.batch_size, seed)
        losses: list[float] = []
        label_losses: list[float] = []  # a text keeps being surprising; whether the task is learnt shows on the label
        held = range(num_examples, num_examples + len(unseen_targets))
        unseen = HeldOut(wrapped, loss_of, held, unseen_targets, masters)
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
            unseen.load(state["held_out"])
            for _ in range(first):
                order.next_batch()
        for step in range(first, planned):
            rate = settings.learning_rate * _schedule(step, planned, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            mine = loss_of.backward(order.next_batch(), scaler, self.share)
            for master, weight in zip(masters, weights, strict=True):
                master.grad = torch.zeros_like(master) if weight.grad is None else weight.grad.float()
                weight.grad = None
            loss, label_loss, used = self.share.add_up([master.grad for master in masters], mine)
            num_tokens += int(used)
            if loss != loss:
                raise _diverged("The loss is", step + 1, planned, settings)
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
            if (step + 1) % order.batches_per_pass == 0 or step + 1 == planned:
                unseen.look(step + 1)
            if _converged(label_losses, order.batches_per_pass, settings.converged_loss):
                break
            if checkpoint and checkpoint.is_due() and not self.share.rank:
                checkpoint.save(
                    {
                        "masters": masters,
                        "optimizer": optimizer.state_dict(),
                        "scaler": scaler.state_dict(),
                        "random": torch.get_rng_state(),
                        "losses": losses,
                        "label_losses": label_losses,
                        "held_out": unseen.state(),
                        "num_tokens": num_tokens,
                        "seconds": time.perf_counter() - started,
                    }
                )
        unseen.restore()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)
        if not all(bool(torch.isfinite(master).all()) for master in masters):  # no loss was taken after the last step
            raise _diverged("The weights are", len(losses), planned, settings)
        return losses, num_tokens, planned, time.perf_counter() - started, unseen


def _probe(loss_of: LabelLoss, examples: Sequence[TrainingExample], labels: Sequence[str]) -> Probe:
    """What the trainer answers on examples from the whole list, with its labels in turn."""
    count = min(PROBE_TEXTS, len(examples))
    chosen = [index * len(examples) // count for index in range(count)]
    answers = loss_of.probabilities(chosen).tolist()
    return Probe(
        prompts=tuple(examples[index].prompt for index in chosen),
        labels=tuple(labels),
        probabilities=tuple(tuple(round(value, 6) for value in row) for row in answers),
    )


def flops_per_token(wrapped: Any) -> int:
    """Of one token through a frozen decoder with adapters, forward and backward (docs/training.md)."""
    decoder = wrapped.get_base_model().get_decoder()
    embeddings = {id(parameter) for parameter in decoder.get_input_embeddings().parameters()}
    frozen = sum(p.numel() for p in decoder.parameters() if not p.requires_grad and id(p) not in embeddings)
    adapted = sum(p.numel() for p in decoder.parameters() if p.requires_grad)
    return 4 * frozen + 6 * adapted


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


def _check(examples: Sequence[TrainingExample], held_out: Sequence[TrainingExample], labels: Sequence[str]) -> None:
    if not examples:
        raise InputError("There is nothing to train on: no examples. Give at least one per label.")
    wrong = [example.target for example in (*examples, *held_out) if not 0 <= example.target < len(labels)]
    if wrong:
        raise InputError(
            f"Targets must be indices of the {len(labels)} labels, 0 to {len(labels) - 1}; got {wrong[:5]}."
        )
    if len(labels) < 2:
        raise InputError(f"A classifier needs at least two labels, got {list(labels)}.")
