"""LoRA training against Hugging Face Trainer + PEFT: same examples, rank, batch, epochs, learning rate and schedule.

    fourshot bench training sst2 --data FOLDER --out bench/results/training-<hardware>.json

Each training runs in a separate process, ours and the Trainer's in turn, on the same cores. The Trainer is used as in
its documentation: bf16, batches padded to their longest row, loss on the label only. One engine measures all accuracies
on the same test texts.

Both are compared with the rate of bf16 matrix products of the model's shapes on this machine. A frozen base needs 2
operations per parameter and token forward, and 2 backward for the gradients of its inputs: 4 x parameters, without the
embeddings. Useful operations count the tokens of each prompt separately, without padding, so packing counts as speed.
Computed operations count the tokens that went through the model. The targets have both as shares of the matmul rate.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.options import POSITIONAL, Model, Positive, Shape, as_settings
from fourshot.bench.core.parts import Part, TablePart, Target, at_least, at_most
from fourshot.bench.core.processes import call_in_child, peak_bytes
from fourshot.bench.core.results import FinishedPieces, show_progress
from fourshot.bench.core.roofline import opened_base, product_rate, shape_of
from fourshot.bench.core.suite import Suite
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import Adapter, EngineSettings
from fourshot.engine.opening import open_engine
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.tasks.shots import draw_shots
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.lora.settings import PRESETS, LoraSettings, rate_by_size
from fourshot.training.lora.targets import lora_config

SPEED_GOALS = {"qwen2-135m": 4.0}  # by shape; others have SPEED_GOAL
SPEED_GOAL, SHARE_GOAL, SECONDS_GOAL, ACCURACY_GOAL = 5.0, 0.4, 40.0, -1.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    task: Annotated[str, POSITIONAL, "a task that comes with fourshot, or its file"] = "support_tickets"
    data: Annotated[Path | None, "a folder with a folder for each task, or the task's own, in place of its data"] = None
    model: Model = None
    shape: Shape = None
    per_class: Annotated[Positive, "real examples per class"] = 25
    epochs: Positive = 6
    seeds: Positive = 3
    test_limit: Annotated[int, "test texts to measure on; 0 means all"] = 500
    out: Annotated[Path | None, "where the result goes; without it, standard output"] = None


class TrainerCall(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of one training in a separate process."""

    model: str
    prompts: tuple[str, ...]
    targets: tuple[int, ...]
    labels: tuple[str, ...]  # label words
    epochs: int
    seed: int
    out: str

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.prompts) // PRESETS["default"].batch_size)

    @property
    def settings(self) -> LoraSettings:
        """The default preset with exactly ``epochs`` epochs."""
        return msgspec.structs.replace(PRESETS["default"], num_epochs=float(self.epochs), min_steps=1, soft_max_steps=0)


class TrainerResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one training."""

    adapter: Adapter
    seconds: float  # of the training, without loading the model
    steps: int
    final_loss: float  # mean over the last epoch, in nats
    peak_rss_bytes: int
    computed_tokens: int = 0  # tokens that went through the model, including padding; 0: not counted


def our_trainer(training: TrainerCall) -> TrainerResult:
    """Train with `training.lora.train.LoraTrainer`."""
    from fourshot.training.lora.examples import TrainingExample
    from fourshot.training.lora.train import LoraTrainer

    pairs = zip(training.prompts, training.targets, strict=True)
    examples = [TrainingExample(prompt=prompt, target=target) for prompt, target in pairs]
    trainer = LoraTrainer(training.model)
    result = trainer.train(examples, training.labels, training.settings, training.out, seed=training.seed)
    return TrainerResult(
        adapter=result.adapter,
        seconds=result.seconds,
        steps=result.steps,
        final_loss=fmean(result.losses[-training.steps_per_epoch :]),
        peak_rss_bytes=peak_bytes(),
        computed_tokens=result.tokens,
    )


def hf_trainer(training: TrainerCall) -> TrainerResult:
    """Train with ``transformers.Trainer`` and PEFT."""
    import torch
    import transformers
    from peft import get_peft_model

    settings = training.settings
    transformers.set_seed(training.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(training.model, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # some checkpoints lack one; it is masked anyway
    model = transformers.AutoModelForCausalLM.from_pretrained(training.model, dtype="auto", trust_remote_code=False)
    config = lora_config(training.model, model.config.get_text_config().num_hidden_layers, settings)
    arguments = transformers.TrainingArguments(
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
    trainer = transformers.Trainer(
        model=get_peft_model(model, config),
        args=arguments,
        train_dataset=list(_masked_rows(training, tokenizer)),
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
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


def _masked_rows(training: TrainerCall, tokenizer: Any) -> Iterator[dict[str, list[int]]]:
    """Yield the token ids of prompts with their labels; only the labels count for the loss."""
    for prompt, target in zip(training.prompts, training.targets, strict=True):
        prompt_ids = tokenizer(prompt)["input_ids"]
        answer = tokenizer(f" {training.labels[target]}", add_special_tokens=False)["input_ids"]
        yield {"input_ids": prompt_ids + answer, "labels": [-100] * len(prompt_ids) + answer}


TRAINERS = {"ours": our_trainer, "hf_trainer": hf_trainer}


def matmul_rates(model: str, rows: int) -> dict[str, float]:
    """Measure bf16 TFLOP/s of products: the model's MLP projection with ``rows`` and with 1,024 rows, and a square one.

    The highest is the machine's rate; the one with ``rows`` rows is the most that a batch of this size can reach.
    """
    shape = shape_of(model)
    products = (*((m, shape.hidden_size, shape.intermediate_size) for m in (rows, 1024)), (2048, 2048, 2048))
    return {f"{m} x {k} x {n}": product_rate(m, k, n) / 1e12 for m, k, n in products}


def accuracies(
    model: str, adapters: Sequence[Adapter], prompts: Sequence[str], gold: Sequence[int], labels: Sequence[str]
) -> list[float]:
    """Return each adapter's accuracy on ``prompts``, all evaluated in one vLLM engine."""
    with closing(open_engine(EngineSettings(model=model, max_loras=1, max_lora_rank=8, compile=False))) as engine:
        answers = (engine.score(prompts, labels, adapter).argmax(axis=1) for adapter in adapters)
        return [float((chosen == gold).mean()) for chosen in answers]


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Train and evaluate all adapters. ``done`` is unused, because the adapters are evaluated together."""
    with opened_base(options.model, options.shape) as model:
        return _measured(options, model)


def _measured(options: Options, model: ResolvedModel) -> dict[str, Any]:
    task, test = task_and_test(options)
    tokenizer = load_tokenizer(model.path)
    runs: list[dict[str, Any]] = []
    train = TaskData(task).train
    adapters: list[Adapter] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            examples = draw_shots(train, task.label_names, options.per_class, seed)
            prompts = tuple(classification_prompt(task, example.text, PromptFormat()) for example in examples)
            tokens = sum(map(len, encode_prompts(tokenizer, prompts)))
            for name, trainer in TRAINERS.items():
                training = TrainerCall(
                    model=model.path,
                    prompts=prompts,
                    targets=tuple(task.label_names.index(example.label) for example in examples),
                    labels=task.label_words,
                    epochs=options.epochs,
                    seed=seed,
                    out=str(Path(folder) / f"{name}-{seed}"),
                )
                trained = call_in_child(trainer, training)
                adapters.append(trained.adapter)
                run = {"trainer": name, "seed": seed, "tokens_per_epoch": tokens, **msgspec.to_builtins(trained)}
                del run["adapter"]
                run["seconds_per_epoch"] = trained.seconds / options.epochs
                run["tokens_per_s"] = tokens * options.epochs / trained.seconds
                runs.append(run)
                show_progress(f"seed {seed}  {name:10}  {trained.seconds:6.1f} s")
        answers = [classification_prompt(task, example.text, PromptFormat()) for example in test]
        gold = [task.label_names.index(example.label) for example in test]
        for run, accuracy in zip(runs, accuracies(model.path, adapters, answers, gold, task.label_words), strict=True):
            run["accuracy"] = accuracy
    rates = matmul_rates(model.path, round(runs[0]["tokens_per_epoch"] * PRESETS["default"].batch_size / len(prompts)))
    parameters = shape_of(model.path).decoder_parameters
    for run in runs:
        run["useful_tflops"] = 4 * parameters * run["tokens_per_s"] / 1e12
        run["computed_tflops"] = 4 * parameters * run["computed_tokens"] / run["seconds"] / 1e12
    return {
        "decoder_parameters": parameters,
        "matmul_tflops": rates,
        "runs": runs,
        "targets": targets(runs, max(rates.values()), SPEED_GOALS.get(options.shape or "", SPEED_GOAL)),
    }


def task_and_test(options: Options) -> tuple[Task, Sequence[Example]]:
    """Return the task and its test examples. Its data is --data, or the subfolder of --data with the task's name."""
    data = options.data
    own = data and data / Path(options.task).stem
    task = load_task(options.task, own if own and own.is_dir() else data)
    return task, load_split(task, "test", limit=options.test_limit or None).examples


def targets(runs: Sequence[Mapping[str, Any]], best_tflops: float, speed_goal: float = SPEED_GOAL) -> list[Target]:
    """Return targets for our trainer: against the Trainer, seed by seed, and against the machine's matmul rate."""
    our_runs, hf_runs = ([run for run in runs if run["trainer"] == name] for name in TRAINERS)
    speed = median(hf_run["seconds"] / run["seconds"] for run, hf_run in zip(our_runs, hf_runs, strict=True))
    gap = 100 * (fmean(run["accuracy"] for run in our_runs) - fmean(run["accuracy"] for run in hf_runs))
    computed, useful = (
        median(run[f"{count}_tflops"] for run in our_runs) / best_tflops for count in ("computed", "useful")
    )
    return [
        at_least("speed over Hugging Face Trainer + PEFT", "times", speed, speed_goal),
        at_least("accuracy against it", "points", gap, ACCURACY_GOAL),
        at_least("share of the highest measured bf16 matmul rate", "share", computed, SHARE_GOAL),
        at_least("the same of useful operations", "share", useful, SHARE_GOAL),
        at_most("seconds to train", "s", median(run["seconds"] for run in our_runs), SECONDS_GOAL),
    ]


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return a table of every training."""
    columns: dict[str, Any] = {
        "trainer": "{trainer}",
        "seed": "{seed}",
        "seconds": "{seconds:.1f}",
        "tokens/s": "{tokens_per_s:,.0f}",
        "final loss": "{final_loss:.4f}",
        "accuracy": "{accuracy:.1%}",
        "memory, GB": lambda run: f"{run['peak_rss_bytes'] / 1e9:.2f}",
    }
    return [TablePart.of(result["runs"], columns)]


def settings(options: Options) -> dict[str, Any]:
    """Return the settings that the result records."""
    task, test = task_and_test(options)
    return {"task": task.name, **as_settings(options, "per_class", "epochs", "seeds"), "num_test": len(test)}


SUITE = Suite(options=Options, settings=settings, tasks=lambda options: (), measure=measure, report=report)
