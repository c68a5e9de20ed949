"""What the classifier is trained on where it learns what a committee says of each text."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.calibrating import unseen_texts
from fourshot.pipeline.cells.cell import MethodCell, SeedExamples, method_cells
from fourshot.pipeline.cells.review import Decisions, corrected_pairs
from fourshot.pipeline.cells.training_texts import TrainingTexts, held_back
from fourshot.pipeline.cells.trainings import (
    annotator_jobs,
    classifier_job,
    shot_orders,
    shots_left_out,
    soft_examples,
)
from fourshot.pipeline.rows.review_table import ReviewAnswer
from fourshot.pipeline.synthesis.evidence import alignment, learnt_probabilities
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.settings import PRESETS, AnnotateSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.lora.settings import PRESETS as TRAINING_PRESETS
from fourshot.training.lora.settings import LoraSettings, rate_by_size

TASK = load_task("support_tickets")
NAMES = TASK.label_names
MODEL = ResolvedModel(path="nowhere", name="a/model", revision="abc")
SHOTS = tuple(Example(text=f"{name} number {number}", label=name) for number in range(4) for name in NAMES)


def cell(**annotate: object) -> MethodCell:
    soft = PRESETS["soft"]
    settings = msgspec.structs.replace(soft, annotate=msgspec.structs.replace(soft.annotate, **annotate))
    (only,) = method_cells(settings, ["fourshot"], [SeedExamples(seed=0, shots=SHOTS)], Path("nowhere"), flat=True)
    return only


def pair(number: int, label: str, predicted: str, kept: bool = True) -> tuple[Candidate, Verdict]:
    candidate = Candidate(
        id=f"r00-{number:06d}",
        text=f"text {number}",
        label=label,
        round=0,
        prompt_hash="0" * 12,
        shots=(),
        num_tokens=5,
        cumulative_logprob=-9.0,
        finish_reason="stop",
    )
    share = {name: 0.7 if name == predicted else 0.3 / (len(NAMES) - 1) for name in NAMES}
    verdict = Verdict(
        candidate_id=candidate.id, kept=kept, reason="kept" if kept else "low_confidence", predicted=predicted
    )
    return candidate, msgspec.structs.replace(verdict, probabilities=share)


PAIRS = [pair(0, NAMES[0], NAMES[0]), pair(1, NAMES[0], NAMES[1]), pair(2, NAMES[1], NAMES[1], kept=False)]
LEARNT = TrainingTexts(shots=SHOTS, synthetic=PAIRS)


def test_a_text_is_learnt_as_the_committee_reads_it_whatever_it_was_drawn_for() -> None:
    job = classifier_job(TASK, "abc", cell(soft_temperature=0.5), LEARNT)
    first, second = job.examples[len(SHOTS) :]
    assert (first.target, second.target) == (0, 1)
    for example, likeliest in ((first, 0), (second, 1)):
        assert isinstance(example.soft, tuple)
        assert sum(example.soft) == pytest.approx(1)
        assert example.soft.index(max(example.soft)) == likeliest
    assert isinstance(first.soft, tuple) and isinstance(second.soft, tuple)
    # Both were drawn for the first label: that is a reason to believe it, and one to doubt the other.
    likeliest_odds, other_odds = 0.7**2, (0.3 / (len(NAMES) - 1)) ** 2
    assert max(first.soft) == pytest.approx(20 * likeliest_odds / (20 * likeliest_odds + (len(NAMES) - 1) * other_odds))
    assert max(second.soft) == pytest.approx(
        likeliest_odds / (likeliest_odds + 20 * other_odds + (len(NAMES) - 2) * other_odds)
    )
    assert all(example.soft is msgspec.UNSET for example in job.examples[: len(SHOTS)]), "shots are known for certain"
    unchanged = cell(intended_odds=1.0)
    as_read = classifier_job(TASK, "abc", unchanged, LEARNT).examples[len(SHOTS)]
    assert isinstance(as_read.soft, tuple) and max(as_read.soft) == pytest.approx(0.7)


def test_a_committee_that_prefers_a_label_is_set_right_by_what_the_texts_were_drawn_for() -> None:
    # 20 texts for each label; half of the first one's are read as the second label.
    read_as = [0] * 10 + [1] * 10 + [n for n in range(1, len(NAMES)) for _ in range(20)]
    pairs = [pair(number, NAMES[number // 20], NAMES[read]) for number, read in enumerate(read_as)]
    unaligned = cell(soft_temperature=1.0, intended_odds=1.0).settings.annotate
    annotate = msgspec.structs.replace(unaligned, distribution_alignment=True)
    factors = alignment(pairs, NAMES, annotate)
    assert max(factors.values()) == factors[NAMES[0]] == 1 > factors[NAMES[1]] > 0.1

    def mean(annotate: AnnotateSettings) -> list[float]:
        examples = soft_examples(TASK, pairs, PromptFormat(), annotate)
        learnt = [example.soft for example in examples if isinstance(example.soft, tuple)]
        return [sum(column) / len(pairs) for column in zip(*learnt, strict=True)]

    assert mean(unaligned)[:2] == pytest.approx([0.15, 0.25], abs=0.02)
    assert mean(annotate) == pytest.approx([1 / len(NAMES)] * len(NAMES), abs=0.005)
    # A user's own text was drawn for nothing, and is read by the same committee.
    candidate, verdict = pair(900, "", NAMES[1])
    assert alignment([*pairs, (candidate, verdict)], NAMES, annotate) == factors
    assert alignment([], NAMES, annotate) == dict.fromkeys(NAMES, 1.0) == alignment(pairs, NAMES, unaligned)
    learnt = learnt_probabilities(candidate, verdict.probabilities, NAMES, annotate, factors)
    assert sum(learnt) == pytest.approx(1) and learnt[1] < verdict.probabilities[NAMES[1]]


def test_texts_with_probabilities_are_passed_over_twice() -> None:
    many = TrainingTexts(shots=SHOTS, synthetic=[pair(number, NAMES[0], NAMES[0]) for number in range(600)])
    job = classifier_job(TASK, "abc", cell(), many)
    assert job.settings == msgspec.structs.replace(cell().settings.train, num_epochs=2.0)
    agreed = classifier_job(TASK, "abc", cell(targets="agreement"), many)
    assert agreed.settings == msgspec.structs.replace(cell().settings.train, label_smoothing=0.1)
    assert agreed.settings.num_epochs == 4.0


def test_some_of_many_kept_texts_are_held_back_to_be_asked_about_but_none_that_a_person_corrected() -> None:
    pairs = [pair(number, NAMES[0], NAMES[0]) for number in range(600)]
    many = TrainingTexts(shots=SHOTS, synthetic=pairs)
    held_ids = held_back(many)
    assert len(held_ids) == 60 and held_ids < {candidate.id for candidate, _ in pairs}
    learnt = msgspec.structs.replace(many, held_back=held_ids)
    assert len(learnt.kept) == 540 == len(classifier_job(TASK, "abc", cell(), learnt).examples) - len(SHOTS)
    unseen = unseen_texts(learnt.unseen, compared=True)
    certainty = max(pairs[0][1].probabilities.values())
    assert len(unseen) == 60 and {text.certainty for text in unseen} == {certainty}
    corrected = Decisions(answers={key: ReviewAnswer(keep=True, label=NAMES[0]) for key in held_ids})
    assert not held_ids & held_back(msgspec.structs.replace(many, synthetic=corrected_pairs(pairs, corrected)))
    assert not held_back(msgspec.structs.replace(many, synthetic=pairs[:199])), "too few to calibrate on"


def test_where_labels_must_agree_the_intended_one_is_learnt_for_certain() -> None:
    job = classifier_job(TASK, "abc", cell(targets="agreement"), LEARNT)
    learnt = job.examples[len(SHOTS) :]
    assert [example.target for example in learnt] == [0, 0]
    assert all(example.soft is msgspec.UNSET for example in learnt)


def test_every_shot_is_left_out_by_an_adapter_and_every_adapter_knows_every_class() -> None:
    assert shots_left_out(cell(), 4) == [()] * 4, "they see the shots, so none is left out"
    left_out = shots_left_out(cell(show_shots="never"), 4)
    assert sorted(index for part in left_out for index in part) == list(range(len(SHOTS)))
    jobs = annotator_jobs(TASK, MODEL, cell(show_shots="never"))
    assert [len(job.examples) for job in jobs] == [len(SHOTS) - len(part) for part in left_out]
    assert all({example.target for example in job.examples} == set(range(len(NAMES))) for job in jobs)
    assert shots_left_out(cell(weights="equal"), 4) == [()] * 4
    assert {len(job.examples) for job in annotator_jobs(TASK, MODEL, cell(weights="equal", show_shots="never"))} == {
        len(SHOTS)
    }


def test_prompts_in_context_show_all_shots_in_orders_of_their_own() -> None:
    orders = shot_orders(len(SHOTS), 3, seed=0)
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(len(SHOTS))) for order in orders)
    assert shot_orders(len(SHOTS), 3, seed=1) != orders


def test_soft_labels_and_the_loss_on_the_whole_text_exclude_each_other() -> None:
    with pytest.raises(InputError, match=r"annotate\.targets is 'soft'"):
        msgspec.structs.replace(PRESETS["soft"], train=TRAINING_PRESETS["paper"])
    shares = {name: (preset.learns_soft, preset.mixed_share) for name, preset in PRESETS.items()}
    no = (False, 0.0)
    assert shares == {"default": no, "soft": (True, 0.5), "paper": no, "corpus": no}


def test_a_larger_base_learns_more_slowly() -> None:
    assert LoraSettings().learning_rate == 0
    assert rate_by_size(1_000_000) == rate_by_size(134_515_008) == 5e-4
    assert rate_by_size(540_000_000) == pytest.approx(2.5e-4)
