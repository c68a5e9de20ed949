"""A run whose annotators see the shots in their prompts."""

import csv
import json
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from fourshot.engine.errors import RunFolderError
from fourshot.pipeline.cells.review import open_review
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.plan import remaining_work, teaching_work
from fourshot.pipeline.runs.stage_driver import StageDriver
from fourshot.pipeline.runs.summary import report_data
from fourshot.pipeline.synthesis.settings import AnnotateSettings
from fourshot.pipeline.work_folder import CERTAIN, LAYOUT_FILE, MANIFEST_FILE
from tests.pipeline.forecasts.machine_speeds import SPEED
from tests.pipeline.runs.prepared_experiments import METHODS, MODEL, experiment_with_texts, finish


def begun_again(old: Experiment, folder: Path) -> tuple[Experiment, list[str]]:
    """Return the experiment of ``old``'s folder with today's default annotators, and what the command says of it."""
    messages = list[str]()
    settings = msgspec.structs.replace(old.settings, annotate=AnnotateSettings(folds=0))
    again = Experiment(old.data, MODEL, settings, METHODS, old.seeds, old.root)
    StageDriver(folder / "log.txt", lambda event: messages.append(event.message)).add("notes", again)
    return again, messages


def test_a_folder_of_an_earlier_version_goes_on_without_shots_in_these_prompts(tmp_path: Path) -> None:
    old = experiment_with_texts(tmp_path / "run", show_shots="never", weights="held_out")
    (old.root / LAYOUT_FILE).unlink(missing_ok=True)  # which earlier versions wrote only for filler
    again, messages = begun_again(old, tmp_path)
    assert messages == [
        "notes: the folder was begun without shots in the annotators' prompts (show_shots), and continues without them",
        f"notes: {CERTAIN}",
    ]
    assert again.annotator_jobs(again.writers[0]) == old.annotator_jobs(old.writers[0])


def test_a_folder_whose_annotators_left_shots_out_goes_on_with_these(tmp_path: Path) -> None:
    old = experiment_with_texts(tmp_path / "run", show_shots="auto", weights="held_out")
    layout = old.root / LAYOUT_FILE
    layout.write_bytes(msgspec.json.encode({**msgspec.json.decode(layout.read_bytes()), "weights": "held_out"}))
    again, messages = begun_again(old, tmp_path)
    assert messages == [
        "notes: the folder was begun with annotators that each leave some shots out (weights), and continues with them"
    ]
    jobs = again.annotator_jobs(again.writers[0])
    assert jobs == old.annotator_jobs(old.writers[0])
    new = experiment_with_texts(tmp_path / "new", show_shots="auto")
    assert not {job.key for job in jobs} & {job.key for job in new.annotator_jobs(new.writers[0])}


def test_a_folder_whose_annotators_were_trained_to_the_planned_step_goes_on_with_these(tmp_path: Path) -> None:
    of_earlier: dict[str, Any] = {"converged_loss": 0.0, "sequences_per_step": 2}
    old = experiment_with_texts(tmp_path / "run", show_shots="auto", **of_earlier)
    layout, manifest = old.root / LAYOUT_FILE, old.writers[0].folder.path / MANIFEST_FILE
    for file in (layout, manifest):  # which had neither setting
        content = json.loads(file.read_bytes())
        for name in of_earlier:
            (content if file == layout else content["settings"]["annotate"]).pop(name)
        file.write_text(json.dumps(content))
    again, messages = begun_again(old, tmp_path)
    again.claim()
    assert messages == [
        "notes: the folder was begun with another training of its annotators (converged_loss), and continues with it"
    ]
    jobs = again.annotator_jobs(again.writers[0])
    assert jobs == old.annotator_jobs(old.writers[0])
    new = experiment_with_texts(tmp_path / "new", show_shots="auto")
    assert not {job.key for job in jobs} & {job.key for job in new.annotator_jobs(new.writers[0])}
    unlike = msgspec.structs.replace(old.settings, annotate=AnnotateSettings(folds=0, converged_loss=0.2))
    with pytest.raises(RunFolderError, match=r"annotate.converged_loss = 0.0, but this call sets 0.2.*--out"):
        Experiment(old.data, MODEL, unlike, METHODS, old.seeds, old.root)


