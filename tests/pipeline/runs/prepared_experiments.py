"""Experiments whose texts exist, and whose trainings can be marked as finished."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec
import numpy as np
from safetensors.numpy import save_file

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.cells.cell import SeedExamples
from fourshot.pipeline.cells.run_folder import GENERATED_FILE, RunFolder
from fourshot.pipeline.loop.rounds import Round
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.train import classifiers, on_real_texts
from fourshot.pipeline.synthesis.prompts import PromptStyle, Wording
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.synthesis.types import Verdict
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.jobs.jobs import RESULT_FILE, TrainingJob
from fourshot.training.lora.adapter_files import ADAPTER_WEIGHTS
from fourshot.training.lora.examples import TrainingResult
from tests.pipeline.candidates import candidate as made
from tests.pipeline.task_folders import write_task

METHODS = ("zero_shot", "icl", "lora", "lora_bare", "fourshot", "fourshot_bare", "lora25_bare")
MODEL = ResolvedModel(path="/models/base", name="base", revision="abc")
WRITTEN = {"Steam over the pot.": "warm", "Snow on snow.": "cold"}


def experiment_with_texts(
    folder: Path,
    *methods: str,
    wording: Wording = "task",
    prompt_style: PromptStyle = "plain",
    verbalizer: Literal["token", "word"] = "token",
    calibrate: bool = False,
    align: bool = False,
    show_shots: Literal["auto", "never"] = "never",
    weights: Literal["auto", "held_out"] = "auto",
    texts: Mapping[str, str] = MappingProxyType(WRITTEN),
    certainty: float = 0.0,
    **annotators: Any,
) -> Experiment:
    """Return an experiment with one seed, kept ``texts`` and their labels, and a committee trained on the shots only.

    ``certainty``: the annotators' probability of each text's label; 0: verdicts have no probabilities. ``annotators``:
    further settings of theirs.
    """
    folder.mkdir()
    task = load_task(write_task(folder))
    annotate = AnnotateSettings(folds=0, show_shots=show_shots, weights=weights, **annotators)
    settings = RunSettings(
        wording=wording,
        prompt_style=prompt_style,
        verbalizer=verbalizer,
        annotate=annotate,
        calibrate=calibrate,
        align=align,
    )
    data = TaskData(task)
    seeds = [SeedExamples(seed=0, shots=tuple(data.train), more=tuple(data.train))]
    experiment = Experiment(data, MODEL, settings, methods or METHODS, seeds, folder / "out")
    experiment.claim()
    for writer in experiment.writers:
        write_texts(writer.folder, texts, certainty)
    return experiment


def write_texts(folder: RunFolder, texts: Mapping[str, str] = MappingProxyType(WRITTEN), certainty: float = 0) -> None:
    for number, (text, label) in enumerate(texts.items()):
        candidate = made(number, text, label)
        likely = {name: certainty if name == label else 1 - certainty for name in ("warm", "cold")} if certainty else {}
        verdict = Verdict(candidate_id=candidate.id, kept=True, reason="kept", predicted=label, probabilities=likely)
        folder.append("candidates.jsonl", [candidate])
        folder.append("verdicts.jsonl", [verdict if certainty else msgspec.structs.replace(verdict, predicted="")])
    counts, total = dict(Counter(texts.values())), len(texts)
    record = Round(
        number=0, num_candidates=total, kept=counts, drawn=counts, sample_s=1.0, filter_s=1.0, output_tokens=8
    )
    folder.append("rounds.jsonl", [record])
    folder.write(GENERATED_FILE, {"kept": total})


def finish(experiment: Experiment) -> dict[str, TrainingJob]:
    """Mark all trainings as finished. Return them by the adapter's name."""
    jobs = {job.key: job for job in [*on_real_texts(experiment).items, *classifiers(experiment).items]}
    trained = {}
    for key, job in jobs.items():
        result = TrainingResult(
            name=f"adapter-{key}", path="", steps=1, planned_steps=1, losses=(0.5,), tokens=9, seconds=1.0, examples=2
        )
        write_finished(experiment.store / key, result)
        trained[result.name] = job
    return trained


def write_finished(folder: Path, result: TrainingResult) -> None:
    """Write the files of a finished job's folder."""
    (folder / result.name).mkdir(parents=True)
    save_file({"weight": np.zeros(1)}, folder / result.name / ADAPTER_WEIGHTS)
    RunFolder(folder).write(RESULT_FILE, result)


def prompts_of(card: AdapterCard) -> set[str]:
    """Return the prompts that a server sends this adapter for its own shots."""
    return {card.prompt(shot.text) for shot in card.shots}
