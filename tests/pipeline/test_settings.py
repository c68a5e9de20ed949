"""Every setting of a run is read: change it, and something changes that a run asks, keeps, trains or measures.

Keys are found in `RunSettings` itself, so a new one that nothing reads fails here. Runs are whole, on an engine and a
trainer that only write down what they are asked.
"""

import json
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from fourshot.engine import seeds
from fourshot.engine.alignment import PromptFiller
from fourshot.engine.core import Adapter, Completion, EngineSettings, PerPromptAdapter, Sampling, Verbalizer
from fourshot.engine.errors import FourshotError
from fourshot.engine.fake_engine import WORDS, FakeEngine
from fourshot.pipeline.runs import stage_driver
from fourshot.pipeline.runs.compare import ComparisonRequest, do_comparison
from fourshot.pipeline.runs.compared_settings import unused_in_comparison
from fourshot.pipeline.runs.run import RunRequest, do_run
from fourshot.pipeline.runs.stages import generate
from fourshot.pipeline.settings.effects import unused_in_run
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.lora.examples import TrainingExample, TrainingResult
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.share import ALL
from tests.pipeline.loop.filling import InProcessWorker
from tests.pipeline.task_folders import rows_of, write_jsonl, write_task

OFTEN = "tall tall tall oak oak ash ash elm elm fir fir fir."  # few of its words are distinct
DIGITS = "4021 8843 1190 77 and so on."
# Around each bound of the text filter stands a text; {} are words drawn, so that others are no duplicates of it.
TEXTS = (
    *("{} in a cold spring.", "{} by the warm wall of a house in town.", "Oh {}.", "{}", "{} on hills.", OFTEN, DIGITS),
    *("{} and {} and", "The wind of a town {}", "Sunlight on the red {} barn."),
    "{} and {} went by the old mill to the river {} at night.",
    "{} and {} went down to the cold sea by the old mill at noon and {} came home with {}.",
    "An oven {} left wide open all night in the kitchen.",
)
TEST_TEXT = "An oven door left wide open all night in the kitchen."

BASE = {
    "k": 2,
    "generate": {"per_class": 4, "draws_per_round": 16, "max_candidates": 48},
    "annotate": {"pool_per_class": 6},
    "max_text_words": 30,
    "train": {"min_steps": 1},
    "allow_short": True,
}
SOFT: dict[str, Any] = {"annotate": {"targets": "soft", "folds": 0}}
# What has to be otherwise for a setting to matter, and what it is changed to where the rule of `other` does not do.
GIVEN: Mapping[str, dict[str, Any]] = {
    "annotate.calibration": {"annotate": {"annotator": "icl"}},
    "annotate.confidence": {"annotate": {"annotator": "icl"}},
    "variety.mixed": SOFT,
    **{f"annotate.{name}": {"annotate": {"folds": 2}} for name in ("pool_per_class", "fold_weight", "fold_epochs")},
    "annotate.soft_temperature": SOFT,
    "annotate.soft_epochs": SOFT,
    "annotate.intended_odds": SOFT,
    "annotate.distribution_alignment": SOFT,
    "generate.min_acceptance": {"generate": {"per_class": 90, "max_candidates": 64}},
    "generate.max_candidates": {"generate": {"per_class": 90}},
    "allow_short": {"generate": {"per_class": 48}, "allow_short": False},
    "allow_fewer_shots": {"k": 50},
    **{name: {"annotate": {"show_shots": "never"}} for name in ("annotate.average", "calibrate")},
    "long_texts": {"max_text_words": 3},
    "filter.longest_chars": {"filter": {"max_length_factor": 1.0}},
    **{f"unlabelled.{name}": {"unlabelled": {"most": 20}} for name in ("mode", "most", "text_column", "encoding")},
}
CHANGED: Mapping[str, Any] = {
    "variety.mixed": 1.0,
    "sampling.bias": [["oak", 1.0]],
    "generate.min_acceptance": 0.9,
    "generate.max_candidates": 12,
    "annotate.confidence": 0.99,
    "annotate.wordings": ["answer"],
    "annotate.show_shots": "never",
    "annotate.weights": "held_out",
    "annotate.folds": 3,
    "annotate.fold_weight": 9.0,
    "filter.min_length_factor": 1.0,
    "filter.max_length_factor": 1.0,
    "filter.shortest_chars": 20,
    "filter.longest_chars": 20,
    "filter.near_test": 1.0,
    "filter.min_distinct_words": 0.6,
    "max_text_words": 3,
    "train.held_out": 0.5,
    "unlabelled.text_column": "note",
    "unlabelled.encoding": "utf-16",
}


