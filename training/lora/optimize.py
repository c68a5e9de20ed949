"""The steps of one training, with its state: the adapter's weights, the optimizer, random numbers, and losses."""

import time
from pathlib import Path
from typing import Any

import torch

from fourshot.engine.errors import FourshotError
from fourshot.engine.probe import Probe
from fourshot.training.lora.checkpoint import Checkpoint
from fourshot.training.lora.examples import OnStep, TrainingResult
from fourshot.training.lora.held_out import HeldOut
from fourshot.training.lora.label_loss import LabelLoss
from fourshot.training.lora.schedule import Batches, has_converged, learning_rate
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.share import BatchShare

GRADIENT_NORM = 1.0  # gradients are clipped to this norm
# Losses are multiplied by this in float16. A step whose gradients overflow (65,504) is skipped. A training has only
# tens of steps: too few to halve torch's 65,536 repeatedly, or for a scale that grows after 2,000 steps. The largest
# gradient of the bundled model was 1.2, with every text labelled wrong. Gradients 50 times as large are within range,
# and those of 6e-11 are not rounded to zero.
LOSS_SCALE = 2.0**10


class Optimization:
    """AdamW on the parameters of ``loss_of``."""

    def __init__(
        self,
        loss_of: LabelLoss,
        held_out: HeldOut,
        num_examples: int,
        num_labels: int,
        settings: LoraSettings,
        seed: int,
        share: BatchShare,
        *,
        loss_scaling: bool,
    ) -> None:
        self._started = time.perf_counter()
        self._loss_of, self._settings, self._share, self.held_out = loss_of, settings, share, held_out
        self._weights, self._device = loss_of.parameters, loss_of.device
        self._is_on_gpu = self._device.startswith("cuda")
        # Updates of this size would be lost in bfloat16, so the optimizer has float32 copies.
        self._masters = [weight.detach().float() for weight in self._weights]
        self._adamw = torch.optim.AdamW(
            self._masters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        kind = torch.device(self._device).type
        self._scaler = torch.amp.GradScaler(kind, init_scale=LOSS_SCALE, enabled=loss_scaling)
        self._batches = Batches(num_examples, settings.batch_size, seed)
        self.planned = settings.planned_steps(num_examples, num_labels)
        self.losses: list[float] = []  # one per step, nats
        self._label_losses: list[float] = []  # convergence is judged by these; the loss on a text never reaches zero
        self.num_tokens = 0
        self._num_examples, self._seconds = num_examples, 0.0

    def run(self, on_step: OnStep | None, checkpoint: Checkpoint | None) -> None:
        """Run the planned steps, or the remaining ones after a checkpoint; fewer if the loss converges.

        Raises FourshotError if the loss or the weights are not numbers.
        """
        state = checkpoint.load() if checkpoint else None
        # Earlier builds may have stored the same adapter in other tensors; then the training starts over.
        if state and [master.shape for master in state["masters"]] == [master.shape for master in self._masters]:
            self._load(state)
        for step in range(len(self.losses), self.planned):
            self._step(step)
            if on_step:
                on_step(step + 1, self.planned, self.losses[-1])
            if (step + 1) % self._batches.per_pass == 0 or step + 1 == self.planned:
                self.held_out.evaluate(step + 1, self._masters)
            if has_converged(self._label_losses, self._batches.per_pass, self._settings):
                break
            if checkpoint and checkpoint.is_due() and self._share.is_main:
                checkpoint.save(self._state())
        self.held_out.restore(self._masters)
        self._publish()
        # No loss was computed after the last step, so the weights are checked themselves.
        if not all(bool(torch.isfinite(master).all()) for master in self._masters):
            raise self._diverged("The weights are", len(self.losses))
        self._seconds = time.perf_counter() - self._started

    def result(self, name: str, path: Path, probe: Probe | None, flops: float) -> TrainingResult:
        """Return the result of `run`, for the adapter ``name`` saved at ``path``."""
        num_steps = len(self.losses)
        return TrainingResult(
            name=name,
            path=str(path),
            steps=num_steps,
            planned_steps=self.planned,
            losses=tuple(self.losses),
            tokens=self.num_tokens,
            seconds=self._seconds,
            examples=self._num_examples,
            flops=flops,
            probe=probe,
            held_out_losses=tuple(self.held_out.curve),
            learning_rate=self._settings.learning_rate,
            best_step=self.held_out.best_step or num_steps,
        )

    def _step(self, step: int) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate(step, self.planned, self._settings)
        sums = self._loss_of.backward(self._batches.next(), self._scaler, self._share)
        for master, weight in zip(self._masters, self._weights, strict=True):
            master.grad = torch.zeros_like(master) if weight.grad is None else weight.grad.float()
            weight.grad = None
        gradients = [master.grad for master in self._masters if master.grad is not None]
        loss, label_loss, num_tokens = self._share.all_reduce(gradients, sums)
        self.num_tokens += int(num_tokens)
        if loss != loss:
            raise self._diverged("The loss is", step + 1)
        self._scaler.unscale_(self._adamw)
        torch.nn.utils.clip_grad_norm_(self._masters, GRADIENT_NORM)
        self._scaler.step(self._adamw)
        self._scaler.update()
        self._publish()
        self.losses.append(loss)
        self._label_losses.append(label_loss)

    def _publish(self) -> None:
        """Copy the current weights to the model."""
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._masters)

    def _state(self) -> dict[str, Any]:
        return {
            "masters": self._masters,
            "optimizer": self._adamw.state_dict(),
            "scaler": self._scaler.state_dict(),
            "random": torch.get_rng_state(),
            # For dropout. Only of the GPU that trains, because a later start may see fewer other GPUs.
            "random_gpu": torch.cuda.get_rng_state(self._device) if self._is_on_gpu else None,
            "losses": self.losses,
            "label_losses": self._label_losses,
            "held_out": self.held_out.state(),
            "num_tokens": self.num_tokens,
            "seconds": time.perf_counter() - self._started,
        }

    def _load(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._masters, state["masters"])
        self._publish()
        self._adamw.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if self._is_on_gpu and state.get("random_gpu") is not None:
            torch.cuda.set_rng_state(state["random_gpu"], self._device)
        self.losses, self._label_losses, self.num_tokens = state["losses"], state["label_losses"], state["num_tokens"]
        self._started -= state["seconds"]
        self.held_out.load(state["held_out"])
        for _ in self.losses:
            self._batches.next()

    def _diverged(self, subject: str, step: int) -> FourshotError:
        fault = f"{subject} not a number at step {step} of {self.planned}. Nothing was saved."
        if not self.losses:
            return FourshotError(
                f"{fault} Nothing was learnt before, so the base or a text is at fault: look for weights that are not "
                "numbers (copy or fetch the base again) and for garbled texts."
            )
        return FourshotError(
            f"{fault} Lower learning_rate (it is {self._settings.learning_rate}) or look for garbled texts."
        )
