"""One LoRA training beside Hugging Face Trainer + PEFT: same examples, rank, batch, epochs, learning rate and schedule.

    fourshot bench training sst2 --data FOLDER --out bench/results/training-<hardware>.json

Each training runs in a process of its own, ours and the Trainer's in turn, on the same cores. The Trainer is used as
its documentation has it: bf16, batches padded to their longest, loss on the label only. Accuracies are measured by one
engine on the same test texts.

Both are set against the rate at which this machine multiplies bf16 matrices of the model's own shapes. A frozen base
needs 2 operations per parameter and token forward, and 2 backward for the gradients of its inputs: 4 x parameters, the
embeddings not counted. Two counts of it: useful operations are those of the prompts' tokens, each prompt for itself and
without padding, so what packing saves counts as speed; computed operations are those of the tokens that went through
the model, and the share of the matmul rate is taken of these.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec

SCHEMA = 1
SPEED_GOAL, SHARE_GOAL, SECONDS_GOAL, ACCURACY_GOAL = 5.0, 0.4, 40.0, -1.0
MATMUL_SECONDS = 1.0
TRAINERS = ("ours", "hf_trainer")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One training, as it is handed to a process."""

    trainer: str
    model: str
    prompts: tuple[str, ...]
    targets: tuple[int, ...]
    labels: tuple[str, ...]  # words
    epochs: int
    seed: int
    out: str


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to."""

    adapter: str
    name: str
    seconds: float  # of the loop alone: the model was loaded before
    steps: int
    final_loss: float  # mean over the last pass, nats
    peak_rss_bytes: int
    computed_tokens: int = 0  # that went through the model, padding included; 0: not counted


def ours(job: Job) -> Trained:
    """Train with `training.lora.train.LoraTrainer`."""
    from fourshot.training.lora.examples import TrainingExample
    from fourshot.training.lora.train import LoraTrainer

    examples = [
        TrainingExample(prompt=prompt, target=target) for prompt, target in zip(job.prompts, job.targets, strict=True)
    ]
    trainer = LoraTrainer(job.model)
    result = trainer.train(examples, job.labels, _settings(job), job.out, seed=job.seed)
    per_pass = -(-len(examples) // _settings(job).batch_size)
    return Trained(
        adapter=result.path,
        name=result.name,
        seconds=result.seconds,
        steps=result.steps,
        final_loss=fmean(result.losses[-per_pass:]),
        peak_rss_bytes=_peak_rss(),
        computed_tokens=result.tokens,
    )


def hf_trainer(job: Job) -> Trained:
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

    settings = _settings(job)
    set_seed(job.seed)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    rows = []
    for prompt, target in zip(job.prompts, job.targets, strict=True):
        asked, said = tokenizer(prompt)["input_ids"], tokenizer(" " + job.labels[target])["input_ids"]
        rows.append({"input_ids": asked + said, "labels": [-100] * len(asked) + said})
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype="auto")
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    arguments = TrainingArguments(
        output_dir=job.out,
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=job.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(settings.warmup * job.epochs * -(-len(rows) // settings.batch_size)),
        weight_decay=settings.weight_decay,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        seed=job.seed,
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
    adapter = Path(job.out) / "adapter"
    trainer.model.save_pretrained(str(adapter), save_embedding_layers=False)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    per_pass = -(-len(rows) // settings.batch_size)
    return Trained(
        adapter=str(adapter),
        name=f"hf-trainer-{job.seed}",
        seconds=seconds,
        steps=trainer.state.global_step,
        final_loss=fmean(losses[-per_pass:]),
        peak_rss_bytes=_peak_rss(),
    )


def _settings(job: Job) -> Any:
    """The default preset, for exactly ``epochs`` passes."""
    from fourshot.training.lora.settings import PRESETS

    steps = job.epochs * -(-len(job.prompts) // PRESETS["default"].batch_size)
    return msgspec.structs.replace(PRESETS["default"], num_epochs=float(job.epochs), min_steps=steps, max_steps=steps)


def _peak_rss() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matmul_rates(model: str, rows: int) -> dict[str, float]:
    """Measured bf16 TFLOP/s of this device: the model's largest projection at ``rows`` rows and at 1,024, and a square.

    The highest is the machine's rate; that at ``rows`` is what a batch of this size can get.
    """
    import torch

    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = {
        f"{rows} x {hidden} x {inner}": (rows, hidden, inner),
        f"1024 x {hidden} x {inner}": (1024, hidden, inner),
        "2048 x 2048 x 2048": (2048, 2048, 2048),
    }
    found = {}
    for name, (m, k, n) in shapes.items():
        x = torch.randn(m, k, dtype=torch.bfloat16, device=device)
        weights = torch.randn(n, k, dtype=torch.bfloat16, device=device)
        rates, began = [], time.perf_counter()
        while time.perf_counter() - began < MATMUL_SECONDS:
            started = time.perf_counter()
            for _ in range(10):
                torch.nn.functional.linear(x, weights)
            if device == "cuda":
                torch.cuda.synchronize()
            rates.append(20 * m * k * n / (time.perf_counter() - started) / 1e12)
        found[name] = median(rates)
    return found


def decoder_parameters(model: str) -> int:
    """Parameters of the decoder's layers, without embeddings and output layer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        decoder = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).get_decoder()
    return sum(one.numel() for name, one in decoder.named_parameters() if "embed" not in name)


