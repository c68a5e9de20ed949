"""Settings without effect are told in one line before the work begins; what surely was to have one is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import fourshot
from fourshot.cli.main import main
from fourshot.engine.errors import InputError
from fourshot.pipeline.events import Event, ignore
from fourshot.pipeline.runs.compare import DEFAULT_METHODS, ComparisonRequest, plan_comparison
from fourshot.pipeline.runs.compared_settings import unused_in_comparison
from fourshot.pipeline.runs.many import TrainingsRequest, plan_trainings
from fourshot.pipeline.runs.run import RunRequest, plan_run
from fourshot.pipeline.settings.effects import (
    Unused,
    unused_by_teacher,
    unused_in_corpus,
    unused_in_run,
    unused_line,
    unused_with_teacher,
)
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
from tests.pipeline.corpus.small_corpora import make, named, rows_of


def told_in_run(preset: str = "default", *, has_unlabelled: bool = False, **values: Any) -> str:
    settings = fourshot.settings({name.replace("__", "."): value for name, value in values.items()}, preset)
    return unused_line(settings, unused_in_run(settings, has_unlabelled=has_unlabelled))


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_is_told_of_a_preset(preset: str) -> None:
    assert told_in_run(preset) == ""


def test_a_run_tells_what_nobody_reads() -> None:
    assert told_in_run("soft", annotate__annotator="none") == (
        "settings without effect here: annotate.targets, annotate.soft_temperature, annotate.soft_epochs "
        "(annotate.annotator is 'none')"
    )
    assert told_in_run(annotate__average="first", annotate__show_shots="always").endswith(
        ": annotate.average (annotate.show_shots gives each adapter another prompt)"
    )
    assert told_in_run(annotate__annotator="icl", annotate__folds=3, annotate__weights="equal") == (
        "settings without effect here: annotate.weights, annotate.folds (annotate.annotator is 'icl')"
    )
    assert told_in_run(annotate__calibration="batch", unlabelled__mode="instead", train__r=4) == (
        "settings without effect here: unlabelled.mode (no file of texts without labels is given); "
        "annotate.calibration (only for annotate.annotator 'icl')"
    )
    assert told_in_run(unlabelled__mode="instead", has_unlabelled=True) == ""
    for values, why in (
        ({"train__label_smoothing": 0.2}, "train.label_smoothing replaces it"),
        ({"train__converged_loss": 0.1}, "train.converged_loss ends a training before it is certain"),
        ({"verbalizer": "word"}, "the labels are learnt as words or text"),
    ):
        told = told_in_run(annotate__label_smoothing=0.3, **values)
        assert told == f"settings without effect here: annotate.label_smoothing ({why})"
    assert told_in_run(variety__mixed=1, annotate__soft_epochs=2, annotate__fold_weight=1.0) == (
        "settings without effect here: annotate.fold_weight (annotate.folds is 0); variety.mixed, annotate.soft_epochs "
        "(training uses labels, not probabilities)"
    )
    assert told_in_run("soft", variety__mixed=1, annotate__soft_epochs=2) == ""


def test_a_run_on_your_texts_alone_tells_what_is_of_writing() -> None:
    values: dict[str, Any] = {"unlabelled__mode": "instead", "generate__per_class": 9, "sampling__top_k": 9}
    told = told_in_run(has_unlabelled=True, variety__attributes=True, filter__min_letters=0.1, **values)
    assert told == (
        "settings without effect here: sampling.top_k, generate.per_class, variety.attributes (unlabelled.mode is "
        "'instead', so no texts are written)"
    )
    assert told_in_run(has_unlabelled=True, annotate__folds=2, **values) == "", "a pool is drawn"


def test_what_another_value_rules_out_is_told() -> None:
    assert told_in_run(variety__shots_shown=3) == told_in_run(variety__shots_shown=4, k=8) == ""
    told = told_in_run(variety__shots_shown=4, train__warmup=0.0, train__min_warmup_steps=3)
    assert told == (
        "settings without effect here: variety.shots_shown (prompts show all k shots of a class already); "
        "train.min_warmup_steps (train.warmup is 0)"
    )
    corpus = fourshot.settings({"variety.shots_shown": 9}, "corpus")
    assert "variety.shots_shown (" in unused_line(corpus, unused_in_corpus(corpus), ("corpus", "default"))


def test_a_comparison_tells_what_none_of_its_methods_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(methods: Sequence[str], **values: Any) -> str:
        settings = fourshot.settings({name.replace("__", "."): value for name, value in values.items()})
        return unused_line(settings, unused_in_comparison(settings, methods))

    many: dict[str, Any] = {"train__r": 4, "filter__min_letters": 0.1, "base_verbalizer": "word", "shot_weight": 2.0}
    assert told(DEFAULT_METHODS, **many) == told(["fourshot_bare", "icl"], **many) == ""
    assert told(["zero_shot", "icl"], **many) == (
        "settings without effect here: filter.min_letters, shot_weight (no compared method generates texts); "
        "train.r (no compared method is trained)"
    )
    assert told(["icl"], train__loss="text", k=9, prompt_style="chat", test_limit=9) == "", "it takes the filler away"
    assert told(["lora"], annotate__folds=2, annotate__wordings=["bare"]).endswith(
        "here: annotate.folds (no compared method has annotators)"
    )
    assert "annotate.wordings (" in told(["lora25"], annotate__wordings=["bare"])
    assert told(["soft", "soft_as_read"], annotate__folds=2, generate__per_class=9, variety__attributes=True) == (
        "settings without effect here: generate.per_class, annotate.folds (the compared methods have their own values)"
    )
    assert told(["icl", "committee"], train__r=4, annotate__folds=2, generate__per_class=9) == "", "it has a pool"
    assert told(["committee"], train__r=4, annotate__average="first", generate__per_class=9).endswith(
        "here: generate.per_class, annotate.average (no compared method learns texts)"
    )
    assert told(["committee"], annotate__label_smoothing=0.2).endswith("(no compared method learns texts)")
    assert told(["unfiltered", "lora"], annotate__label_smoothing=0.2) == ""
    assert told(["committee", "fourshot"], annotate__average="first", generate__per_class=9, wording="bare") == ""
    assert told(["icl", "unfiltered"], annotate__num_adapters=2).endswith("(not used by any compared method)")
    assert told(["fourshot"], annotate__fold_weight=1.0).endswith("annotate.fold_weight (annotate.folds is 0)")
    assert told(["fourshot", "folds_filter"], annotate__fold_weight=1.0) == ""
    monkeypatch.setattr("fourshot.pipeline.runs.compare.refuse_fake", lambda *_: None)
    settings, events = fourshot.settings({"train.r": 4}), list[Event]()
    request = ComparisonRequest(named("one")["one"], "fake", settings, ["icl"], [0], tmp_path / "out")
    plan_comparison(request, events.append)
    assert events[0].notice and "train.r (no compared" in events[0].message


def test_a_corpus_tells_what_is_of_trainings_and_of_others_who_read() -> None:
    def told(**values: Any) -> str:
        settings = fourshot.settings({name.replace("__", "."): v for name, v in values.items()}, "corpus")
        return unused_line(settings, unused_in_corpus(settings), ("corpus", "default"))

    assert told() == told(annotate__annotator="adapters") == told(generate__per_class=3, sampling__top_k=9) == ""
    assert told(train__r=3, annotate__num_adapters=9, annotate__in_context=1, test_limit=3, calibrate=False) == (
        "settings without effect here: train.r, test_limit, calibrate (a corpus trains and measures nothing); "
        "annotate.num_adapters, annotate.in_context (annotated by the base model, shown the shots alone)"
    )
    assert "base_verbalizer (only for annotate.annotator 'icl')" in told(
        base_verbalizer="word", annotate__annotator="none"
    )


def test_a_distillation_tells_what_is_of_a_teacher_that_is_trained_and_of_texts_that_are_written() -> None:
    settings = fourshot.settings(
        {"train.r": 16, "annotate.annotator": "icl", "k": 2, "annotate.confidence": 0.9, "generate.draws_per_round": 9}
    )
    asked = unused_line(settings, unused_with_teacher(settings, is_remote=True, has_shots=True, writes=False))
    assert asked == (
        "settings without effect here: annotate.annotator, annotate.confidence, train.r (the teacher is not trained "
        "here); generate.draws_per_round (no texts are written here)"
    )
    writing = unused_line(settings, unused_with_teacher(settings, is_remote=True, has_shots=True, writes=True))
    assert writing == "settings without effect here: train.r (the teacher is not trained here)"
    student = unused_line(settings, unused_with_teacher(settings, is_remote=False, has_shots=True, writes=False))
    assert student.endswith("; k (the teacher has its own shots)")
    committee = fourshot.settings({"annotate.folds": 2, "annotate.confidence": 0.9, "train.r": 16, "calibrate": False})
    reads = unused_line(committee, unused_by_teacher(committee, writes=False))
    assert reads == (
        "settings without effect here: calibrate (the classifier is a separate student); annotate.folds (this teacher "
        "is trained only on the shots); annotate.confidence (the teacher writes no texts)"
    )
    assert "confidence" not in unused_line(committee, unused_by_teacher(committee, writes=True))


def test_a_setting_is_told_once_and_a_long_list_is_cut() -> None:
    settings = fourshot.settings({f"train.{name}": 9 for name in ("r", "lora_alpha", "batch_size", "min_steps")})
    line = unused_line(settings, [Unused(["train.r"], "one"), Unused(["train"], "two")])
    assert (
        line == "settings without effect here: train.r (one); train.lora_alpha, train.batch_size, train.min_steps (two)"
    )


def test_a_corpus_tells_before_it_reads_its_tasks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["corpus", "--tasks", "support_tickets", "--out", str(tmp_path / "out"), "--model", "fake", "--quiet"]
    command += ["--per-class", "2", "--annotator", "none", "--allow-short"]
    assert main([*command, "--set", "annotate.folds=3", "--set", "train.r=3"]) == 0
    assert "settings without effect here: train.r (a corpus" in capfd.readouterr().err
    events: list[Event] = []
    make(tmp_path / "other", run_settings=fourshot.settings({"shot_weight": 2.0}, "corpus"), on_event=events.append)
    assert "shot_weight (a corpus trains" in events[0].message and events[0].notice


@pytest.mark.parametrize("annotator", ["icl", "none"])
def test_what_a_corpus_tells_to_have_no_effect_has_none(annotator: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {"generate.per_class": 4, "generate.draws_per_round": 16, "annotate.annotator": annotator}
    values |= {"annotate.calibration": "none"}
    usual = fourshot.settings(values, "corpus")
    idle: dict[str, Any] = {
        "annotate.folds": 3,
        "annotate.num_adapters": 9,
        "annotate.in_context": 2,
        "annotate.num_encoders": 1,
    }
    idle |= {"annotate.weights": "equal", "annotate.average": "first", "annotate.wordings": ["answer"]}
    idle |= {"annotate.fold_weight": 9.0, "annotate.fold_epochs": 9.0, "annotate.pool_per_class": 9, "train.r": 2}
    idle |= {"annotate.soft_temperature": 2.0, "annotate.soft_epochs": 2.0, "annotate.intended_odds": 2.0}
    idle |= {"annotate.distribution_alignment": True, "variety.mixed": 1.0, "wording": "bare", "verbalizer": "word"}
    idle |= {"shot_weight": 2.0, "calibrate": False, "test_limit": 1, "unlabelled.mode": "instead"}
    if annotator == "none":
        idle |= {"annotate.calibration": "contextual", "base_verbalizer": "prefix"}
    changed = fourshot.settings({**values, **idle}, "corpus")
    told = {name for unused in unused_in_corpus(changed) for name in unused.names}
    assert all(name in told or name.partition(".")[0] in told for name in idle)
    rows = []
    for name, run_settings in (("usual", usual), ("changed", changed)):
        make(tmp_path / name, run_settings=run_settings)
        rows.append(rows_of(tmp_path / name))
    assert rows[0] == rows[1] and len(rows[0]) >= 8


def test_a_least_confidence_of_nobody_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nobody = fourshot.settings({"annotate.annotator": "none", "annotate.confidence": 0.9})
    message = r"annotate\.confidence .* annotate\.annotator is 'none'\. Leave one of them out\."
    with pytest.raises(InputError, match=message):
        fourshot.run("support_tickets", folder=tmp_path / "out", settings=nobody)
    with pytest.raises(InputError, match=message):
        plan_run(RunRequest(named("one")["one"], None, nobody, tmp_path / "out"), ignore)
    with pytest.raises(InputError, match=message):
        plan_trainings(TrainingsRequest(named("one"), None, nobody, tmp_path / "out"), ignore)
    with pytest.raises(InputError, match=message):
        make(tmp_path / "out", run_settings=nobody)
    for more in ([], ["--plan"]):
        command = ["distill", "support_tickets", "--generate", "2", "--annotator", "none", *more]
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
        assert "is 'none', so there is no teacher. Set another, or name a teacher with --by" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_default_settings_are_of_every_command() -> None:
    settings = RunSettings()
    for unused in (unused_by_teacher(settings, writes=False), unused_in_corpus(settings)):
        assert unused_line(settings, unused) == ""
