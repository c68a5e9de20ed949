"""What is counted of a task's prompts: shots for which there is no room, and words that no bias reaches."""

import re
from pathlib import Path

import msgspec

from fourshot.engine.core import EngineSettings, SamplingSettings
from fourshot.pipeline.forecasts.work_counts import TokenCounts
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.task import Example, Label, Task
from tests.engine.test_alignment import base
from tests.pipeline.forecasts.machine_speeds import MODEL


def test_shots_for_which_a_prompt_has_no_room_are_not_counted() -> None:
    names = [f"change setting {number:03}" for number in range(150)]
    many = Task(name="many", instruction="Sort.", noun="text", labels=tuple(Label(name=name) for name in names))
    shots = [Example(text=f"so please {turn} {name}", label=name) for name in names for turn in range(4)]
    counts = TokenCounts(many, shots, RunSettings(), MODEL.path)
    shown = counts.fitting(shots, PromptFormat())
    assert 0 < len(shown) < 150 and len({shot.label for shot in shown}) == len(shown), "one of each first"
    assert counts.fitting(shots[:8], PromptFormat()) == shots[:8]
    work = counts.classification(1, PromptFormat(), shots=shots)
    assert 0 < work.shots_tokens <= EngineSettings(model="m").max_model_len
    by_base = msgspec.structs.replace(RunSettings(), annotate=AnnotateSettings(annotator="icl"))
    (message,) = TokenCounts(many, shots, by_base, MODEL.path).fitting_notes(None)
    assert f"about {len(shown)} of 600 shots in its prompt, of {len(shown)} of 150 classes" in message
    assert TokenCounts(many, shots[:8], by_base, MODEL.path).fitting_notes(None) == []
    nobody = msgspec.structs.replace(by_base, annotate=AnnotateSettings(annotator="none"))
    assert TokenCounts(many, shots, nobody, MODEL.path).fitting_notes(None) == []


def test_shots_that_adapters_should_see_and_for_which_their_prompts_have_no_room_are_told(tmp_path: Path) -> None:
    task = Task(name="two", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="bad")))
    shots = [Example(text=f"{'word ' * 20}{turn}", label=name) for name in task.label_names for turn in range(6)]
    counts = TokenCounts(task, shots, RunSettings(), base(tmp_path, max_position_embeddings=256))
    drawing, annotation = counts.fitting_notes(None, shots[:9])
    assert drawing.endswith("and 256 are allowed")
    assert re.search(r"two: each adapter annotates with about [2-6] of 9 shots in its prompt, of 2 of 2 cl", annotation)
    assert counts.fitting_notes(None, shots[:2]) == counts.fitting_notes(None) == [drawing]
    assert 0 < counts.classification(1, PromptFormat(verbalizer="token"), shots=shots).shots_tokens <= 256
    assert TokenCounts(task, shots, RunSettings(), MODEL.path).fitting_notes(None, shots) == []


def test_of_adapters_those_that_see_shots_are_counted_with_them() -> None:
    task = Task(name="two", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="bad")))
    shots = [Example(text=f"a text of {turn}", label=name) for name in task.label_names for turn in range(4)]
    counts = TokenCounts(task, shots, RunSettings(), MODEL.path)
    both = counts.committee(10, [(PromptFormat(), ()), (PromptFormat(), shots)], shots, None)
    alone = [counts.classification(10, PromptFormat(), adapter=True, shots=seen) for seen in ((), shots)]
    assert alone[0].adapter_tokens != alone[1].adapter_tokens
    assert both == alone[0] + alone[1]


def test_long_shots_for_which_a_drawing_prompt_has_no_room_are_told() -> None:
    task = Task(name="long", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="bad")))
    shots = [
        Example(text="lengthening-words " * 290 + str(turn), label=name)
        for name in task.label_names
        for turn in range(4)
    ]
    (message,) = TokenCounts(task, shots, RunSettings(), MODEL.path).fitting_notes(None)
    assert "long: generation prompts show as many shots" in message and "2048 are allowed" in message
    short = [Example(text=f"short {shot.text[-1]}", label=shot.label) for shot in shots]
    assert TokenCounts(task, short, RunSettings(), MODEL.path).fitting_notes(None) == []


def test_of_documents_the_part_that_prompts_show_is_counted() -> None:
    task = Task(name="long", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="bad")))
    counted = [
        TokenCounts(task, [Example(text="word " * words, label="good")], RunSettings(), MODEL.path).text_tokens
        for words in (30, 300, 3000)
    ]
    assert counted[0] < counted[1] == counted[2]


def test_words_that_no_bias_reaches_are_told(model: str) -> None:
    task = Task(name="two", instruction="Sort.", noun="text", labels=(Label(name="good"), Label(name="bad")))
    shots = [Example(text=f"a {name} text", label=name) for name in task.label_names]
    bias = (("the", -1.0), ("antidisestablishmentarianism", -1.0), ("and", 1.0), ("two words", 1.0))
    settings = msgspec.structs.replace(RunSettings(), sampling=SamplingSettings(bias=bias))
    (message,) = TokenCounts(task, shots, settings, model).fitting_notes(None)
    assert message.startswith("two: sampling.bias has no effect on 'antidisestablishmentarianism', 'two words': only")
    none = msgspec.structs.replace(RunSettings(), sampling=SamplingSettings(bias=bias[:1]))
    assert TokenCounts(task, shots, none, model).fitting_notes(None) == []