def keys(kind: type[msgspec.Struct] = RunSettings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, type) of every setting that is no group."""
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from keys(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def other(hint: Any, value: Any) -> Any:
    """Another value of the type."""
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    if hint is bool:
        return not value
    return value + 1 if hint is int else value / 2 if value else 0.5


def changed_to(key: str, hint: Any, before: Mapping[str, Any]) -> dict[str, Any]:
    """Another value of the setting ``key`` than ``before`` has."""
    value: Any = msgspec.to_builtins(msgspec.convert(before, RunSettings))
    for name in key.split("."):
        value = value[name]
    changed: Any = CHANGED[key] if key in CHANGED else other(hint, value)
    for name in reversed(key.split(".")):
        changed = {name: changed}
    return dict(changed)


# The rest of `train` is the trainer's: tests/training/lora/test_settings.py.
SETTINGS_OF_RUNS = [(key, hint) for key, hint in keys() if not key.startswith("train.") or key == "train.held_out"]


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: merged(under[key], value) if isinstance(under.get(key), Mapping) else value for key, value in over.items()
    }
    return {**under, **both}


class Listener(FakeEngine):
    """Writes down what it is asked; its texts are of the kinds in `TEXTS`."""

    def __init__(self, heard: list[Any]) -> None:
        super().__init__(EngineSettings(model="fake"))
        self.heard = heard

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        self.heard.append([list(prompts), sampling])
        for i, _ in enumerate(prompts):
            for j in range(sampling.n):
                seed = seeds.derive(sampling.seed or 0, i, j)
                text = TEXTS[seed % len(TEXTS)].format(*(WORDS[(seed >> at) % 4096] for at in range(0, 54, 6)))
                ends: Literal["stop", "length"] = "stop" if text.endswith(".") else "length"
                yield Completion(
                    prompt_index=i, sample_index=j, text=text, num_tokens=9, cumulative_logprob=-j, finish_reason=ends
                )

    def score(
        self,
        prompts: Sequence[str],
        labels: Sequence[str],
        adapter: PerPromptAdapter = None,
        verbalizer: Verbalizer = "word",
    ) -> np.ndarray:
        name = adapter.name if isinstance(adapter, Adapter) else ""
        self.heard.append([list(prompts), name, verbalizer])
        rows = [np.random.default_rng(zlib.crc32(f"{name}{prompt}".encode())).random(len(labels)) for prompt in prompts]
        return np.log(np.array(rows, dtype=np.float32))


class Trainer:
    """Writes down what it is to train, and for how long."""

    share = ALL
    heard: ClassVar[list[Any]] = []

    def __init__(self, model: str) -> None: ...

    def train(
        self,
        examples: Sequence[TrainingExample],
        labels: Sequence[str],
        settings: LoraSettings,
        out_dir: Path,
        *,
        held_out: Sequence[TrainingExample] = (),
        seed: int = 0,
        prefix: str = "",
        verbalizer: Verbalizer = "word",
        **_: Any,
    ) -> TrainingResult:
        steps = settings.planned_steps(len(examples), len(labels))
        learnt = (verbalizer, settings.converged_loss, settings.label_smoothing)
        Trainer.heard.append([list(examples), list(held_out), list(labels), learnt, seed, steps])
        (out_dir / (name := f"{prefix}-{len(Trainer.heard)}")).mkdir(parents=True)
        (out_dir / name / "adapter_config.json").write_text('{"r": 8}')
        factors = {"one.lora_A.weight": np.zeros((8, 1)), "one.lora_B.weight": np.zeros((1, 8))}
        save_file(factors, out_dir / name / "adapter_model.safetensors")
        return TrainingResult(
            name=name, path="", steps=steps, planned_steps=steps, losses=(0.1,), tokens=1, seconds=1.0, examples=1
        )


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What a run, or a comparison of methods, comes to with some settings, given as JSON: what was asked, the end."""
    data = tmp_path_factory.mktemp("task")
    task = load_task(write_task(data))
    cold = [f"A frozen {word} in the cold rain." for word in WORDS[:9]]
    warm = [f"Warm {word} on a sunny porch, then cocoa by the fire." for word in WORDS[20:50]]
    write_jsonl(data / "train.jsonl", [*rows_of(warm, "warm"), *rows_of(cold, "cold")])
    write_jsonl(data / "test.jsonl", [*rows_of([TEST_TEXT], "warm"), *rows_of(["Ice."], "cold")])
    unlabelled = [f"A {word} by the old mill at noon." for word in WORDS[60:90]]
    write_jsonl(data / "own.jsonl", [{"text": text, "note": f"Once more: {text}"} for text in unlabelled])
    patch = pytest.MonkeyPatch()
    heard: list[Any] = Trainer.heard
    engine = Listener(heard)
    patch.setattr("fourshot.training.lora.train.LoraTrainer", Trainer)
    for command in ("run", "compare"):
        patch.setattr(f"fourshot.pipeline.runs.{command}.refuse_fake", lambda *_: None)  # here it can be trained
    filler = PromptFiller(token="~", number=2, prefix_tokens=32)  # as of a base with a tokenizer
    patch.setattr("fourshot.pipeline.synthesis.aligned.filler_for", lambda *_, **__: filler)
    patch.setattr(generate, "open_workers", lambda *_: InProcessWorker(engine))
    patch.setattr("fourshot.engine.opening.open_engine", lambda _: engine)
    patch.setattr(stage_driver, "run_stage", lambda stage, on_event: stage.run(on_event))

    @cache
    def observe(settings: str, methods: tuple[str, ...] = ()) -> str:
        heard.clear()
        run_settings = msgspec.json.decode(settings, type=RunSettings)
        folder = tmp_path_factory.mktemp("run")
        try:
            unlabelled = data / "own.jsonl" if run_settings.unlabelled != RunSettings().unlabelled else None
            if methods:
                comparison = ComparisonRequest(task, "fake", run_settings, methods, [0], folder)
                heard.append(len(do_comparison(comparison).rows))
            else:
                request = RunRequest(task, "fake", run_settings, folder, "evaluate", unlabelled=unlabelled)
                heard.append(len(do_run(request).table))
        except FourshotError as error:
            heard.append(str(error).replace(str(tmp_path_factory.getbasetemp()), ""))
        heard.extend(file.read_text() for file in sorted(folder.rglob("verdicts.jsonl")))
        return json.dumps(msgspec.to_builtins(heard))

    yield observe
    patch.undo()


