"""Training of one student: from texts with a teacher's probabilities to a checkpoint that `transformers` can load."""

import copy
import math
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.collector import collector_paused
from fourshot.engine.machine.files import write_json
from fourshot.engine.machine.gpus import torch_device
from fourshot.training.students.encoders import by_length, encoded, last_linear, open_classifier, open_tokenizer
from fourshot.training.students.examples import StudentJob, StudentResult, TaughtExample
from fourshot.training.students.heads import (
    Taught,
    best_scale,
    cross_entropy,
    fit_head,
    logits_without_each,
    smoothed,
)
from fourshot.training.students.settings import StudentSettings
from fourshot.training.students.store import RESULT_FILE, OnStep, finished_in, save_checkpoint
from fourshot.training.students.windows import WINDOWS

if TYPE_CHECKING:
    import torch

MIN_CALIBRATION_TEXTS = 20  # held-out texts


def finished_student(store: Path, job: StudentJob) -> StudentResult | None:
    """Return the result of a job in ``store``, with its current path; None if it is not finished."""
    return finished_in(store / job.key, StudentResult)


def train_student(job: StudentJob, store: Path, on_step: OnStep = lambda *_: None) -> StudentResult:
    """Train ``job`` into ``store``/<key>/<name>-<content hash>; it is finished once its result.json is written.

    First the last layer is fitted to the encoder's original vectors, and then the encoder is trained. So its vectors
    are not distorted while gradients are still meaningless. Source: Kumar et al. 2022, "Fine-Tuning can Distort
    Pretrained Features and Underperform Out-of-Distribution", section 3.4 (linear probing, then fine-tuning).
    A GPU is used if there is one. The same job, machine and thread count give the same bytes on the CPU. Raises
    InputError for no texts, fewer than two labels, or invalid probabilities, and FourshotError if the loss is no longer
    a number.
    """
    with collector_paused():
        import torch
        from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # no warning that the head is newly initialised
    _check(job)
    settings = job.settings
    sure = [
        example for example in job.examples if example.is_real or max(example.probabilities) >= settings.min_confidence
    ]
    if not sure:
        raise InputError(
            f"The teacher is not sure enough of any text: none of {len(job.examples)} has a label with a probability "
            f"of at least {settings.min_confidence}. Lower student.min_confidence."
        )
    learnt, held_out = hold_out(sure, settings.held_out, job.seed)
    began_s = time.perf_counter()
    torch.manual_seed(job.seed)
    tokenizer = open_tokenizer(job.encoder)
    tokenizer.model_max_length = settings.max_tokens  # other tools truncate at this length
    model = open_classifier(job.encoder, job.labels, job.seed).to(torch_device())
    training = _Training(model, tokenizer, learnt, held_out, settings, job.seed)
    training.run(on_step)
    temperature, calibrated_on = training.scale()
    folder = store / job.key
    if settings.long_texts == "windows":
        setattr(model.config, WINDOWS, True)
    name = save_checkpoint(folder, job.name, model, tokenizer)
    result = StudentResult(
        name=name,
        path=str(folder / name),
        strategy=training.strategy,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        examples=len(learnt),
        left_out=len(job.examples) - len(sure),
        steps=len(training.losses),
        seconds=time.perf_counter() - began_s,
        losses=tuple(training.losses),
        held_out=len(held_out),
        held_out_losses=tuple(training.held_out_losses),
        held_out_agreement=training.agreement(),
        temperature=temperature,
        calibrated_on=calibrated_on,
    )
    write_json(folder / RESULT_FILE, result)
    return result


def hold_out(
    examples: Sequence[TaughtExample], share: float, seed: int
) -> tuple[list[TaughtExample], list[TaughtExample]]:
    """Split off a random ``share`` of the teacher's texts, which decides when to stop; return (learnt, held out)."""
    taught = [index for index, example in enumerate(examples) if not example.is_real]
    chosen = set(random.Random(f"{seed}/held out").sample(taught, int(len(taught) * share)))
    learnt = [example for index, example in enumerate(examples) if index not in chosen]
    return learnt, [examples[index] for index in sorted(chosen)]


