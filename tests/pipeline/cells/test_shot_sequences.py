"""Sequences of shots, on which annotators whose prompts show shots are trained."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.engine.chat import ChatTurns
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import Adapter
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from fourshot.pipeline.cells import shot_sequences
from fourshot.pipeline.cells.calibrators import annotators_calibrate
from fourshot.pipeline.cells.cell import MethodCell, SeedExamples, method_cells
from fourshot.pipeline.cells.shot_sequences import MOST_TOKENS, drawn_sequence, sequence_examples
from fourshot.pipeline.cells.trainings import annotator_jobs, committee
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording
from fourshot.pipeline.synthesis.settings import FEW_CLASSES, FEW_SHOTS, AnnotateSettings, RunSettings
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.token_counter import token_counter
from fourshot.training.lora.settings import PRESETS, LoraSettings
from tests.engine.tiny_models import tokenizer_of

TASK = load_task("support_tickets")
NAMES = TASK.label_names
DEFAULT = AnnotateSettings()
SHOTS = tuple(Example(text=f"{name} number {number}", label=name) for number in range(4) for name in NAMES)
TURNS = ChatTurns(begin="<u>", answer="</u><a>", next="</a><u>", open="</u><a>", template_hash="x")


def cell(*, wording: Wording = "task", **annotate: object) -> MethodCell:
    settings = RunSettings(wording=wording)
    settings = msgspec.structs.replace(settings, annotate=msgspec.structs.replace(settings.annotate, **annotate))
    (only,) = method_cells(settings, ["fourshot"], [SeedExamples(seed=0, shots=SHOTS)], Path("nowhere"), flat=True)
    return only


def test_no_label_can_be_guessed_from_those_before_it() -> None:
    draw, shots = random.Random(0), [Example(text=f"{label}{n}", label=label) for label in "ab" for n in range(3)]
    sequences = [drawn_sequence(shots, draw) for _ in range(4000)]
    assert all(len(set(sequence)) == len(sequence) for sequence in sequences), "no shot twice"
    for number in (1, 2, 3):  # in a random order of all shots, 0.4 of the labels and fewer would be like those before
        labels = [[shot.label for shot in sequence[: number + 1]] for sequence in sequences if len(sequence) > number]
        before = [Counter(label[:-1]).most_common(1)[0][0] == label[-1] for label in labels]
        assert len(before) > 400 and sum(before) / len(before) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("chat", [None, TURNS])
def test_each_label_of_a_sequence_is_where_it_says(chat: ChatTurns | None) -> None:
    settings = RunSettings()
    examples, once = sequence_examples(TASK, SHOTS, PromptFormat(chat=chat), settings, "nowhere", seed=3)
    assert settings.train.planned_steps(len(SHOTS), len(NAMES)) == 40, "the most"
    assert once.planned_steps(len(examples), len(NAMES)) == 40
    assert len(examples) == 40
    two = [shot for shot in SHOTS if shot.label in NAMES[:2]]
    task = msgspec.structs.replace(TASK, labels=TASK.labels[:2])
    few, brief = sequence_examples(task, two, PromptFormat(chat=chat), settings, "nowhere", seed=3)
    assert brief.planned_steps(len(few), 2) == 2 * settings.train.planned_steps(len(two), 2) == 20
    bounded = RunSettings(train=LoraSettings(max_steps=7))
    assert len(sequence_examples(task, two, PromptFormat(chat=chat), bounded, "nowhere", seed=3)[0]) == 14
    words = TASK.label_words
    for example in examples:
        assert example.prompt.endswith("Label:")
        for label in example.shown:  # type: ignore[union-attr]
            assert example.prompt[: label.start].endswith("Label:")
            assert example.prompt[label.start :].startswith(f" {words[label.target]}{chat.next if chat else chr(10)}")
    assert Counter(target for e in examples for target in [e.target]).keys() == set(range(len(NAMES)))
    assert len({example.prompt for example in examples}) > len(examples) / 2
    assert examples == sequence_examples(TASK, SHOTS, PromptFormat(chat=chat), settings, "nowhere", seed=3)[0]
    assert examples != sequence_examples(TASK, SHOTS, PromptFormat(chat=chat), settings, "nowhere", seed=4)[0]


def test_a_sequence_ends_before_the_context_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def longest(room: int) -> int:
        monkeypatch.setattr(shot_sequences, "_room", lambda *_: room)
        examples, _ = sequence_examples(TASK, SHOTS, PromptFormat(), RunSettings(), "nowhere", seed=0)
        return max(len(example.shown) for example in examples)  # type: ignore[arg-type]

    assert longest(10_000) > 5
    assert longest(30) in (1, 2)
    assert longest(0) == 0, "one text is always learnt"


def test_a_sequence_of_long_texts_is_bounded_whatever_the_context_is() -> None:
    """Six reviews of 300 words would fill 2,048 tokens; without shots, a prompt has 400."""
    shots = [Example(text=f"{'word ' * 280}{name} {number}", label=name) for name in NAMES for number in range(3)]
    examples, _ = sequence_examples(TASK, shots, PromptFormat(), RunSettings(), "nowhere", seed=0)
    tokens = [token_counter("nowhere")(example.prompt) for example in examples]
    assert MOST_TOKENS / 2 < max(tokens) <= MOST_TOKENS


def test_however_many_shots_there_are_there_are_at_most_forty_steps_unless_more_are_requested() -> None:
    shots = [Example(text=f"{name} number {number}", label=name) for number in range(40) for name in NAMES]
    assert LoraSettings().planned_steps(len(shots), len(NAMES)) > 40
    for least, steps in ((0, 40), (60, 60)):
        own = RunSettings(train=LoraSettings(min_steps=least))
        assert len(sequence_examples(TASK, shots, PromptFormat(), own, "nowhere", seed=0)[0]) == steps


def test_a_step_has_two_sequences_where_one_has_too_few_labels() -> None:
    def per_step(shots: list[Example], annotate: AnnotateSettings = DEFAULT, batch_size: int = 8) -> int:
        task = msgspec.structs.replace(TASK, labels=tuple(label for label in TASK.labels if label.name in names(shots)))
        settings = RunSettings(annotate=annotate, train=LoraSettings(batch_size=batch_size))
        examples, brief = sequence_examples(task, shots, PromptFormat(), settings, "nowhere", seed=0)
        assert len(examples) == brief.batch_size * brief.planned_steps(len(examples), len(task.labels))
        return brief.batch_size

    def names(shots: list[Example]) -> set[str]:
        return {shot.label for shot in shots}

    of_two = [shot for shot in SHOTS if shot.label in NAMES[:2]]
    assert per_step([*SHOTS]) == 1, "ten labels on average"
    assert per_step(of_two) == 2, "six"
    assert per_step(of_two, batch_size=4) == 1
    assert per_step([*SHOTS], AnnotateSettings(sequences_per_step=2)) == 2, "earlier versions always had two"


def test_a_training_on_sequences_ends_once_three_steps_have_a_low_loss() -> None:
    def brief(settings: RunSettings) -> tuple[float, int]:
        _, brief = sequence_examples(TASK, SHOTS, PromptFormat(), settings, "nowhere", seed=0)
        return brief.converged_loss, brief.converged_steps

    assert brief(RunSettings()) == (DEFAULT.converged_loss, 3)
    assert brief(RunSettings(annotate=AnnotateSettings(converged_loss=0.0))) == (0.0, 0)
    own = LoraSettings(converged_loss=0.3, converged_steps=9)
    assert brief(RunSettings(annotate=AnnotateSettings(converged_loss=0.0), train=own)) == (0.3, 9)


def test_tokens_of_a_sequence_are_counted_exactly_without_tokenizer_json_too(tmp_path: Path) -> None:
    """Four characters counted as a token, so sequences in some scripts were longer than the context."""
    tokenizer_of("byte-level BPE").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 200}')
    shots = [msgspec.structs.replace(shot, text=f"{shot.text} 中文字") for shot in SHOTS]
    longest = []
    for has_file in (True, False):
        token_counter.cache_clear()
        if not has_file:
            content = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
            (tmp_path / "vocab.json").write_text(json.dumps(content["vocab"]))
            merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]]
            (tmp_path / "merges.txt").write_text("\n".join(merges))
            (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
            (tmp_path / "tokenizer.json").unlink()
        examples, _ = sequence_examples(TASK, shots, PromptFormat(), RunSettings(), str(tmp_path), seed=0)
        longest.append(max(map(len, encode_prompts(load_tokenizer(tmp_path), [e.prompt for e in examples]))))
    assert longest[0] == longest[1] <= 200


@pytest.mark.parametrize("weights", ["auto", "equal", "held_out"])
def test_annotators_see_the_shots_they_learnt_and_no_others(weights: str) -> None:
    """By default these are all: they lose more by leaving some out than these are worth as evidence."""
    writer = cell(weights=weights)
    jobs = annotator_jobs(TASK, ResolvedModel(path="nowhere", name="a/model", revision="abc"), writer)
    assert len({job.key for job in jobs}) == 4
    adapters = [Adapter(name=f"a{number}", path=f"/a{number}") for number in range(4)]
    annotators = committee(writer, adapters)
    left_outs = [i for annotator in annotators for i in annotator.left_out]
    assert sorted(left_outs) == (list(range(len(SHOTS))) if weights == "held_out" else [])
    for annotator, job in zip(annotators, jobs, strict=True):
        assert sorted((*annotator.shown, *annotator.left_out)) == list(range(len(SHOTS)))
        left_out = [SHOTS[index].text for index in annotator.left_out]
        assert not any(f"Text: {text}\n" in example.prompt for text in left_out for example in job.examples)
        assert annotator.kind == "adapters"
    assert len({tuple(i % 3 for i in annotator.shown) for annotator in annotators}) > 1, "orders of their own"


def test_prompts_with_shots_are_those_of_the_task_whatever_the_classifier_s_are() -> None:
    model = ResolvedModel(path="nowhere", name="a/model", revision="abc")
    jobs = [annotator_jobs(TASK, model, cell(wording=wording)) for wording in ("task", "bare")]
    assert jobs[0] == jobs[1]
    assert all(example.prompt.startswith(TASK.instruction) for job in jobs[1] for example in job.examples)


@pytest.mark.parametrize("annotate", [{}, {"num_adapters": 0, "folds": 2}, {"num_adapters": 0, "in_context": 2}])
def test_annotators_that_see_no_shots_calibrate_no_classifier_of_labels(annotate: dict[str, Any]) -> None:
    """Adapters of folds, and the base model in context, are no adapters trained to use shots."""
    assert annotators_calibrate(cell(**annotate)) == (not annotate)
    assert annotators_calibrate(cell(**annotate, targets="soft"))


def test_with_many_classes_or_another_prompt_annotators_see_no_shots() -> None:
    settings, two = RunSettings(), ["a", "a", "b", "b"]
    many = [str(number // 2) for number in range(2 * FEW_CLASSES)]
    assert settings.shows_shots("task", two) and settings.shows_shots("task", many[2:])
    assert not settings.shows_shots("task", many)
    all_fit, too_many = ["a", "b"] * (FEW_SHOTS // 2), ["a", "b", "b"] * FEW_SHOTS
    assert settings.shows_shots("task", all_fit) and not settings.shows_shots("task", too_many)
    assert not settings.shows_shots("task", two[1:]), "a sequence would end after one text of this class"
    assert not settings.shows_shots("bare", two)
    assert not msgspec.structs.replace(settings, train=PRESETS["paper"]).shows_shots("task", two)
    always = msgspec.structs.replace(settings.annotate, show_shots="always")
    forced = msgspec.structs.replace(settings, annotate=always)
    assert forced.shows_shots("task", many) and forced.shows_shots("task", too_many)
    first = msgspec.structs.replace(settings.annotate, average="first")
    assert not msgspec.structs.replace(settings, annotate=first).shows_shots("task", two), "they need one prompt"
    never = committee(cell(show_shots="never"), [Adapter(name="a", path="/a")])
    assert never[0].shown == ()
