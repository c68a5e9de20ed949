"""Runs whose first classifier reads the texts again: what is learnt when, and what is done again after a stop."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.fake_engine import WORDS
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.cells.self_training import SelfTrainingLabels
from fourshot.pipeline.loop.rounds import REASONS_AFTER_ANNOTATION, finished_pairs
from fourshot.pipeline.settings.effects import unused_in_run
from fourshot.pipeline.synthesis.filters import FilterSettings
from fourshot.pipeline.synthesis.settings import AnnotateSettings, GenerateSettings, RunSettings, UnlabelledSettings
from tests.pipeline.runs.whole_runs import WholeRuns, card_of, texts_of
from tests.pipeline.task_folders import write_jsonl

PER_CLASS = 4
SETTINGS = RunSettings(
    k=2,
    generate=GenerateSettings(per_class=PER_CLASS, draws_per_round=16, max_candidates=48),
    annotate=AnnotateSettings(num_adapters=2, self_training=True),
    allow_short=True,
    calibrate=False,
)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRuns:
    return WholeRuns(tmp_path / "task", monkeypatch)


def predictions_of(folder: RunFolder) -> tuple[Path, SelfTrainingLabels]:
    (file,) = folder.path.glob("second_reading-*.json")
    return file, folder.read(file.name, SelfTrainingLabels)


def test_the_last_classifier_learns_what_the_first_is_surest_of(runs: WholeRuns, tmp_path: Path) -> None:
    summary = runs.run(tmp_path / "run", SETTINGS)
    folder = RunFolder(tmp_path / "run")
    pairs = {candidate.id: (candidate, verdict) for candidate, verdict in finished_pairs(folder)}
    _, predictions = predictions_of(folder)
    assert {*predictions.labels} == {name for name, (_, v) in pairs.items() if v.reason in REASONS_AFTER_ANNOTATION}
    first, last = runs.trained[-2:]
    agreed = {c.text: c.label for c, v in pairs.values() if v.reason in ("kept", "surplus")}
    names = runs.task.label_names
    assert all(agreed[text] == names[x.target] for x, text in zip(first[4:], texts_of(first[4:]), strict=True))
    assert 2 <= len(first) - 4 <= PER_CLASS, "half of the texts of each class"
    read = {pairs[name][0].text: label for name, (label, _) in predictions.labels.items()}
    learnt = {text: names[x.target] for x, text in zip(last[4:], texts_of(last[4:]), strict=True)}
    assert learnt.items() <= read.items() and len(learnt) <= 2 * PER_CLASS
    assert any(pairs[name][0].label != label for name, (label, _) in predictions.labels.items()), (
        "some are read otherwise"
    )
    card = card_of(summary)
    assert (
        card.synthetic_examples == len(learnt)
        and f"{len(predictions.labels)} texts were annotated again" in runs.messages
    )


def test_what_is_finished_is_not_done_again_and_what_is_lost_comes_to_the_same(runs: WholeRuns, tmp_path: Path) -> None:
    runs.run(tmp_path / "run", SETTINGS)
    folder, trained = RunFolder(tmp_path / "run"), runs.trained
    file, _ = predictions_of(folder)
    before = file.read_bytes()
    runs.run(tmp_path / "run", SETTINGS)
    assert not runs.heard
    file.unlink()
    runs.run(tmp_path / "run", SETTINGS)
    assert file.read_bytes() == before and not runs.trained
    assert len(trained[-1]) > 4


def test_a_run_that_goes_on_without_any_text_has_none_to_annotate_again(runs: WholeRuns, tmp_path: Path) -> None:
    strict = msgspec.structs.replace(SETTINGS, filter=FilterSettings(min_letters=1.0, near_shot=0.0))
    assert runs.run(tmp_path / "run", strict).table[-1]["synthetic_examples"] == 0
    assert predictions_of(RunFolder(tmp_path / "run"))[1].labels == {}


def test_it_is_of_labels_and_of_runs_that_ask_for_it(runs: WholeRuns, tmp_path: Path) -> None:
    def changed(**changes: object) -> RunSettings:
        return msgspec.structs.replace(SETTINGS, annotate=msgspec.structs.replace(SETTINGS.annotate, **changes))

    for name, settings in {
        "not asked": changed(self_training=False),
        "nobody": changed(annotator="none"),
        "soft": changed(targets="soft", folds=0, in_context=1),
    }.items():
        runs.run(tmp_path / name, settings)
        assert not [*(tmp_path / name).glob("second_reading-*")]
        told = [key for unused in unused_in_run(settings, has_unlabelled=False) for key in unused.names]
        assert ("annotate.self_training" in told) == (name != "not asked")


def test_where_the_users_own_texts_are_learnt_instead_there_is_nothing_to_read_again(
    runs: WholeRuns, tmp_path: Path
) -> None:
    file = tmp_path / "own.jsonl"
    write_jsonl(file, [{"text": f"A {word} by the old mill at noon."} for word in WORDS[60:90]])
    settings = msgspec.structs.replace(SETTINGS, unlabelled=UnlabelledSettings(mode="instead"))
    runs.run(tmp_path / "run", settings, unlabelled=file)
    assert runs.trained and not [*(tmp_path / "run").glob("second_reading-*")]
    told = [key for unused in unused_in_run(settings, has_unlabelled=True) for key in unused.names]
    assert "annotate.self_training" in told