def targets_of(examples: Sequence[TaughtExample], settings: StudentSettings) -> Taught:
    """Return the training target of each text, and its weight, one on average."""
    import torch

    taught = torch.tensor([example.probabilities for example in examples], dtype=torch.float32)
    real = torch.tensor([example.is_real for example in examples])
    num_labels = taught.shape[1]
    soft = taught.clamp_min(1e-9)
    if settings.temperature < 1:  # otherwise high powers of small probabilities would underflow to 0
        soft = soft / soft.max(1, keepdim=True).values
    soft = soft ** (1 / settings.temperature)
    soft = soft / soft.sum(1, keepdim=True)
    hard = torch.nn.functional.one_hot(taught.argmax(1), num_labels).float()
    soft = torch.where(real[:, None], taught, torch.lerp(soft, hard, settings.hard_share))
    weights = torch.ones(len(taught))
    if settings.weights == "confidence":
        weights = ((taught.max(1).values - 1 / num_labels) / (1 - 1 / num_labels)).clamp_min(1e-3)
    weights = torch.where(real, settings.real_weight, weights)
    if settings.balance:
        share = (soft * weights[:, None]).sum(0) / weights.sum()
        weights = weights * (soft / (num_labels * share.clamp_min(1e-3))).sum(1)
    return Taught(soft, weights / weights.mean())


