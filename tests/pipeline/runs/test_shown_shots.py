"""A run whose annotators see the shots in their prompts."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import RunFolderError
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stage_driver import StageDriver
from fourshot.pipeline.runs.summary import report_data
from fourshot.pipeline.synthesis.settings import AnnotateSettings
from fourshot.pipeline.work_folder import LAYOUT_FILE
from tests.pipeline.runs.prepared_experiments import METHODS, MODEL, experiment_with_texts, finish


def test_a_folder_of_an_earlier_version_goes_on_without_shots_in_these_prompts(tmp_path: Path) -> None:
    old, messages = experiment_with_texts(tmp_path / "run", show_shots="never", weights="held_out"), list[str]()
    (old.root / LAYOUT_FILE).unlink(missing_ok=True)  # which earlier versions wrote only for filler
    settings = msgspec.structs.replace(old.settings, annotate=AnnotateSettings(folds=0))
    again = Experiment(old.data, MODEL, settings, METHODS, old.seeds, old.root)
    StageDriver(tmp_path / "log.txt", lambda event: messages.append(event.message)).add("notes", again)
    assert messages == [
        "notes: the folder was begun without shots in the annotators' prompts (show_shots), and continues without them"
    ]
    assert again.annotator_jobs(again.writers[0]) == old.annotator_jobs(old.writers[0])


def test_a_folder_whose_annotators_left_shots_out_goes_on_with_these(tmp_path: Path) -> None:
    old, messages = experiment_with_texts(tmp_path / "run", show_shots="auto", weights="held_out"), list[str]()
    layout = old.root / LAYOUT_FILE
    layout.write_bytes(msgspec.json.encode({**msgspec.json.decode(layout.read_bytes()), "weights": "held_out"}))
    settings = msgspec.structs.replace(old.settings, annotate=AnnotateSettings(folds=0))
    again = Experiment(old.data, MODEL, settings, METHODS, old.seeds, old.root)
    StageDriver(tmp_path / "log.txt", lambda event: messages.append(event.message)).add("notes", again)
    assert messages == [
        "notes: the folder was begun with annotators that each leave some shots out (weights), and continues with them"
    ]
    jobs = again.annotator_jobs(again.writers[0])
    assert jobs == old.annotator_jobs(old.writers[0])
    new = experiment_with_texts(tmp_path / "new", show_shots="auto")
    assert not {job.key for job in jobs} & {job.key for job in new.annotator_jobs(new.writers[0])}


def test_annotators_that_see_shots_are_trained_and_queried_with_prompts_of_both(tmp_path: Path) -> None:
    """They calibrate LoRA on the shots, too. Without their texts, adapters of its own do that."""
    experiment = experiment_with_texts(tmp_path / "run", "lora", "fourshot", show_shots="auto", calibrate=True)
    (writer,) = experiment.writers
    finish(experiment)
    examples = [example for job in experiment.annotator_jobs(writer) for example in job.examples]
    assert all(example.shown is not msgspec.UNSET for example in examples)
    annotators = experiment.annotators(writer)
    assert all(sorted(annotator.shown) == [*range(len(writer.shots))] for annotator in annotators)
    assert not any(annotator.left_out for annotator in annotators)
    lora, fourshot = experiment.cell("lora"), experiment.cell("fourshot")
    assert experiment.calibrator_jobs(lora) == experiment.calibrator_jobs(fourshot) == []
    item = experiment.calibration_item(lora)
    assert item is None, "two annotated texts are too few"
    alone = experiment_with_texts(tmp_path / "alone", "lora", "committee", show_shots="auto", calibrate=True)
    jobs = alone.calibrator_jobs(alone.cell("lora"))
    assert len(jobs) == 4 and not {job.key for job in jobs} & {job.key for job in alone.annotator_jobs(writer)}
    prompt = report_data(experiment, "A run").lineage.prompts["annotation"]
    assert prompt.count("Label:") == 1 + len(annotators[0].shown)
    never = msgspec.structs.replace(experiment.settings, annotate=AnnotateSettings(show_shots="never"))
    with pytest.raises(RunFolderError, match=r"begun with annotate\.show_shots = auto.*--set annotate\.show_shots="):
        Experiment(experiment.data, MODEL, never, METHODS, experiment.seeds, experiment.root)
