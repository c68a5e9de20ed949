"""Which adapters an experiment trains to calibrate its classifiers, and what their cards say of it."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fourshot.engine.machine.files import write_json
from fourshot.pipeline.card import load_card, load_examples
from fourshot.pipeline.cells.calibrating import CALIBRATED_FILE, CalibrationResult
from fourshot.pipeline.cells.measuring import evaluation_of
from fourshot.pipeline.runs.cards import certainty_of, write_cards
from fourshot.pipeline.runs.stages.train import on_real_texts
from fourshot.pipeline.runs.summary import report_data
from tests.pipeline.runs.prepared_experiments import WRITTEN, experiment_with_texts, finish


def test_a_classifier_is_calibrated_by_adapters_that_each_left_shots_out(tmp_path: Path) -> None:
    plain = experiment_with_texts(tmp_path / "plain", "lora", "fourshot", "paper", "lora25")
    experiment = experiment_with_texts(tmp_path / "run", "lora", "fourshot", "paper", "lora25", calibrate=True)
    jobs, those_that_annotate = ({job.key: job for job in on_real_texts(run).items} for run in (experiment, plain))
    assert jobs.keys() == those_that_annotate.keys()
    num_shots = len(experiment.seeds[0].shots)
    assert Counter(len(job.examples) for job in jobs.values())[num_shots - 2] == 4
    finish(plain)
    finish(experiment)
    items = {cell.name: experiment.calibration_item(cell) for cell in experiment.cells}
    assert {name for name, item in items.items() if item} == {"lora", "fourshot"}
    assert items["fourshot"] and [len(calibrator.left_out) for calibrator in items["fourshot"].calibrators] == [2] * 4
    for cell in experiment.cells:  # an old score is not taken for one of the calibrated classifier
        names = [Path(run.evaluation_cell(run.cell(cell.name)).out).name for run in (plain, experiment)]
        assert (names[0] == names[1]) == (items[cell.name] is None)
    again = experiment_with_texts(tmp_path / "elsewhere", "lora", "fourshot", "paper", "lora25", calibrate=True)
    finish(again)
    for cell in experiment.cells:  # nor is one measured again because the folder was moved
        assert len({Path(run.evaluation_cell(cell).out).name for run in (experiment, again)}) == 1


def test_the_card_says_the_temperature_and_what_it_was_found_on(tmp_path: Path) -> None:
    experiment = experiment_with_texts(tmp_path / "my run", "lora", "fourshot", calibrate=True)
    finish(experiment)
    lora, fourshot = (experiment.result(experiment.cell(name)) for name in ("lora", "fourshot"))
    assert lora and fourshot
    write_json(Path(fourshot.path) / CALIBRATED_FILE, CalibrationResult(temperature=2.5, num_shots=8))
    write_cards(experiment)
    card = load_card(fourshot.path)
    assert (card.calibration.temperature, card.calibrated_on) == (2.5, "8 shots that adapters were trained without")
    assert (load_card(lora.path).calibration.temperature, load_card(lora.path).calibrated_on) == (1.0, "")
    learnt = load_examples(fourshot.path, card)
    assert [example.text for example in learnt if example.kind == "synthetic"] == list(WRITTEN)
    assert [example.text for example in learnt if example.kind == "shot"] == [shot.text for shot in card.shots]
    report = report_data(experiment, "a run")
    assert report.certainty == certainty_of(experiment, experiment.cell("fourshot"))
    assert report.try_it == f"fourshot predict '{experiment.root}' 'A text of your own'"
    off = experiment_with_texts(tmp_path / "off", "lora")
    assert certainty_of(off, off.cell("lora")).uncalibrated_because == "calibrate is off"


@pytest.mark.parametrize("methods", [("lora", "lora_calibrated"), ("lora_calibrated", "lora"), ("lora_calibrated",)])
def test_a_card_has_the_scores_of_its_adapter_not_those_with_the_bias_of_the_test_texts_subtracted(
    tmp_path: Path, methods: tuple[str, ...]
) -> None:
    experiment = experiment_with_texts(tmp_path / "run", *methods)
    finish(experiment)
    for cell in experiment.cells:
        sure = np.full((len(experiment.test), 2), 0.1)
        for row, example in zip(sure, experiment.test, strict=True):
            right = experiment.task.label_names.index(example.label)
            row[right if cell.name == "lora_calibrated" else 1 - right] = 0.9
        measured = evaluation_of(sure, experiment.task, experiment.test, seconds=1.0)
        write_json(Path(experiment.evaluation_cell(cell).out), measured)
    write_cards(experiment)
    (adapter,) = {result.path for cell in experiment.cells if (result := experiment.result(cell))}
    card = load_card(adapter)
    if "lora" in methods:
        assert card.scores and card.scores.accuracy == 0.0 and card.coverage and card.coverage.accuracy(1.0) == 0.0
    else:
        assert (card.scores, card.coverage) == (None, None)


def test_where_probabilities_are_learnt_no_more_adapters_are_trained(tmp_path: Path) -> None:
    plain, calibrated = (
        experiment_with_texts(tmp_path / name, "soft", calibrate=name == "on") for name in ("off", "on")
    )
    assert [job.key for job in on_real_texts(plain).items] == [job.key for job in on_real_texts(calibrated).items]