class _Training:
    """The state of one training."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        learnt: Sequence[TaughtExample],
        held_out: Sequence[TaughtExample],
        settings: StudentSettings,
        seed: int,
    ) -> None:
        self._model, self._settings = model, settings
        self._tokens = partial(encoded, tokenizer, max_tokens=settings.max_tokens, device=model.device)
        self._texts, self._held_texts = [example.text for example in learnt], [example.text for example in held_out]
        self._taught = targets_of(learnt, settings).to(model.device)
        if held_out:
            self._held = targets_of(held_out, settings).to(model.device)
        self._is_real = [example.is_real for example in learnt]
        self._random = random.Random(seed)
        self._head = last_linear(model)
        self._head.register_forward_pre_hook(self._keep_input)
        self.strategy = settings.strategy_for(len(learnt) + len(held_out))
        self.losses: list[float] = []
        self.held_out_losses: list[float] = []

    def _keep_input(self, module: Any, inputs: Any) -> None:
        self._vectors = inputs[0]

    def run(self, on_step: OnStep) -> None:
        """Train, and load the weights with the lowest held-out loss, of the fitted head alone or after an epoch.

        Without held-out texts, the last weights stay. Raises FourshotError if the loss is no longer a number.
        """
        import torch

        self._fit_head()
        best = self._held_out_loss()
        if self.strategy == "head":
            return
        best_state = copy.deepcopy(self._model.state_dict()) if self._held_texts else {}
        settings = self._settings
        epochs = settings.planned_passes(len(self._texts))
        planned = epochs * math.ceil(len(self._texts) / settings.batch_size)
        head = list(self._head.parameters())
        body = [p for p in self._model.parameters() if p.requires_grad and not any(p is h for h in head)]
        groups = [{"params": body, "lr": settings.learning_rate}]
        if self.strategy == "plain":
            groups.append({"params": head, "lr": 20 * settings.learning_rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)  # takes a quarter of the time
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / (0.1 * planned)) * (1 - step / planned)
        )
        for _ in range(epochs):
            for batch in self._batches():
                loss = self._loss(batch)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(body, 1.0)
                optimizer.step()
                schedule.step()
                self.losses.append(float(loss.detach()))
                if self.losses[-1] != self.losses[-1]:
                    raise FourshotError(f"The loss is no longer a number at step {len(self.losses)}. Lower the rate.")
                on_step(len(self.losses), planned, self.losses[-1])
            if self.strategy == "geometric" and self._held_texts:
                self._fit_head()
            now = self._held_out_loss()
            if self._held_texts and now < best:
                best, best_state = now, copy.deepcopy(self._model.state_dict())
            elif self._held_texts and len(self.held_out_losses) > 2 and min(self.held_out_losses[-2:]) > best:
                break  # two epochs without improvement
        if self._held_texts:
            self._model.load_state_dict(best_state)
        elif self.strategy == "geometric":
            self._fit_head()

    def scale(self) -> tuple[float, str]:
        """Match the student's confidence to its teacher's; return the temperature, and what it was fitted on.

        A last layer fitted to few texts is regularised so strongly that it is far too unsure. The temperature is fitted
        to the training texts, because there are many more of them than held-out ones. With the strategy plain, the last
        layer is trained with the encoder, so held-out texts are used. If they are too few, or if there are only real
        texts and no teacher, the student is not changed, and 1.0 and "" are returned.
        """
        if self.strategy != "plain" and not all(self._is_real):
            taught = smoothed(self._taught, self._is_real)
            logits = logits_without_each(self._head, self._vectors_of_learnt(), self._taught)
            basis = f"{len(logits)} texts that it learnt, each asked of a last layer that was fitted without it"
        elif len(self._held_texts) >= MIN_CALIBRATION_TEXTS:
            logits, taught = self._outputs(self._held_texts, lambda logits: logits), self._held
            basis = f"{len(logits)} texts that it did not learn, to be as sure of them as its teacher"
        else:
            return 1.0, ""
        scale = best_scale(logits, taught)
        for parameter in self._head.parameters():
            parameter.data *= scale
        return 1 / scale, basis

    def _batches(self) -> list[list[int]]:
        """Return batches of text indices for one epoch, shuffled; the last batch may be smaller."""
        order = list(range(len(self._texts)))
        self._random.shuffle(order)
        size = self._settings.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _loss(self, batch: Sequence[int]) -> "torch.Tensor":
        import torch

        self._model.train()
        logits = self._model(**self._tokens([self._texts[i] for i in batch])).logits
        taught = self._taught.at(batch)
        if self.strategy == "plain":
            return cross_entropy(logits, taught)
        # The target for the similarity of two texts is the teacher's probability that both have the same class. This
        # extends SetFit's pairs of labelled texts to uncertain labels. Source: Tunstall et al. 2022, "Efficient
        # Few-Shot Learning Without Prompts", section 3.
        vectors = torch.nn.functional.normalize(self._vectors, dim=1)
        pairs = taught.weights[:, None] * taught.weights * (1 - torch.eye(len(batch), device=logits.device))
        unlike = (vectors @ vectors.T - taught.targets @ taught.targets.T) ** 2
        return (pairs * unlike).sum() / pairs.sum().clamp_min(1e-6)

    def _fit_head(self) -> None:
        """Fit the last layer to the current vectors of the training texts."""
        fit_head(self._head, self._vectors_of_learnt(), self._taught)

    def _vectors_of_learnt(self) -> "torch.Tensor":
        """Return the inputs [num_texts, size] of the last layer for the training texts."""
        return self._outputs(self._texts, lambda _: self._vectors)

    def _held_out_loss(self) -> float:
        """Return the cross-entropy with the teacher on held-out texts, in nats, and record it; 0 without such texts."""
        if not self._held_texts:
            return 0.0
        logits = self._outputs(self._held_texts, lambda logits: logits)
        self.held_out_losses.append(float(cross_entropy(logits, self._held)))
        return self.held_out_losses[-1]

    def agreement(self) -> float | None:
        """Return the share of held-out texts on which student and teacher predict the same label; None without any."""
        if not self._held_texts:
            return None
        labels = self._outputs(self._held_texts, lambda logits: logits).argmax(1)
        return float((labels == self._held.targets.argmax(1)).float().mean())

    def _outputs(self, texts: Sequence[str], of: "Callable[[torch.Tensor], torch.Tensor]") -> "torch.Tensor":
        import torch

        self._model.eval()
        with torch.no_grad():
            return by_length(self._tokens, texts, lambda batch: of(self._model(**batch).logits))


def _check(job: StudentJob) -> None:
    if len(job.labels) < 2:
        raise InputError(f"A classifier needs at least two labels, got {list(job.labels)}.")
    if not job.examples:
        raise InputError("There is nothing to train a student on. Give unlabelled texts, or have some generated.")
    for example in job.examples:
        taught = example.probabilities
        if len(taught) != len(job.labels) or min(taught) < 0 or abs(sum(taught) - 1) > 1e-3:
            raise InputError(
                f"A text has {len(job.labels)} probabilities, one per label, that sum to 1; got {list(taught)[:8]}."
            )
