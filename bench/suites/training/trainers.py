"""The two trainers that are set side by side, each called in a process of its own."""

import time
from pathlib import Path
from statistics import fmean

import msgspec

from fourshot.bench.core.processes import peak_bytes
from fourshot.engine.core import Adapter
from fourshot.training.lora.settings import PRESETS, LoraSettings, rate_by_size
from fourshot.training.lora.targets import target_modules


class TrainerCall(msgspec.Struct, frozen=True, kw_only=True):
    """One training, as it is handed to a process."""

    model: str
    prompts: tuple[str, ...]
    targets: tuple[int, ...]
    labels: tuple[str, ...]  # words
    epochs: int
    seed: int
    out: str

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.prompts) // PRESETS["default"].batch_size)

    @property
    def settings(self) -> LoraSettings:
        """The default preset, for exactly ``epochs`` passes."""
        return msgspec.structs.replace(PRESETS["default"], num_epochs=float(self.epochs), min_steps=1, soft_max_steps=0)


class TrainerResult(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to."""

    adapter: Adapter
    seconds: float  # of the loop alone: the model was loaded before
    steps: int
    final_loss: float  # mean over the last pass, nats
    peak_rss_bytes: int
    computed_tokens: int = 0  # that went through the model, padding included; 0: not counted


def our_trainer(training: TrainerCall) -> TrainerResult:
    """Train with `training.lora.train.LoraTrainer`."""
    from fourshot.training.lora.examples import TrainingExample
    from fourshot.training.lora.train import LoraTrainer

    pairs = zip(training.prompts, training.targets, strict=True)
    examples = [TrainingExample(prompt=prompt, target=target) for prompt, target in pairs]
    trainer = LoraTrainer(training.model)
    result = trainer.train(examples, training.labels, training.settings, training.out, seed=training.seed)
    return TrainerResult(
        adapter=Adapter(name=result.name, path=result.path),
        seconds=result.seconds,
        steps=result.steps,
        final_loss=fmean(result.losses[-training.steps_per_epoch :]),
        peak_rss_bytes=peak_bytes(),
        computed_tokens=result.tokens,
    )


def hf_trainer(training: TrainerCall) -> TrainerResult:
    """Train with ``transformers.Trainer`` and PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    settings = training.settings
    set_seed(training.seed)
    tokenizer = AutoTokenizer.from_pretrained(training.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # some checkpoints have none; it is masked anyway
    rows = []
    for prompt, target in zip(training.prompts, training.targets, strict=True):
        prompt_ids, answer = (tokenizer(text)["input_ids"] for text in (prompt, f" {training.labels[target]}"))
        rows.append({"input_ids": prompt_ids + answer, "labels": [-100] * len(prompt_ids) + answer})
    model = AutoModelForCausalLM.from_pretrained(training.model, dtype="auto")
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(target_modules(training.model, settings.target_modules)),
        task_type="CAUSAL_LM",
    )
    arguments = TrainingArguments(
        output_dir=training.out,
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=training.epochs,
        learning_rate=settings.learning_rate or rate_by_size(model.num_parameters()),
        lr_scheduler_type="linear",
        warmup_steps=round(settings.warmup_steps(training.epochs * training.steps_per_epoch)),
        weight_decay=settings.weight_decay,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        seed=training.seed,
        save_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=get_peft_model(model, config),
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    adapter = Adapter(name=f"hf-trainer-{training.seed}", path=str(Path(training.out) / "adapter"))
    trainer.model.save_pretrained(adapter.path, save_embedding_layers=False)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return TrainerResult(
        adapter=adapter,
        seconds=seconds,
        steps=trainer.state.global_step,
        final_loss=fmean(losses[-training.steps_per_epoch :]),
        peak_rss_bytes=peak_bytes(),
    )


TRAINERS = {"ours": our_trainer, "hf_trainer": hf_trainer}
