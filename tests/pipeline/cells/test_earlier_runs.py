"""Folders of runs that earlier versions began: their settings are read as what they stood for then."""

from pathlib import Path

import pytest

import fourshot
from fourshot.engine.errors import RunFolderError
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.synthesis.settings import PRESETS, AnnotateSettings, RunSettings
from tests.pipeline.cells.test_run_folder import manifest


def test_a_run_that_an_earlier_version_began_goes_on(tmp_path: Path) -> None:
    """Its settings have names that are others now, and some that nothing read."""
    folder = RunFolder(tmp_path / "run")
    folder.claim(manifest())
    stored = folder.read("manifest.json", dict)
    settings = stored["settings"]
    train, annotate = settings["train"], settings["annotate"]
    for now, then in {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "num_epochs": "passes"}.items():
        train[then] = train.pop(now)
    annotate["fold_passes"] = annotate.pop("fold_epochs")
    train |= {"seed": 0, "epochs": 100}
    settings["sampling"] |= {"n": 1, "stop": [], "seed": None, "max_tokens": 64}
    folder.write("manifest.json", stored)
    folder.claim(manifest())
    assert folder.manifest() == manifest()


@pytest.mark.parametrize(("preset", "temperature", "passes"), [("default", 0.5, 1.0), ("soft", 1.0, 4.0)])
def test_a_run_begun_before_probabilities_were_sharpened_keeps_its_recipe(
    tmp_path: Path, preset: str, temperature: float, passes: float
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(manifest(settings=PRESETS[preset]))
    stored = folder.read("manifest.json", dict)
    for name in ("soft_temperature", "intended_odds", "soft_epochs"):
        del stored["settings"]["annotate"][name]
    folder.write("manifest.json", stored)
    annotate = folder.manifest().settings.annotate
    assert (annotate.soft_temperature, annotate.soft_epochs) == (temperature, passes)
    assert annotate.intended_odds == (1.0 if preset == "soft" else 20.0)
    if preset == "default":  # where probabilities are not learnt, nothing is another recipe
        folder.claim(manifest(settings=PRESETS[preset]))


@pytest.mark.parametrize("settings", [RunSettings(), PRESETS["paper"], RunSettings(annotate=AnnotateSettings(folds=2))])
def test_a_run_begun_before_there_were_soft_labels_goes_on_with_labels_that_agree(
    tmp_path: Path, settings: RunSettings
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(manifest(settings=settings))
    stored = folder.read("manifest.json", dict)
    for name in ("targets", "soft_temperature", "intended_odds", "soft_epochs"):
        del stored["settings"]["annotate"][name]
    folder.write("manifest.json", stored)
    folder.claim(manifest(settings=settings))
    assert folder.manifest() == manifest(settings=settings)


def begun_with_auto(folder: RunFolder, choice: str) -> None:
    """A run of a version whose held-out shots chose labels or probabilities; "" before they did."""
    folder.claim(manifest())
    stored = folder.read("manifest.json", dict)
    stored["settings"]["annotate"]["targets"] = "auto"
    folder.write("manifest.json", stored)
    if choice:
        folder.write("recipe.json", {"targets": choice, "reason": "of 8 held-out shots", "evidence": {}})


@pytest.mark.parametrize("choice", ["", "agreement"])
def test_a_run_begun_by_a_version_that_chose_labels_goes_on(tmp_path: Path, choice: str) -> None:
    folder = RunFolder(tmp_path / "run")
    begun_with_auto(folder, choice)
    folder.claim(manifest())
    assert folder.manifest() == manifest()


def test_one_that_chose_probabilities_goes_on_with_the_preset_of_then(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    begun_with_auto(folder, "soft")
    annotate = {"in_context": 3, "soft_temperature": 0.5, "soft_epochs": 1.0}
    of_then = fourshot.settings({f"annotate.{name}": value for name, value in annotate.items()}, preset="soft")
    assert folder.manifest().settings == of_then
    with pytest.raises(RunFolderError, match=r"annotate\.targets: the folder has 'soft', this call has 'agreement'"):
        folder.claim(manifest())
    with pytest.raises(RunFolderError, match=r"annotate\.in_context: the folder has 3, this call has 0"):
        folder.claim(manifest(settings=PRESETS["soft"]))
    folder.claim(manifest(settings=of_then))
    assert folder.manifest().settings == of_then, "once it is written as that, too"
