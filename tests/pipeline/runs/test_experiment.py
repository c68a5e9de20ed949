"""What an experiment trains and measures, told by its stages: nothing is trained here."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import RunFolderError
from fourshot.engine.models import ResolvedModel
from fourshot.pipeline.card import AdapterCard, load_card
from fourshot.pipeline.loop.rounds import Round
from fourshot.pipeline.runs.cells import MethodCell, SeedExamples
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.run_folder import GENERATED_FILE, RunFolder
from fourshot.pipeline.runs.stages.generate import rounds
from fourshot.pipeline.runs.stages.train import classifiers, on_real_texts
from fourshot.pipeline.runs.summary import report_data
from fourshot.pipeline.runs.task_data import TaskData
from fourshot.pipeline.runs.trainings import classifier_job
from fourshot.pipeline.synthesis.prompts import Wording
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.tasks.tables import Split, load_split
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.types import Task
from fourshot.training.jobs.jobs import RESULT_FILE, TrainingJob
from fourshot.training.lora.examples import TrainingResult
from tests.pipeline.task_folders import write_task

METHODS = ("zero_shot", "icl", "lora", "lora_bare", "fourshot", "fourshot_bare", "lora25_bare")
MODEL = ResolvedModel(path="/models/base", name="base", revision="abc")
Pairs = list[tuple[Candidate, Verdict]]
WRITTEN = {"Steam over the pot.": "warm", "Snow on snow.": "cold"}


def begun(folder: Path, *methods: str, wording: Wording = "task") -> Experiment:
    """An experiment with one seed whose texts are there and kept, and whose committee reads the shots alone."""
    folder.mkdir()
    task = load_task(write_task(folder))
    settings = RunSettings(wording=wording, annotate=AnnotateSettings(folds=0))
    data = TaskData(task)
    seeds = [SeedExamples(seed=0, shots=tuple(data.train), more=tuple(data.train))]
    experiment = Experiment(data, MODEL, settings, methods or METHODS, seeds, folder / "out")
    experiment.claim()
    for writer in experiment.writers:
        write_texts(writer.folder)
    return experiment


def write_texts(folder: RunFolder) -> None:
    for number, (text, label) in enumerate(WRITTEN.items()):
        candidate = Candidate(
            id=f"r00-{number:06d}",
            text=text,
            label=label,
            round=0,
            prompt_hash="p",
            shots=(0,),
            num_tokens=4,
            cumulative_logprob=-9.0,
            finish_reason="stop",
        )
        verdict = Verdict(candidate_id=candidate.id, kept=True, reason="kept")
        folder.append("candidates.jsonl", [candidate])
        folder.append("verdicts.jsonl", [verdict])
    counts = {"warm": 1, "cold": 1}
    record = Round(number=0, num_candidates=2, kept=counts, drawn=counts, sample_s=1.0, filter_s=1.0, output_tokens=8)
    folder.append("rounds.jsonl", [record])
    folder.write(GENERATED_FILE, {"kept": 2})


def finish(experiment: Experiment) -> dict[str, TrainingJob]:
    """As if everything had been trained. Returns what was, by the adapter's name."""
    jobs = {job.key: job for job in [*on_real_texts(experiment).items, *classifiers(experiment).items]}
    trained = {}
    for key, job in jobs.items():
        result = TrainingResult(
            name=f"adapter-{key}", path="", steps=1, planned_steps=1, losses=(0.5,), tokens=9, seconds=1.0, examples=2
        )
        (experiment.store / key / result.name).mkdir(parents=True)
        RunFolder(experiment.store / key).write(RESULT_FILE, result)
        trained[result.name] = job
    return trained


def test_a_bare_method_stands_on_the_texts_and_the_committee_of_its_counterpart(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "both")
    plain, bare = classifiers(experiment).items
    assert [example.target for example in bare.examples] == [example.target for example in plain.examples]
    assert bare.examples[-1].prompt == "Text: Snow on snow.\nLabel:"
    assert plain.examples[-1].prompt == f"{experiment.task.instruction}\n\n{bare.examples[-1].prompt}"
    assert bare.settings == plain.settings
    assert [item.folder for item in rounds(experiment).items] == [str(tmp_path / "both" / "out" / "seed0" / "fourshot")]

    alone = begun(tmp_path / "alone", "fourshot_bare")
    assert [job.key for job in classifiers(alone).items] == [bare.key]
    assert committee(alone) == committee(experiment)