def test_a_folder_whose_classifier_learnt_labels_for_certain_goes_on_like_that(tmp_path: Path) -> None:
    old = experiment_with_texts(tmp_path / "run", "fourshot", show_shots="auto", label_smoothing=0.0)
    layout = old.root / LAYOUT_FILE
    content = json.loads(layout.read_bytes())
    del content["label_smoothing"]
    layout.write_text(json.dumps(content))
    again, messages = begun_again(old, tmp_path)
    assert messages == [f"notes: {CERTAIN}"]
    assert again.writers[0].settings.classifier_training.label_smoothing == 0
    new = experiment_with_texts(tmp_path / "new", "fourshot", show_shots="auto")
    assert new.writers[0].settings.classifier_training.label_smoothing == AnnotateSettings().label_smoothing > 0


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


def test_texts_that_a_person_relabelled_or_dropped_estimate_no_accuracy(tmp_path: Path) -> None:
    """They have no probabilities by the annotators: with a single one, the run ended with an error of fourshot."""
    texts = {f"Text number {number}.": ("warm", "cold")[number % 2] for number in range(40)}
    experiment = experiment_with_texts(
        tmp_path / "run", "lora", "fourshot", show_shots="auto", calibrate=True, texts=texts, certainty=0.9
    )
    table = Path(open_review(experiment.writers[0].folder).path)
    rows = [*csv.DictReader(table.read_text().splitlines())]
    relabelled, dropped = (row for row in rows if row["text"] in ("Text number 7.", "Text number 8."))
    relabelled["label"], dropped["keep"] = "warm", "no"
    with table.open("w", newline="") as file:
        (written := csv.DictWriter(file, rows[0].keys())).writeheader()
        written.writerows(rows)
    finish(experiment)
    item = experiment.calibration_item(experiment.cell("lora"))
    assert item and {unseen.text for unseen in item.unseen} == texts.keys() - {relabelled["text"], dropped["text"]}


def test_a_folder_of_a_comparison_goes_on_with_the_layout_that_it_was_begun_with(tmp_path: Path) -> None:
    """The layout's own file is in the folder of the whole comparison."""
    alone = experiment_with_texts(tmp_path / "alone", "fourshot", show_shots="auto")
    compared = Experiment(alone.data, MODEL, alone.settings, ["lora", "fourshot"], alone.seeds, tmp_path / "compared")
    compared.claim()
    folder = compared.writers[0].folder
    again = Experiment(alone.data, MODEL, alone.settings, ["fourshot"], alone.seeds, folder.path, flat=True)
    again.claim()
    assert again.layout_notes == []
    assert again.annotator_jobs(again.writers[0]) == compared.annotator_jobs(compared.writers[0])


def test_a_forecast_counts_what_prompts_with_shots_change(tmp_path: Path) -> None:
    def experiment(name: str, show_shots: Literal["auto", "never"]) -> Experiment:
        return experiment_with_texts(tmp_path / name, "lora", "fourshot", show_shots=show_shots, calibrate=True)

    shown, never = experiment("shown", "auto"), experiment("never", "never")
    calls, tokens = (
        [
            sum(getattr(part, number) for part in remaining_work([run], "evaluate", SPEED) if part.stage == stage)
            for run in (shown, never)
        ]
        for stage, number in (("evaluate", "calls"), ("train the annotators", "train_tokens"))
    )
    assert calls[0] - calls[1] > 100, "LoRA on the shots is calibrated on candidates"
    assert tokens[0] > tokens[1]
    annotated = []
    for run, shows in ((shown, "always"), (never, "never")):
        annotate = msgspec.structs.replace(run.settings.annotate, average="first", show_shots=shows)
        settings = msgspec.structs.replace(run.settings, annotate=annotate)
        averaging = Experiment(run.data, MODEL, settings, ["fourshot"], run.seeds, run.root.with_name("averaging"))
        work = teaching_work(averaging, {"annotate": 100}, SPEED, writes=False)
        annotated.append(sum(part.calls for part in work if part.stage == "annotate"))
    assert annotated == [400, 100 + 4 * 30], "prompts of their own have no average"
