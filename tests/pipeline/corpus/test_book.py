"""What is kept of a task: the same rows in whatever order results come, each text once, as many as wanted."""

import random
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from fourshot.engine.calibration import Calibration
from fourshot.engine.core import EngineSettings
from fourshot.engine.fake_engine import FakeEngine
from fourshot.engine.models import ResolvedModel
from fourshot.pipeline.corpus.book import Book, Entry
from fourshot.pipeline.corpus.drawing import Drawer
from fourshot.pipeline.corpus.units import Unit, UnitResult, all_faulty
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings, VarietySettings
from tests.pipeline.corpus.made import SHOTS, TASK, brief, settings

MODEL = ResolvedModel(path="", name="stand-in", revision="1")


def filled(
    wanted: RunSettings,
    pick: Callable[[int], int] = lambda waiting: 0,
    spoil: Callable[[UnitResult], UnitResult] | None = None,
    given: list[Unit] | None = None,
) -> tuple[Book, list[Entry]]:
    """A book whose units come back in the order that ``pick`` picks among those given; all of them, in ``given``."""
    made = brief(TASK, wanted)
    drawer, book = Drawer(FakeEngine(EngineSettings(model="fake"))), Book(made, MODEL)
    drawer.introduce(made)
    waiting, entries = [], []
    while not book.is_done:
        while unit := book.next_unit():
            waiting.append(unit)
            if given is not None:
                given.append(unit)
        drawer.begin(waiting.pop(pick(len(waiting))))
        result = drawer.finish(lambda: None)
        entries += book.take(spoil(result) if spoil else result)
    return book, entries


def test_the_order_in_which_results_come_changes_nothing() -> None:
    wanted = settings(per_class=60)
    draw = random.Random(3)
    book, entries = filled(wanted)
    other, mixed = filled(wanted, pick=draw.randrange)
    assert mixed == entries
    assert other.calibration == book.calibration is not None


def test_every_class_has_as_many_different_texts_as_were_wanted() -> None:
    _, entries = filled(settings(per_class=60))
    rows = [row for entry in entries for row in entry.rows]
    assert Counter(row.label for row in rows) == dict.fromkeys(TASK.label_names, 60)
    assert len({row.text for row in rows}) == len({row.id for row in rows}) == len(rows)
    rejected = Counter[str]()
    for entry in entries:
        rejected.update(entry.record.rejected)
        assert entry.record.draws == len(entry.rows) + sum(entry.record.rejected.values())
    assert rejected["label_disagrees"] > 10


def test_a_row_says_where_it_comes_from() -> None:
    _, entries = filled(settings())
    row = entries[0].rows[0]
    assert (row.task, row.model, row.revision, row.unit) == ("support_tickets", "stand-in", "1", 0)
    assert {SHOTS[index].label for index in row.shots} == {row.label}
    assert row.id == f"{row.label}-00000000" and len(row.prompt_hash) == 12 and row.seed > 0
    assert row.num_tokens == 12 and row.cumulative_logprob == -36.0
    chosen = row.probabilities.index(max(row.probabilities))
    assert TASK.label_names[chosen] == row.label and sum(row.probabilities) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("suppress", [0.0, 1.0])
def test_a_book_that_is_opened_again_goes_on_as_if_never_closed(suppress: float) -> None:
    variety = VarietySettings(suppress=suppress)
    wanted = msgspec.structs.replace(settings(per_class=60), variety=variety)
    given: list[Unit] = []
    _, entries = filled(wanted, given=given)
    half = len(entries) // 2
    made = brief(TASK, wanted)
    book = Book(
        made,
        MODEL,
        records=[entry.record for entry in entries[:half]],
        kept_texts=[row.text for entry in entries[:half] for row in entry.rows],
        calibration=filled(wanted)[0].calibration,
    )
    drawer = Drawer(FakeEngine(EngineSettings(model="fake")))
    drawer.introduce(made)
    rest: list[Entry] = []
    units = []
    while unit := book.next_unit():
        units.append(unit)
        drawer.begin(unit)
        rest += book.take(drawer.finish(lambda: None))
    assert rest == entries[half:]
    assert units == given[half:]


def test_what_a_class_over_uses_is_told_to_the_units_that_come_after() -> None:
    wanted = msgspec.structs.replace(settings(per_class=200), variety=VarietySettings(suppress=1.0))
    given: list[Unit] = []
    filled(wanted, given=given)
    assert not any(unit.bias for unit in given[:16]), "nothing was kept when they were asked for"
    later = [unit for unit in given[16:] if unit.label == "bug"]
    # The stand-in's texts all end in the word of their class.
    assert later and all("bug" in dict(unit.bias) and dict(unit.bias)["bug"] < 0 for unit in later[5:])


def test_a_text_that_was_kept_is_not_kept_again() -> None:
    texts: list[str] = []

    def repeat(result: UnitResult) -> UnitResult:
        """Every draw says what the first of all said."""
        texts.append(result.draws[0].candidate.text)
        same = [
            msgspec.structs.replace(one, candidate=msgspec.structs.replace(one.candidate, text=texts[0]))
            for one in result.draws
        ]
        return msgspec.structs.replace(result, draws=tuple(same))

    wanted = msgspec.structs.replace(settings(per_class=60), annotate=AnnotateSettings(annotator="none"))
    _, entries = filled(wanted, spoil=repeat)
    assert [row.text for entry in entries for row in entry.rows] == [texts[0]]
    assert sum(entry.record.rejected.get("exact_duplicate", 0) for entry in entries) > 100


def test_nobody_is_asked_where_nobody_is_to_read() -> None:
    wanted = msgspec.structs.replace(settings(), annotate=AnnotateSettings(annotator="none"))
    _, entries = filled(wanted)
    rows = [row for entry in entries for row in entry.rows]
    assert len(rows) == 5 * 12 and {row.probabilities for row in rows} == {()}


@pytest.mark.parametrize("method", ["none", "contextual", "batch"])
def test_the_calibration_that_was_asked_for_is_used(method: str) -> None:
    annotate = AnnotateSettings(annotator="icl", calibration=method)  # type: ignore[arg-type]
    book, _ = filled(msgspec.structs.replace(settings(), annotate=annotate))
    assert isinstance(book.calibration, Calibration) and book.calibration.method == method
    assert len(book.calibration.log_prior) == (0 if method == "none" else 5)


def test_draws_that_came_to_nothing_are_told_and_drawn_again() -> None:
    def lose_the_first(result: UnitResult) -> UnitResult:
        return all_faulty(result.unit, "engine", "it died") if result.unit.number == 0 else result

    book, entries = filled(settings(), spoil=lose_the_first)
    assert len(entries[0].faults) == entries[0].record.faults == entries[0].record.draws > 0
    assert not entries[0].rows
    assert all(count.kept == 12 for count in book.plan.classes.values())