def test_the_same_settings_come_to_the_same(observed: Any) -> None:
    assert observed.__wrapped__(json.dumps(BASE)) == observed.__wrapped__(json.dumps(BASE))


def unused_cases() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(key, type, settings) of every setting that a run with these settings would tell to have no effect."""
    annotators: list[dict[str, Any]] = [
        {"annotator": "icl"},
        {"annotator": "none"},
        {"targets": "agreement", "folds": 0},
    ]
    instead = {"unlabelled": {"mode": "instead"}}
    for changes in (*({"annotate": annotate} for annotate in annotators), instead, {"variety": {"shots_shown": 2}}):
        settings = merged(BASE, changes)
        unused = unused_in_run(msgspec.convert(settings, RunSettings), has_unlabelled=changes == instead)
        names = {name for names, _ in unused for name in names if name != "unlabelled"}
        yield from ((key, hint, settings) for key, hint in SETTINGS_OF_RUNS if is_in(key, names))


def is_in(key: str, names: set[str]) -> bool:
    """Whether a setting, or the group that it is in, is among ``names``."""
    return key in names or key.partition(".")[0] in names


@pytest.mark.parametrize(("key", "hint", "before"), [*unused_cases()])
def test_a_setting_that_is_told_to_have_no_effect_has_none(
    observed: Any, key: str, hint: Any, before: dict[str, Any]
) -> None:
    assert observed(json.dumps(before)) == observed(json.dumps(merged(before, changed_to(key, hint, before))))


@pytest.mark.parametrize(("key", "hint"), SETTINGS_OF_RUNS)
def test_every_setting_changes_what_a_run_does(observed: Any, key: str, hint: Any) -> None:
    before = merged(BASE, GIVEN.get(key, {}))
    assert observed(json.dumps(before)) != observed(json.dumps(merged(before, changed_to(key, hint, before))))


@pytest.mark.parametrize(
    "methods", [("zero_shot", "icl"), ("lora",), ("icl_calibrated", "lora_bare"), ("soft", "paper"), ("unfiltered",)]
)
def test_settings_that_a_comparison_tells_to_have_no_effect_have_none(observed: Any, methods: tuple[str, ...]) -> None:
    changed, told = BASE, 0
    for key, hint in SETTINGS_OF_RUNS:
        change = changed_to(key, hint, BASE)
        unused = unused_in_comparison(msgspec.convert(merged(BASE, change), RunSettings), methods)
        if is_in(key, {name for names, _ in unused for name in names}):
            changed, told = merged(changed, change), told + 1
    assert told > 20 and observed(json.dumps(BASE), methods) == observed(json.dumps(changed), methods)
