"""Training and generation of a sequence-to-sequence student, such as BART or T5, from texts with targets."""

import copy
import hashlib
import random
import threading
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.collector import collector_paused
from fourshot.engine.machine.files import write_json
from fourshot.engine.machine.gpus import torch_device
from fourshot.training.students.settings import TextStudentSettings
from fourshot.training.students.store import RESULT_FILE, OnStep, finished_in, save_checkpoint

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig

EPOCHS, BATCH = 10.0, 8
# Source: documentation of transformers, T5: "1e-4 and 3e-4 work well for most problems"; Lewis et al. 2020 (BART) and
# most later work use rates of the order of 1e-5.
RATES = {"t5": 3e-4, "mt5": 3e-4, "umt5": 3e-4, "longt5": 3e-4}
RATE = 5e-5
LOSS = "mean of pairs"  # part of the key, because earlier versions used the mean over tokens
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")


class TaughtText(msgspec.Struct, frozen=True, kw_only=True):
    """A text with the target that the student learns to generate for it."""

    text: str
    target: str
    is_real: bool = False  # the target is by a person


class Seq2SeqJob(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One student to train."""

    name: str  # prefix of the student's name
    title: str  # for display
    model: str  # folder
    model_revision: str
    examples: tuple[TaughtText, ...]
    settings: TextStudentSettings
    seed: int = 0

    @cached_property
    def key(self) -> str:
        """Hash of everything that determines the student's bytes."""
        content = msgspec.to_builtins(self)
        del content["title"], content["model"]
        content["loss"] = LOSS
        return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]


class TextStudentResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one training."""

    name: str  # the prefix and the content hash
    path: str
    parameters: int
    steps: int
    seconds: float
    losses: tuple[float, ...] = ()  # one per step, nats per token
    held_out: int = 0  # texts
    held_out_losses: tuple[float, ...] = ()  # one per epoch


def finished_seq2seq(store: Path, job: Seq2SeqJob) -> TextStudentResult | None:
    """Return the result of a job in ``store``, with its current path; None if it is not finished."""
    return finished_in(store / job.key, TextStudentResult)


def train_seq2seq(job: Seq2SeqJob, store: Path, on_step: OnStep = lambda *_: None) -> TextStudentResult:
    """Train ``job`` into ``store``/<key>/<name>-<content hash>; it is finished once its result.json is written.

    All weights are trained, and all pairs have the same weight: the loss is the mean over a target's tokens, then over
    pairs. A share of the teacher's texts is held out and selects the epoch. A GPU is used if there is one. On the CPU,
    the same job, machine and thread count give the same bytes. Raises InputError if there are no examples, and
    FourshotError if the loss is no longer a number.
    """
    with collector_paused():
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
        from transformers.utils import logging

    logging.disable_progress_bar()
    if not job.examples:
        raise InputError("There is nothing to train a student on. Give texts with targets.")
    began_s = time.perf_counter()
    torch.manual_seed(job.seed)
    taught = [index for index, example in enumerate(job.examples) if not example.is_real]
    held_out = set(random.Random(f"{job.seed}/held out").sample(taught, int(len(taught) * job.settings.held_out)))
    model = AutoModelForSeq2SeqLM.from_pretrained(job.model, dtype=torch.float32, trust_remote_code=False).to(
        torch_device()
    )
    tokenizer = AutoTokenizer.from_pretrained(job.model, trust_remote_code=False)
    tokenizer.model_max_length = job.settings.max_tokens  # other tools truncate at this length
    training = _Training(model, tokenizer, job, held_out)
    training.run(on_step)
    model.generation_config = _likeliest(model.generation_config, job.settings.max_target_tokens)
    folder = store / job.key
    name = save_checkpoint(folder, job.name, model, tokenizer)
    result = TextStudentResult(
        name=name,
        path=str(folder / name),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=len(training.losses),
        seconds=time.perf_counter() - began_s,
        losses=tuple(training.losses),
        held_out=len(held_out),
        held_out_losses=tuple(training.held_out_losses),
    )
    write_json(folder / RESULT_FILE, result)
    return result


def _likeliest(config: "GenerationConfig", max_new_tokens: int | None) -> "GenerationConfig":
    """Return a generation configuration for greedy decoding until an end token.

    Only the special tokens of ``config`` are kept. Base models add a minimum length, a ban on repeated trigrams, or a
    forced end token at the length limit. But targets may be short and repetitive, and truncated texts must not look
    complete.
    """
    from transformers import GenerationConfig

    tokens = {name: getattr(config, name, None) for name in SPECIAL_TOKENS}
    return GenerationConfig(**tokens, max_new_tokens=max_new_tokens)


class _Training:
    """The state of one training."""

    def __init__(self, model: Any, tokenizer: Any, job: Seq2SeqJob, held_out: set[int]) -> None:
        settings = job.settings
        self._model, self._tokenizer, self._examples, self._settings = model, tokenizer, job.examples, settings
        self._learnt = [index for index in range(len(job.examples)) if index not in held_out]
        self._held_out = sorted(held_out)
        self._random = random.Random(job.seed)
        self._size = settings.batch_size or BATCH
        self._epochs = max(1, round(settings.num_epochs or EPOCHS))
        self._rate = settings.learning_rate or RATES.get(model.config.model_type, RATE)
        self.losses: list[float] = []
        self.held_out_losses: list[float] = []

    def run(self, on_step: OnStep) -> None:
        """Train, and load the weights of the epoch with the lowest held-out loss, or keep the last without such texts.

        Raises FourshotError if the loss is no longer a number.
        """
        import torch

        planned = self._epochs * -(-len(self._learnt) // self._size)
        optimizer = torch.optim.AdamW(self._model.parameters(), lr=self._rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / (0.1 * planned)) * (1 - step / planned)
        )
        best_state: Any = None
        for _ in range(self._epochs):
            self._model.train()
            self._random.shuffle(self._learnt)
            for start in range(0, len(self._learnt), self._size):
                loss = self._loss(self._learnt[start : start + self._size])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                self.losses.append(float(loss.detach()))
                if self.losses[-1] != self.losses[-1]:
                    raise FourshotError(f"The loss is no longer a number at step {len(self.losses)}. Lower the rate.")
                on_step(len(self.losses), planned, self.losses[-1])
            if not self._held_out:
                continue
            self.held_out_losses.append(self._held_out_loss())
            if self.held_out_losses[-1] <= min(self.held_out_losses):
                best_state = copy.deepcopy(self._model.state_dict())
            elif min(self.held_out_losses[-2:]) > min(self.held_out_losses):
                break  # two epochs without improvement
        if best_state:
            self._model.load_state_dict(best_state)
        self._model.eval()

    def _loss(self, chosen: Sequence[int]) -> "torch.Tensor":
        """Return the loss in nats per target token, averaged over pairs; the model's own loss averages over tokens."""
        import torch

        examples, settings = [self._examples[index] for index in chosen], self._settings
        batch = self._tokenizer(
            [example.text for example in examples],
            padding=True,
            truncation=True,
            max_length=settings.max_tokens,
            return_tensors="pt",
        ).to(self._model.device)
        # Cut here, because the tokenizer would put the end token after a cut target, and the student would learn that.
        targets = self._tokenizer(text_target=[example.target for example in examples])["input_ids"]
        rows = [torch.tensor(ids[: settings.max_target_tokens], dtype=torch.long) for ids in targets]
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100).to(self._model.device)
        logits = self._model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).logits
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        sums = losses.view(labels.shape).sum(1)  # the loss of padding is zero
        return (sums / (labels >= 0).sum(1).clamp_min(1)).mean()

    def _held_out_loss(self) -> float:
        import torch

        self._model.eval()
        with torch.no_grad():
            parts = [self._held_out[start : start + self._size] for start in range(0, len(self._held_out), self._size)]
            return sum(float(self._loss(part)) * len(part) for part in parts) / len(self._held_out)