def in_a_process(job: Job) -> Trained:
    """What ``job`` came to, in a fresh process on our cores."""
    with tempfile.TemporaryDirectory() as folder:
        asked, said = Path(folder) / "job.json", Path(folder) / "trained.json"
        asked.write_bytes(msgspec.json.encode(job))
        command = [sys.executable, "-m", "fourshot.bench.suites.training", "--child", str(asked), str(said)]
        root = Path(__file__).resolve().parents[2]
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
        subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "PYTHONPATH": path})
        return msgspec.json.decode(said.read_bytes(), type=Trained)


def accuracies(
    model: str, adapters: Sequence[Trained], prompts: Sequence[str], gold: Sequence[int], labels: Sequence[str]
) -> list[float]:
    """Share of ``prompts`` that each adapter answers right, all through one vLLM engine."""
    from fourshot.engine.core import Adapter, EngineSettings
    from fourshot.engine.opening import open_engine

    settings = EngineSettings(model=model, max_loras=1, max_lora_rank=8, compile=False)
    engine = open_engine(settings)
    try:
        found = []
        for trained in adapters:
            scores = engine.score(list(prompts), tuple(labels), Adapter(name=trained.name, path=trained.adapter))
            found.append(float((scores.argmax(axis=1) == gold).mean()))
        return found
    finally:
        engine.close()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole result; each training is told on standard error as it ends."""
    from fourshot.engine.models import resolve_model
    from fourshot.engine.tokens import encode_prompts, load_tokenizer
    from fourshot.pipeline.provenance import describe_hardware, installed_versions, source_commit
    from fourshot.pipeline.runs.run import more_real
    from fourshot.pipeline.synthesis.prompts import classification_prompt
    from fourshot.pipeline.tasks.tables import load_split
    from fourshot.pipeline.tasks.task_file import load_task

    task, model = load_task(options.task, options.data), resolve_model(options.model)
    test = load_split(task, "test", limit=options.test_limit or None).examples
    gold = [task.label_names.index(example.label) for example in test]
    tokenizer = load_tokenizer(model.path)
    rows: list[dict[str, Any]] = []
    adapters: list[Trained] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            examples = more_real(task, options.per_class, seed)
            prompts = tuple(classification_prompt(task, example.text) for example in examples)
            tokens = sum(map(len, encode_prompts(tokenizer, prompts)))
            for name in TRAINERS:
                job = Job(
                    trainer=name,
                    model=model.path,
                    prompts=prompts,
                    targets=tuple(task.label_names.index(example.label) for example in examples),
                    labels=task.label_words,
                    epochs=options.epochs,
                    seed=seed,
                    out=str(Path(folder) / f"{name}-{seed}"),
                )
                trained = in_a_process(job)
                adapters.append(trained)
                rows.append(
                    {"trainer": name, "seed": seed, "tokens_per_epoch": tokens, **_figures(trained, job, tokens)}
                )
                print(f"seed {seed}  {name:10}  {trained.seconds:6.1f} s", file=sys.stderr)
        answers = [classification_prompt(task, example.text) for example in test]
        for row, accuracy in zip(rows, accuracies(model.path, adapters, answers, gold, task.label_words), strict=True):
            row["accuracy"] = accuracy
    batch_tokens = round(rows[0]["tokens_per_epoch"] * 8 / len(prompts))
    rates, parameters = matmul_rates(model.path, batch_tokens), decoder_parameters(model.path)
    for row in rows:
        row["useful_tflops"] = 4 * parameters * row["tokens_per_s"] / 1e12
        row["computed_tflops"] = 4 * parameters * row["computed_tokens"] / row["seconds"] / 1e12
    mine, theirs = ([row for row in rows if row["trainer"] == name] for name in TRAINERS)
    speed = median(other["seconds"] / one["seconds"] for one, other in zip(mine, theirs, strict=True))
    gap = 100 * (fmean(row["accuracy"] for row in mine) - fmean(row["accuracy"] for row in theirs))
    share = median(row["computed_tflops"] for row in mine) / max(rates.values())
    useful = median(row["useful_tflops"] for row in mine) / max(rates.values())
    return {
        "schema": SCHEMA,
        "suite": "training",
        "commit": source_commit(),
        "hardware": describe_hardware(),
        "versions": {"python": platform.python_version(), **installed_versions()},
        "settings": {
            "task": task.name,
            "model": model.name,
            "per_class": options.per_class,
            "epochs": options.epochs,
            "seeds": options.seeds,
            "num_test": len(test),
        },
        "decoder_parameters": parameters,
        "matmul_tflops": rates,
        "runs": rows,
        "targets": [
            _target("speed over Hugging Face Trainer + PEFT", "times", speed, SPEED_GOAL, speed >= SPEED_GOAL),
            _target("accuracy against it", "points", gap, ACCURACY_GOAL, gap >= ACCURACY_GOAL),
            _target("share of the highest measured bf16 matmul rate", "share", share, SHARE_GOAL, share >= SHARE_GOAL),
            _target("the same of useful operations", "share", useful, SHARE_GOAL, useful >= SHARE_GOAL),
            _target(
                "seconds to train",
                "s",
                (took := median(row["seconds"] for row in mine)),
                SECONDS_GOAL,
                took < SECONDS_GOAL,
            ),
        ],
    }


def _figures(trained: Trained, job: Job, tokens: int) -> dict[str, Any]:
    return {
        "seconds": trained.seconds,
        "seconds_per_epoch": trained.seconds / job.epochs,
        "steps": trained.steps,
        "tokens_per_s": tokens * job.epochs / trained.seconds,
        "final_loss": trained.final_loss,
        "peak_rss_bytes": trained.peak_rss_bytes,
        "computed_tokens": trained.computed_tokens,
    }


def _target(name: str, unit: str, measured: float, goal: float, met: bool) -> dict[str, Any]:
    return {"name": name, "unit": unit, "measured": round(measured, 3), "goal": goal, "met": met}


CHILDREN: dict[str, Callable[[Job], Trained]] = {"ours": ours, "hf_trainer": hf_trainer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "task", nargs="?", default="support_tickets", help="a task that comes with fourshot, or its file"
    )
    parser.add_argument("--data", help="train and test files, in place of the task's own data")
    parser.add_argument("--model", help="base model; the embedded one if left out")
    parser.add_argument("--per-class", type=int, default=25, help="real examples per class")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test-limit", type=int, default=500, help="test texts to measure on; 0 means all")
    parser.add_argument("--out", type=Path, help="where the JSON goes; without it, standard output")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        job = msgspec.json.decode(Path(options.child[0]).read_bytes(), type=Job)
        Path(options.child[1]).write_bytes(msgspec.json.encode(CHILDREN[job.trainer](job)))
        return
    text = json.dumps(measure(options), indent=1) + "\n"
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
