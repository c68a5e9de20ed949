"""Write the cards of an experiment's adapters from the files in its folder."""

from typing import Literal

import msgspec

from fourshot.engine.calibration import Calibration
from fourshot.engine.probe import ProbeResult
from fourshot.pipeline.card import CARD_FILE, EXAMPLES_FILE, PROBED_FILE, AdapterCard, TrainingText
from fourshot.pipeline.cells.calibrating import CALIBRATED_FILE, CalibrationResult
from fourshot.pipeline.cells.cell import MethodCell
from fourshot.pipeline.cells.training_texts import TrainingTexts
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.report.data import Certainty
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.synthesis.types import TextPairs
from fourshot.pipeline.work_folder import WorkFolder


def write_cards(experiment: Experiment) -> None:
    """Write the card and the training examples of each finished adapter beside its weights.

    A bias-corrected method has the adapter of another one, whose scores are on the card: its own are not the adapter's.
    """
    for cell in sorted(experiment.cells, key=_predicts_alone):
        outcome = experiment.outcome(cell)
        if (training := outcome.training) is None:
            continue
        beside, learnt = WorkFolder(training.path), experiment.training_texts(cell)
        sure = certainty_of(experiment, cell)
        # Content hashes of the training and of the test texts.
        lineage = {"job": experiment.job(cell).key, "test": experiment.test_hash, "real": value_hash(cell.real)}
        card = AdapterCard(
            name=training.name,
            task=experiment.task,
            model_name=experiment.model.name,
            model_revision=experiment.model.revision,
            prompt_version=cell.form.version,
            wording=cell.form.wording,
            chat=cell.form.chat,
            filler=cell.form.filler,
            verbalizer=cell.form.verbalizer,
            max_text_words=cell.form.max_text_words,
            long_texts=cell.form.long_texts,
            calibration=Calibration(temperature=sure.temperature),
            calibrated_on=sure.calibrated_on,
            coverage=sure.coverage,
            scope=sure.scope,
            training=cell.settings.train,
            seed=cell.seed,
            shots=learnt.shots if cell.method.synthetic else cell.shots,
            real_examples=outcome.real_examples,
            synthetic_examples=outcome.synthetic_examples,
            unlabelled_examples=outcome.unlabelled_examples,
            reviewed=learnt.review.counts,
            steps=training.steps,
            train_tokens=training.tokens,
            train_flops=training.flops,
            train_s=training.seconds,
            probe=training.probe,
            probed=beside.find(PROBED_FILE, ProbeResult),
            scores=outcome.evaluation.scores if outcome.evaluation and _predicts_alone(cell) else None,
            lineage=lineage | (learnt.lineage if cell.method.synthetic else {}),
        )
        beside.write(EXAMPLES_FILE, _examples(learnt, soft=cell.settings.learns_soft))
        beside.write(CARD_FILE, card)


def certainty_of(experiment: Experiment, cell: MethodCell) -> Certainty:
    """Return a finished classifier's calibration, coverage curve and scope; defaults for what is not determined yet."""
    outcome, item = experiment.outcome(cell), experiment.calibration_item(cell)
    calibrated = WorkFolder(item.adapter.path).find(CALIBRATED_FILE, CalibrationResult) if item else None
    calibrated = calibrated or CalibrationResult()
    certainty = Certainty(
        calibrated_on=calibrated.basis,
        temperature=calibrated.temperature,
        coverage=outcome.evaluation.curve if outcome.evaluation and _predicts_alone(cell) else calibrated.curve,
        scope=calibrated.scope,
    )
    if cell.settings.calibrate:
        return certainty
    return msgspec.structs.replace(certainty, uncalibrated_because="calibrate is off")


def _predicts_alone(cell: MethodCell) -> bool:
    """Whether the method's predictions are those of its adapter: they do not depend on other test texts."""
    return cell.method.calibration == "none"


def _examples(learnt: TrainingTexts, *, soft: bool) -> list[TrainingText]:
    """Return the training texts of a classifier, the shots first.

    ``soft``: it was trained on a probability for each label, so a text is listed with the annotators' top label.
    """
    real = [
        *(TrainingText(text=shot.text, label=shot.label, kind="shot") for shot in learnt.shots),
        *(TrainingText(text=example.text, label=example.label, kind="unlabelled") for example in learnt.answered),
    ]
    kinds: list[tuple[Literal["synthetic", "unlabelled"], TextPairs]] = [
        ("synthetic", learnt.synthetic),
        ("unlabelled", learnt.unlabelled),
    ]
    return real + [
        TrainingText(text=c.text, label=(v.predicted if soft else c.label) or v.predicted or c.label, kind=kind)
        for kind, pairs in kinds
        for c, v in learnt.trained_on(pairs)
    ]