class Seq2SeqWriter:
    """Text generation with a finished student."""

    def __init__(self, folder: str | Path) -> None:
        with collector_paused():
            import torch
            from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
        self._model = (
            AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
            .eval()
            .to(torch_device())
        )
        kept = self._model.generation_config
        self._model.generation_config = _likeliest(kept, kept.max_new_tokens)  # earlier versions kept the base's own
        ends = kept.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._tokenizing = threading.Lock()  # the tokenizer stores padding and truncation as state between calls
        self.most_tokens: int = self._tokenizer.model_max_length  # longer inputs are truncated

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without truncation."""
        with self._tokenizing:
            return [list(ids) for ids in self._tokenizer(list(texts), truncation=False)["input_ids"]]

    def write(
        self, texts: Sequence[str], max_tokens: int | None = None, batch: int = 16
    ) -> list[tuple[str, bool, int]]:
        """Return (text, whether it ended by itself, number of tokens) for each input, with greedy decoding.

        Inputs longer than `most_tokens` are truncated.
        """
        import torch

        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        written = [("", True, 0)] * len(texts)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            part = [texts[i] for i in chosen]
            with self._tokenizing:
                encoded = self._tokenizer(part, padding=True, truncation=True, return_tensors="pt")
            encoded = encoded.to(self._model.device)
            with torch.inference_mode():
                rows = self._model.generate(
                    input_ids=encoded["input_ids"],
                    attention_mask=encoded["attention_mask"],
                    do_sample=False,
                    **({"max_new_tokens": max_tokens} if max_tokens else {}),
                )
            for index, row in zip(chosen, rows, strict=True):
                tokens = row[1:].tolist()
                end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
                text = self._tokenizer.decode(row, skip_special_tokens=True).strip()
                written[index] = text, end is not None, len(tokens) if end is None else end + 1
        return written

    def close(self) -> None:
        """Release the memory."""
        self._model = None
