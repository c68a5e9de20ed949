"""What an experiment has trained and measured, told from its orders: nothing is trained here."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import RunFolderError
from fourshot.engine.models import ResolvedModel
from fourshot.pipeline.card import AdapterCard, load_card
from fourshot.pipeline.events import ignore
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.run import train_pool
from fourshot.pipeline.runs.run_folder import RunFolder
from fourshot.pipeline.runs.summary import report_data
from fourshot.pipeline.synthesis.prompts import Wording
from fourshot.pipeline.synthesis.rounds import Round
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.jobs.jobs import RESULT_FILE, TrainingJob
from fourshot.training.lora.examples import TrainingResult
from tests.pipeline.task_folders import write_task

METHODS = ("zero_shot", "icl", "lora", "lora_bare", "fourshot", "fourshot_bare", "lora25_bare")
MODEL = ResolvedModel(path="/models/base", name="base", revision="abc")
WRITTEN = {"Steam over the pot.": "warm", "Snow on snow.": "cold"}


def begun(folder: Path, *methods: str, wording: Wording = "task") -> Experiment:
    """An experiment with one seed whose texts are there and kept, and whose committee reads the shots alone."""
    folder.mkdir()
    task = load_task(write_task(folder))
    settings = RunSettings(wording=wording, annotate=AnnotateSettings(folds=0))
    shots = {0: train_pool(task)}
    experiment = Experiment(task, MODEL, settings, methods or METHODS, shots, shots, folder / "out", ignore)
    experiment.claim()
    texts = experiment.folder("fourshot", 0)
    if texts.path.is_dir():
        write_texts(texts)
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


def finish(experiment: Experiment) -> dict[str, TrainingJob]:
    """As if everything had been trained. Returns what was, by the adapter's name."""
    jobs = {job.key: job for job in [*experiment.committee_jobs(), *experiment.final_jobs(), *experiment._real_jobs()]}
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
    plain, bare = experiment.final_jobs()
    assert [example.target for example in bare.examples] == [example.target for example in plain.examples]
    assert bare.examples[-1].prompt == "Text: Snow on snow.\nLabel:"
    assert plain.examples[-1].prompt == f"{experiment.task.instruction}\n\n{bare.examples[-1].prompt}"
    assert bare.settings == plain.settings
    assert [item.folder for item in experiment.rounds()] == [str(tmp_path / "both" / "out" / "seed0" / "fourshot")]

    alone = begun(tmp_path / "alone", "fourshot_bare")
    assert [job.key for job in alone.final_jobs()] == [bare.key]
    assert [job.key for job in alone.committee_jobs()] == [job.key for job in experiment.committee_jobs()]


def test_the_run_s_wording_is_that_of_its_classifiers_and_not_of_its_committee(tmp_path: Path) -> None:
    usual = begun(tmp_path / "usual", "lora", "fourshot")
    bare = begun(tmp_path / "bare", "zero_shot", "icl", "lora", "fourshot", wording="bare")
    assert [job.key for job in bare.committee_jobs()] == [job.key for job in usual.committee_jobs()]
    for job in [*bare.final_jobs(), *bare._real_jobs()]:
        assert all(example.prompt.startswith("Text: ") for example in job.examples)
    assert [bare.wording(method, 0) for method in bare.methods] == ["task", "task", "bare", "bare"]


def test_each_adapter_is_measured_and_carded_in_the_wording_of_its_training(tmp_path: Path) -> None:
    experiment = begun(tmp_path / "run")
    trained = finish(experiment)
    cells = {name: experiment._cell(name, 0) for name in METHODS}
    assert len({cell.out for cell in cells.values()}) == len(METHODS)
    experiment.write_cards()
    for name, cell in cells.items():
        if cell.adapter is None:
            assert cell.wording == "task"
            continue
        card = load_card(cell.adapter.path)
        assert card.wording == cell.wording == ("bare" if name.endswith("_bare") else "task")
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
    other = msgspec.structs.replace(experiment.base, wording="bare")
    again = Experiment(experiment.task, MODEL, other, ["fourshot"], experiment.shots, {}, experiment.root, ignore)
    with pytest.raises(RunFolderError, match=r"wording: the folder has 'task', this run has 'bare'"):
        again.claim()