def test_the_run_s_wording_is_that_of_its_classifiers_and_not_of_its_committee(tmp_path: Path) -> None:
    usual = begun(tmp_path / "usual", "lora", "fourshot")
    bare = begun(tmp_path / "bare", "zero_shot", "icl", "lora", "fourshot", wording="bare")
    assert committee(bare) == committee(usual)
    for cell in bare.cells:
        if cell.method.trained:
            assert all(example.prompt.startswith("Text: ") for example in bare.job(cell).examples)
    assert [cell.form.wording for cell in bare.cells] == ["task", "task", "bare", "bare"]


def committee(experiment: Experiment) -> list[str]:
    (writer,) = experiment.writers
    return [job.key for job in experiment.annotator_jobs(writer)]


def test_each_adapter_is_measured_and_carded_in_the_wording_of_its_training(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run")
    trained = finish(experiment)
    cells = {cell.name: experiment.evaluation_cell(cell) for cell in experiment.cells}
    assert len({cell.out for cell in cells.values()}) == len(METHODS)
    experiment.write_cards()
    for name, cell in cells.items():
        if cell.adapter is None:
            assert cell.form.wording == "task"
            continue
        card = load_card(cell.adapter.path)
        assert card.wording == cell.form.wording == ("bare" if name.endswith("_bare") else "task")
        assert asked(card) <= {example.prompt for example in trained[cell.adapter.name].examples}


def asked(card: AdapterCard) -> set[str]:
    """What a server asks this adapter about its own shots."""
    return {card.prompt(shot.text) for shot in card.shots}


@pytest.mark.parametrize(
    ("methods", "kinds"),
    [
        (("zero_shot", "lora"), ["generation", "classification", "in context"]),
        (
            ("zero_shot", "lora_bare"),
            [
                "generation",
                "classification (Zero-shot)",
                "classification (LoRA on the shots, bare text)",
                "in context",
            ],
        ),
        (("icl",), ["generation", "in context"]),
    ],
)
def test_the_report_shows_every_prompt_that_is_used(tmp_path: Path, methods: tuple[str, ...], kinds: list[str]) -> None:
    experiment = begun(tmp_path / "run", *methods)
    prompts = report_data(experiment, "A run").lineage.prompts
    assert list(prompts) == kinds
    if "lora_bare" in methods:
        assert prompts[kinds[2]] == "Text: …\nLabel:"
        assert prompts[kinds[1]].startswith(experiment.task.instruction)


def test_a_folder_of_another_wording_is_refused(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run", "fourshot")
    other = msgspec.structs.replace(experiment.settings, wording="bare")
    again = Experiment(TaskData(experiment.task), MODEL, other, ["fourshot"], experiment.seeds, experiment.root)
    with pytest.raises(RunFolderError, match=r"wording: the folder has 'task', this run has 'bare'"):
        again.claim()


def test_a_split_is_read_once_and_a_job_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, rendered = list[str](), list[str]()

    def reading(task: Task, split: str) -> Split:
        read.append(split)
        return load_split(task, split)

    def rendering(task: Task, revision: str, cell: MethodCell, pairs: Pairs) -> TrainingJob:
        rendered.append(cell.name)
        return classifier_job(task, revision, cell, pairs)

    monkeypatch.setattr("fourshot.pipeline.runs.task_data.load_split", reading)
    monkeypatch.setattr("fourshot.pipeline.runs.experiment.classifier_job", rendering)
    experiment = begun(tmp_path / "run")
    finish(experiment)
    experiment.write_cards()
    report_data(experiment, "A run")
    assert sorted(read) == ["test", "train"]
    assert sorted(rendered) == sorted(cell.name for cell in experiment.cells if cell.method.trained)


def test_texts_that_are_not_finished_are_no_training_s_yet(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run", "fourshot")
    cell = experiment.cell("fourshot")
    (cell.folder.path / GENERATED_FILE).unlink()
    assert experiment.result(cell) is None and experiment.outcome(cell).synthetic_examples == 2
    with pytest.raises(AssertionError):
        experiment.job(cell)


def test_a_method_that_is_named_twice_is_one_cell(tmp_path: Path) -> None:
    assert [cell.name for cell in begun(tmp_path / "run", "lora", "icl", "lora").cells] == ["lora", "icl"]
