"""What is learnt of a text: the rule, and which settings it changes."""

import msgspec
import pytest

from fourshot.pipeline.synthesis.evidence import KindEvidence
from fourshot.pipeline.synthesis.recipe import Recipe, chosen_recipe, resolved
from fourshot.pipeline.synthesis.settings import PRESETS, AnnotateSettings, GenerateSettings, RunSettings
from fourshot.training.lora.settings import PRESETS as TRAINING_PRESETS
from fourshot.training.lora.settings import LoraSettings

SOFT, AGREEMENT = (Recipe(targets=targets, reason="so it is") for targets in ("soft", "agreement"))


def read(accuracy: float, loss: float) -> KindEvidence:
    return KindEvidence(weight=0.5, accuracy=accuracy, loss=loss, num_texts=8)


@pytest.mark.parametrize(
    ("in_context", "adapters", "targets"),
    [
        (read(0.88, 0.44), read(0.75, 1.36), "soft"),
        (read(0.75, 0.44), read(0.75, 0.45), "agreement"),
        (read(0.5, 0.72), read(0.75, 0.68), "agreement"),
        (read(0.88, 0.7), read(0.75, 0.68), "agreement"),
        (read(0.5, 0.6), read(0.75, 0.68), "agreement"),
        (read(0.75, 0.68), read(0.75, 0.68), "agreement"),
        (read(0.75, 0.58), read(0.5, 1.11), "agreement"),  # better than the adapters, and hardly better than chance
    ],
)
def test_probabilities_are_learnt_where_the_base_in_context_reads_better_in_both(
    in_context: KindEvidence, adapters: KindEvidence, targets: str
) -> None:
    recipe = chosen_recipe({"adapters": adapters, "in context": in_context}, 2)
    assert recipe.targets == targets and recipe.evidence == {"adapters": adapters, "in context": in_context}
    for part in (
        f"{in_context.accuracy:.0%}",
        f"{adapters.accuracy:.0%}",
        f"loss {adapters.loss:.2f}",
        "8 held-out",
        "guess is 0.69",
    ):
        assert part in str(recipe)
    assert ("probabilities of all labels" in str(recipe)) == (targets == "soft")


def test_how_little_a_base_may_know_depends_on_the_number_of_labels() -> None:
    evidence = {"adapters": read(0.5, 2.0), "in context": read(0.75, 0.58)}
    assert [chosen_recipe(evidence, number).targets for number in (2, 3, 6)] == ["agreement", "soft", "soft"]


@pytest.mark.parametrize(
    "annotate",
    [
        {"targets": "agreement"},
        {"targets": "soft"},
        {"confidence": 0.5},
        {"annotator": "icl"},
        {"annotator": "none"},
        {"weights": "equal"},
        {"num_adapters": 3},
        {"in_context": 1},
        {"num_encoders": 1},
        {"folds": 2},
        {"fold_weight": 1.0},
        {"fold_epochs": 4.0},
    ],
)
def test_who_said_what_is_learnt_or_who_reads_has_it_so(annotate: dict[str, object]) -> None:
    settings = msgspec.structs.replace(RunSettings(), annotate=msgspec.structs.replace(AnnotateSettings(), **annotate))
    assert not settings.is_tried and resolved(settings, SOFT) == settings


@pytest.mark.parametrize("train", [TRAINING_PRESETS["paper"], LoraSettings(loss="text"), LoraSettings(num_epochs=2.0)])
def test_who_said_how_labels_are_learnt_for_certain_has_it_so(train: LoraSettings) -> None:
    assert resolved(RunSettings(train=train), SOFT) == RunSettings(train=train)


def test_without_an_answer_of_the_shots_labels_must_agree() -> None:
    assert RunSettings().is_tried and resolved(RunSettings(), None) == RunSettings()
    assert not RunSettings().learns_soft


def test_probabilities_are_learnt_as_with_the_preset_soft_and_labels_as_if_it_had_been_said() -> None:
    assert resolved(RunSettings(), SOFT) == PRESETS["soft"]
    assert resolved(RunSettings(), AGREEMENT) == RunSettings(annotate=AnnotateSettings(targets="agreement"))


def test_what_else_was_set_stays() -> None:
    settings = RunSettings(
        k=8,
        wording="bare",
        generate=GenerateSettings(per_class=21, draws_per_round=40, max_candidates=90),
        annotate=AnnotateSettings(soft_temperature=0.7, wordings=("answer",)),
        train=LoraSettings(r=16),
    )
    tried = resolved(settings, SOFT)
    changed = msgspec.structs.replace(settings, annotate=tried.annotate, generate=tried.generate)
    assert tried == changed and tried.learns_soft
    assert (tried.annotate.soft_temperature, tried.annotate.wordings) == (0.7, ("answer",))
    assert tried.generate == GenerateSettings(per_class=42, draws_per_round=70, max_candidates=90)


@pytest.mark.parametrize(("per_class", "most", "expected"), [(300, 640, 320), (400, 640, 400), (400, 0, 800)])
def test_no_more_texts_are_wanted_than_are_likely_to_be_drawn(per_class: int, most: int, expected: int) -> None:
    """A run that had reached ``per_class`` is not to stall because probabilities take twice as many."""
    assert GenerateSettings(per_class=per_class, max_candidates=most).for_soft.per_class == expected
