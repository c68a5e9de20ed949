"""Attributes: what is read from the lists that a model writes, and what a prompt makes of them."""

import queue
import random
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from fourshot.engine.core import Completion, EngineSettings, PerPromptAdapter, Sampling, Verbalizer
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.corpus.run import CorpusRequest, do_corpus
from fourshot.pipeline.loop.plan import class_slice, in_place_unit
from fourshot.pipeline.loop.rounds import draw_round
from fourshot.pipeline.loop.unit_runner import Inbox, run_units
from fourshot.pipeline.loop.units import TaskBrief, UnitProgress, UnitResult
from fourshot.pipeline.synthesis.attributes import MOST_VALUES, Attributes, lengths_of, list_attributes, listed_values
from fourshot.pipeline.synthesis.settings import (
    PRESETS,
    AnnotateSettings,
    GenerateSettings,
    RunSettings,
    VarietySettings,
)
from fourshot.pipeline.synthesis.types import Candidate
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.work_folder import WorkFolder
from tests.pipeline.loop.filling import fill_rounds

TASK = load_task("support_tickets")
SHOTS = take_shots(TASK, k=4, seed=0)
VARIED = RunSettings(variety=VarietySettings(attributes=True))


class Listing(FakeEngine):
    """Writes lists when it is asked for them, and finds that the last value fits every text."""

    prompts: list[str]
    cut_off = " a refund, late parcels, cut o"

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        self.prompts = list(prompts)
        for completion in super().sample(prompts, sampling, adapter):
            prompt = prompts[completion.prompt_index]
            if prompt.endswith("Text:"):
                yield completion
            elif prompt.startswith("Topics"):
                yield msgspec.structs.replace(completion, text=self.cut_off, finish_reason="length")
            else:
                yield msgspec.structs.replace(completion, text=" curt, polite")

    def score(
        self,
        prompts: Sequence[str],
        labels: Sequence[str],
        adapter: PerPromptAdapter = None,
        verbalizer: Verbalizer = "word",
    ) -> np.ndarray:
        return np.tile(np.arange(len(labels), dtype=np.float32), (len(prompts), 1)) * np.array(
            [["N/A" not in prompt] for prompt in prompts]
        )


def listing() -> Listing:
    return Listing(EngineSettings(model=""))


def test_values_that_several_lists_have_are_taken_the_most_frequent_first() -> None:
    lists = [" cats, Dogs, x1, ox", "dogs, cats, cats.", "dogs, an item of far too many words, ox", "birds, x1, ox"]
    assert listed_values(lists) == ("dogs", "cats")
    many = ", ".join(chr(97 + n) * 3 for n in range(20))
    assert len(listed_values([many] * 2)) == MOST_VALUES


def test_no_value_names_a_class() -> None:
    assert listed_values(["very positive, music"] * 2, forbidden=["positive"]) == ("music",)


def test_lengths_are_told_beside_the_median() -> None:
    assert lengths_of(["a b", "a b c d", "a b c d e f g"]) == ["short", "medium", "long"]
    assert set(lengths_of(["a b", "c d"])) == {"medium"}


def test_every_class_gets_its_values_and_every_shot_the_one_that_fits() -> None:
    listed = list_attributes(listing(), TASK, SHOTS, VARIED)
    assert set(listed) == set(TASK.label_names)
    for label, attributes in listed.items():
        assert attributes.values["topic"] == ("a refund", "late parcels")
        assert attributes.values["style"] == ("curt", "polite")
        assert set(attributes.of_shots) == {index for index, shot in enumerate(SHOTS) if shot.label == label}
        assert {of_shot["topic"] for of_shot in attributes.of_shots.values()} == {"late parcels"}


def test_a_list_that_was_cut_off_ends_at_the_last_comma_of_any_script() -> None:
    engine = listing()
    engine.cut_off = " \u9000\u6b3e\u3001\u5305\u88f9\u3001\u622a\u65ad"
    listed = list_attributes(engine, TASK, SHOTS, VARIED)
    assert {attributes.values["topic"] for attributes in listed.values()} == {("\u5305\u88f9", "\u9000\u6b3e")}


