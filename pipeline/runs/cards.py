"""The cards of an experiment's adapters."""

from fourshot.engine.probe import Probed
from fourshot.pipeline.card import CARD_FILE, PROBED_FILE, AdapterCard
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.work_folder import WorkFolder


def write_cards(experiment: Experiment) -> None:
    """Put beside each finished adapter what it is."""
    for cell in experiment.cells:
        outcome = experiment.outcome(cell)
        if (training := outcome.training) is None:
            continue
        beside, learnt = WorkFolder(training.path), experiment.learnt(cell)
        # Content hashes of what the adapter was made from, and of what it was measured on.
        lineage = {"job": experiment.job(cell).key, "test": experiment.test_hash, "real": value_hash(cell.real)}
        card = AdapterCard(
            name=training.name,
            task=experiment.task,
            model_name=experiment.model.name,
            model_revision=experiment.model.revision,
            prompt_version=cell.form.version,
            wording=cell.form.wording,
            chat=cell.form.chat,
            verbalizer=cell.form.verbalizer,
            max_text_words=cell.form.max_text_words,
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
            probed=beside.read(PROBED_FILE, Probed) if beside.has(PROBED_FILE) else None,
            scores=outcome.evaluation.scores if outcome.evaluation else None,
            lineage=lineage | (learnt.lineage if cell.method.synthetic else {}),
        )
        beside.write(CARD_FILE, card)
