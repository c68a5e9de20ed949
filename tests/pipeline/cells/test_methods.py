"""The methods of a comparison: the baselines get the recipe of the method they are compared with."""

import msgspec
import pytest

import fourshot
from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.methods import METHODS
from fourshot.pipeline.synthesis.settings import PRESETS, AnnotateSettings, GenerateSettings, RunSettings
from fourshot.training.lora.settings import LoraSettings

TUNED = RunSettings(train=LoraSettings(learning_rate=1e-3, r=16), seed=3)


@pytest.mark.parametrize(
    "method",
    [
        *("lora", "lora25", "fourshot", "lora_bare", "lora25_bare", "fourshot_bare"),
        *("unfiltered", "icl_filter", "shots_filter", "folds_filter", "shots_and_folds_filter"),
    ],
)
def test_every_trained_method_but_the_paper_s_is_trained_with_the_run_s_settings(method: str) -> None:
    assert METHODS[method].settings(TUNED).train == TUNED.train


def test_the_paper_s_recipe_does_not_follow_the_run_s_training_settings() -> None:
    settings = METHODS["paper"].settings(msgspec.structs.replace(TUNED, wording="bare"))
    assert settings.train == PRESETS["paper"].train
    assert (settings.train.r, settings.train.lora_alpha, settings.train.lora_dropout) == (8, 32, 0.1)
    assert settings.train.loss == "text" and settings.wording == "task"
    assert settings.annotate.annotator == "icl" and settings.annotate.calibration == "none"


@pytest.mark.parametrize(
    ("method", "annotators"),
    [
        ("unfiltered", ("none", 4, 0)),
        ("icl_filter", ("icl", 4, 0)),
        ("shots_filter", ("adapters", 4, 0)),
        ("folds_filter", ("adapters", 0, 2)),
        ("shots_and_folds_filter", ("adapters", 4, 2)),
    ],
)
def test_an_ablation_changes_who_reads_and_nothing_else_that_is_drawn_or_trained(
    method: str, annotators: tuple[str, int, int]
) -> None:
    settings = METHODS[method].settings(TUNED)
    assert (settings.annotate.annotator, settings.annotate.num_adapters, settings.annotate.folds) == annotators
    same = msgspec.structs.replace(settings, annotate=TUNED.annotate, allow_short=TUNED.allow_short)
    assert same == TUNED


@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_the_layout_of_prompts_that_its_folder_was_begun_with(method: str) -> None:
    never = RunSettings(align=False, annotate=AnnotateSettings(show_shots="never"))
    settings = METHODS[method].settings(never)
    assert not settings.align
    assert settings.annotate.show_shots == "never" or settings.annotate.annotator != "adapters"


@pytest.mark.parametrize(
    ("method", "annotators"), [("soft", (4, 0)), ("soft_with_base", (4, 3)), ("soft_in_context", (0, 3))]
)
def test_the_method_soft_is_the_preset_of_that_name(method: str, annotators: tuple[int, int]) -> None:
    settings, preset = METHODS[method].settings(TUNED), PRESETS["soft"]
    assert settings.train == TUNED.train and settings.learns_soft and settings.generate == preset.generate
    assert (settings.annotate.num_adapters, settings.annotate.in_context) == annotators
    if method == "soft":
        assert (settings.annotate, settings.variety) == (preset.annotate, preset.variety)


@pytest.mark.parametrize("method", ["lora", "fourshot", "lora25"])
def test_a_bare_method_differs_from_its_counterpart_in_the_prompt_s_wording_alone(method: str) -> None:
    plain, bare = METHODS[method], METHODS[f"{method}_bare"]
    assert bare.settings(TUNED) == msgspec.structs.replace(plain.settings(TUNED), wording="bare")
    assert (bare.trained, bare.real_per_class, bare.synthetic) == (plain.trained, plain.real_per_class, plain.synthetic)
    assert bare.texts_of == ("fourshot" if plain.synthetic else "")


@pytest.mark.parametrize("method", ["zero_shot", "icl", "lora", "fourshot"])
def test_a_calibrated_method_differs_from_its_counterpart_in_what_its_answers_are_corrected_by(method: str) -> None:
    plain, calibrated = METHODS[method], METHODS[f"{method}_calibrated"]
    assert (plain.calibration, calibrated.calibration) == ("none", "batch")
    assert calibrated.texts_of == ("fourshot" if plain.synthetic else "")
    names = {"display_name": plain.display_name, "calibration": "none", "texts_of": plain.texts_of}
    assert msgspec.structs.replace(calibrated, **names) == plain


def test_only_in_context_methods_show_examples_in_the_prompt() -> None:
    assert {name for name, method in METHODS.items() if method.shots_in_prompt} == {"icl", "icl_calibrated"}
    assert not any(method.trained and method.shots_in_prompt for method in METHODS.values())


@pytest.mark.parametrize(
    ("kind", "wrong", "names"),
    [
        (AnnotateSettings, {"folds": 1}, "folds 0 or at least 2"),
        (AnnotateSettings, {"folds": 0, "num_adapters": 0}, "there is no annotator"),
        (AnnotateSettings, {"fold_weight": 0.0}, "fold_weight above 0"),
        (AnnotateSettings, {"confidence": 1.5}, "confidence must be from 0 to 1"),
        (AnnotateSettings, {"label_smoothing": 1.0}, "label_smoothing from 0 to below 1"),
        (GenerateSettings, {"draws_per_round": 0}, r"draws_per_round must be at least 1; got 0"),
    ],
)
def test_a_setting_out_of_bounds_is_refused_by_name(kind: type, wrong: dict[str, float], names: str) -> None:
    with pytest.raises(InputError, match=names):
        kind(**wrong)


def test_labels_of_generated_texts_are_smoothed_unless_they_are_words_or_probabilities() -> None:
    """Those of real texts and of the annotators' trainings are not."""

    def smoothing(preset: str = "default", **values: float | str) -> tuple[float, float]:
        changes = {name.replace("__", "."): value for name, value in values.items()}
        settings = fourshot.settings(changes, preset)
        return settings.train.label_smoothing, settings.classifier_training.label_smoothing

    assert smoothing() == (0, 0.1)
    assert smoothing("soft") == smoothing("paper") == smoothing(verbalizer="word") == (0, 0)
    assert smoothing(annotate__label_smoothing=0.0) == (0, 0)
    assert smoothing(train__label_smoothing=0.3) == (0.3, 0.3)
    assert smoothing(train__converged_loss=0.05) == (0, 0), "a loss that smoothed labels would never reach"