def test_a_dimension_without_values_is_left_out() -> None:
    listed = list_attributes(FakeEngine(EngineSettings(model="fake")), TASK, SHOTS, VARIED)
    assert all("topic" not in attributes.values and "style" not in attributes.values for attributes in listed.values())


def test_a_prompt_shows_shots_with_their_attributes_and_asks_for_others() -> None:
    engine, label = listing(), TASK.label_names[0]
    attributes = list_attributes(engine, TASK, SHOTS, VARIED)
    drawn = draw_round(engine, TASK, SHOTS, VARIED, 0, [label], attributes=attributes)
    assert {candidate.attributes["topic"] for candidate in drawn} == {"a refund", "late parcels"}
    for candidate, prompt in zip(drawn, engine.prompts, strict=True):
        *shown, last = prompt.split("\n\n")[1:]
        assert last == "".join(f"{name.capitalize()}: {value}\n" for name, value in candidate.attributes.items()) + (
            "Text:"
        )
        assert all(shot.startswith("Topic: late parcels\nStyle: polite\n") for shot in shown) and len(shown) == 4


def test_all_combinations_are_drawn() -> None:
    attributes = Attributes(values={"topic": ("a", "b"), "style": ("c", "d")}, of_shots={})
    numbers = random.Random(0)
    drawn = {tuple(attributes.draw(numbers).items()) for _ in range(60)}
    assert len(drawn) == 4


def test_a_run_lists_its_attributes_once_and_a_later_call_takes_them_over(tmp_path: Path) -> None:
    def fill(engine: FakeEngine, per_class: int) -> list[Candidate]:
        settings = msgspec.structs.replace(
            VARIED,
            generate=GenerateSettings(per_class=per_class, draws_per_round=4),
            annotate=AnnotateSettings(annotator="none"),
        )
        return [candidate for candidate, _ in fill_rounds(WorkFolder(tmp_path), engine, TASK, SHOTS, settings)]

    assert len(fill(listing(), per_class=4)) == 4 * len(TASK.labels)
    listed = WorkFolder(tmp_path).read("attributes.json", dict[str, Attributes])
    assert listed == list_attributes(listing(), TASK, SHOTS, VARIED)
    more = fill(FakeEngine(EngineSettings(model="fake")), per_class=12)  # this one would list nothing
    assert len(more) == 12 * len(TASK.labels) and all("topic" in candidate.attributes for candidate in more)


def test_a_corpus_says_of_each_row_what_was_asked_for() -> None:
    engine, results = listing(), list[UnitResult | UnitProgress]()
    inbox: Inbox = queue.SimpleQueue()
    settings = msgspec.structs.replace(PRESETS["corpus"], variety=VARIED.variety)
    brief = TaskBrief(key="one", task=TASK, shots=tuple(SHOTS), settings=settings)
    unit = in_place_unit("one", 1, class_slice(settings, TASK.name, TASK.label_names[0], 0, 8))
    for item in (brief, unit, None):
        inbox.put(item)
    run_units(engine, inbox, results.append)
    (result,) = results
    assert isinstance(result, UnitResult)
    attributes = [draw.candidate.attributes for draw in result.draws]
    assert len(attributes) == 8 and {values["topic"] for values in attributes} == {"a refund", "late parcels"}


def test_a_corpus_keeps_what_was_listed_and_says_so_on_its_card(tmp_path: Path) -> None:
    corpus = PRESETS["corpus"]
    generate = msgspec.structs.replace(corpus.generate, per_class=4, draws_per_round=8)
    varied = VarietySettings(mixed=0.0, attributes=True, shots_shown=2, suppress=1.0)
    settings = msgspec.structs.replace(
        corpus, generate=generate, variety=varied, annotate=AnnotateSettings(annotator="none")
    )
    task = msgspec.structs.replace(TASK, name="one")
    do_corpus(CorpusRequest({"one": task}, "fake:otherwise=a refund, late parcels", tmp_path, settings))
    listed = WorkFolder(tmp_path / "tasks" / "one").read("attributes.json", dict[str, Attributes])
    assert {attributes.values["topic"] for attributes in listed.values()} == {("a refund", "late parcels")}
    card = (tmp_path / "README.md").read_text()
    for line in ("asks for a topic", "shows 2 examples", "over-used were made less likely"):
        assert line in card
