"""What is kept of a task: the same rows in whatever order results come, each text once, as many as wanted."""

import random
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest

from fourshot.engine.calibration import Calibration
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import InputError
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.corpus.rows import row_of
from fourshot.pipeline.loop.ledger import JudgedBatch, Ledger
from fourshot.pipeline.loop.plan import AheadPlan, RoundPlan
from fourshot.pipeline.loop.unit_runner import UnitRunner
from fourshot.pipeline.loop.units import AnnotationUnit, DrawUnit, Unit, UnitResult, all_faulty
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings, VarietySettings
from fourshot.pipeline.tasks.task_file import load_task
from tests.pipeline.corpus.small_corpora import SHOTS, TASK, brief, settings


def filled(
    run_settings: RunSettings,
    pick: Callable[[int], int] = lambda waiting: 0,
    spoil: Callable[[UnitResult], UnitResult] | None = None,
    issued: list[Unit] | None = None,
    rounds: bool = False,
) -> tuple[Ledger, list[JudgedBatch]]:
    """A ledger whose units come back in the order that ``pick`` picks among those given; all of them, in ``issued``."""
    task_brief = brief(TASK, run_settings)
    runner = UnitRunner(FakeEngine(EngineSettings(model="fake")))
    ledger = Ledger(task_brief, RoundPlan(task_brief, spread=True) if rounds else AheadPlan(task_brief))
    runner.introduce(task_brief)
    waiting: list[Unit] = []
    judged = ledger.start()
    while not ledger.is_done:
        while unit := ledger.next_unit():
            waiting.append(unit)
            if issued is not None:
                issued.append(unit)
        runner.begin(waiting.pop(pick(len(waiting))))
        result = runner.finish()
        judged += ledger.take(spoil(result) if spoil else result)
    return ledger, judged


def texts_of(judged: Sequence[JudgedBatch]) -> list[str]:
    """Those that are kept."""
    return [draw.candidate.text for batch in judged for draw, _ in batch.kept]


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("method", ["batch", "contextual"])
def test_the_order_in_which_results_come_changes_nothing(method: str, rounds: bool) -> None:
    annotate = AnnotateSettings(annotator="icl", calibration=method)  # type: ignore[arg-type]
    run_settings = msgspec.structs.replace(settings(per_class=60), annotate=annotate)
    draw = random.Random(3)
    ledger, judged = filled(run_settings, rounds=rounds)
    other, mixed = filled(run_settings, pick=draw.randrange, rounds=rounds)
    assert mixed == judged
    assert other.calibration == ledger.calibration is not None


@pytest.mark.parametrize("rounds", [False, True])
def test_every_class_has_as_many_different_texts_as_were_wanted(rounds: bool) -> None:
    _, judged = filled(settings(per_class=60), rounds=rounds)
    kept = [draw.candidate for batch in judged for draw, _ in batch.kept]
    assert Counter(candidate.label for candidate in kept) == dict.fromkeys(TASK.label_names, 60)
    assert len({candidate.text for candidate in kept}) == len({candidate.id for candidate in kept}) == len(kept)
    rejected = Counter[str]()
    for record in (record for batch in judged for record in batch.records):
        rejected.update(record.rejected)
        assert record.draws == record.kept + sum(record.rejected.values())
    assert rejected["label_disagrees"] > 10


def test_a_row_says_where_it_comes_from() -> None:
    _, judged = filled(settings())
    row = row_of(load_task("support_tickets"), *judged[0].kept[0], "fake", "1")
    assert (row.task, row.model, row.revision, row.unit) == ("support_tickets", "fake", "1", 0)
    assert {SHOTS[index].label for index in row.shots} == {row.label}
    assert row.id == f"{row.label}-00000000" and len(row.prompt_hash) == 12 and row.seed > 0
    assert row.num_tokens == 12 and row.cumulative_logprob == -36.0
    chosen = row.probabilities.index(max(row.probabilities))
    assert TASK.label_names[chosen] == row.label and sum(row.probabilities) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("suppress", [0.0, 1.0])
def test_a_ledger_that_is_opened_again_goes_on_as_if_never_closed(suppress: float) -> None:
    variety = VarietySettings(suppress=suppress)
    run_settings = msgspec.structs.replace(settings(per_class=60), variety=variety)
    issued: list[Unit] = []
    undisturbed, judged = filled(run_settings, issued=issued)
    half = len(judged) // 2
    task_brief = brief(TASK, run_settings)
    ledger = Ledger(task_brief, AheadPlan(task_brief), calibration=undisturbed.calibration)
    for batch in judged[:half]:
        kept = texts_of([batch])
        ledger.restore(batch.records, kept, {batch.records[0].label: kept})
    runner = UnitRunner(FakeEngine(EngineSettings(model="fake")))
    runner.introduce(task_brief)
    rest, units = ledger.start(), list[Unit]()
    while unit := ledger.next_unit():
        units.append(unit)
        runner.begin(unit)
        rest += ledger.take(runner.finish())
    assert rest == judged[half:]
    assert units == issued[half:]


def test_what_a_class_over_uses_is_told_to_the_units_that_come_after() -> None:
    run_settings = msgspec.structs.replace(settings(per_class=200), variety=VarietySettings(suppress=1.0))
    issued: list[Unit] = []
    filled(run_settings, issued=issued)
    slices = [part for unit in issued if isinstance(unit, DrawUnit) for part in unit.slices]
    assert not any(part.bias for part in slices[:16]), "nothing was kept when they were asked for"
    later = [part for part in slices[16:] if part.label == "bug"]
    # The fake engine's texts all end in the word of their class.
    assert later and all("bug" in dict(part.bias) and dict(part.bias)["bug"] < 0 for part in later[5:])


def test_a_text_that_was_kept_is_not_kept_again() -> None:
    texts: list[str] = []

    def repeat(result: UnitResult) -> UnitResult:
        """Every draw says what the first of all said."""
        texts.append(result.draws[0].candidate.text)
        same = [
            msgspec.structs.replace(draw, candidate=msgspec.structs.replace(draw.candidate, text=texts[0]))
            for draw in result.draws
        ]
        return msgspec.structs.replace(result, draws=tuple(same))

    run_settings = msgspec.structs.replace(settings(per_class=60), annotate=AnnotateSettings(annotator="none"))
    _, judged = filled(run_settings, spoil=repeat)
    assert texts_of(judged) == [texts[0]]
    assert sum(record.rejected.get("exact_duplicate", 0) for batch in judged for record in batch.records) > 100


def test_nobody_is_asked_where_nobody_is_to_read() -> None:
    run_settings = msgspec.structs.replace(settings(), annotate=AnnotateSettings(annotator="none"))
    _, judged = filled(run_settings)
    verdicts = [verdict for batch in judged for _, verdict in batch.kept]
    assert len(verdicts) == 5 * 12 and not any(verdict.probabilities for verdict in verdicts)


@pytest.mark.parametrize("method", ["none", "contextual", "batch"])
def test_the_calibration_that_was_asked_for_is_used(method: str) -> None:
    annotate = AnnotateSettings(annotator="icl", calibration=method)  # type: ignore[arg-type]
    for rounds in (False, True):
        ledger, _ = filled(msgspec.structs.replace(settings(), annotate=annotate), rounds=rounds)
        assert isinstance(ledger.calibration, Calibration) and ledger.calibration.method == method
        assert len(ledger.calibration.log_prior) == (0 if method == "none" else 5)


def test_a_calibration_from_texts_is_from_those_that_can_be_kept() -> None:
    def blank_the_first(result: UnitResult) -> UnitResult:
        if not (isinstance(result.unit, DrawUnit) and result.unit.number == 0):
            return result
        draw = result.draws[0]
        blank = msgspec.structs.replace(draw, candidate=msgspec.structs.replace(draw.candidate, text=""))
        return msgspec.structs.replace(result, draws=(blank, *result.draws[1:]))

    issued: list[Unit] = []
    annotate = AnnotateSettings(annotator="icl", calibration="batch")
    ledger, judged = filled(
        msgspec.structs.replace(settings(), annotate=annotate), spoil=blank_the_first, issued=issued, rounds=True
    )
    read = [text for unit in issued if isinstance(unit, AnnotationUnit) for text in unit.texts]
    assert read and "" not in read and ledger.calibration is not None
    assert sum(record.rejected.get("malformed", 0) for batch in judged for record in batch.records) == 1


def test_draws_that_came_to_nothing_are_told_and_drawn_again() -> None:
    def lose_the_first(result: UnitResult) -> UnitResult:
        return all_faulty(result.unit, TASK.name, "engine", "it died") if result.unit.number == 0 else result

    ledger, judged = filled(settings(), spoil=lose_the_first)
    (record,) = judged[0].records
    assert len(judged[0].faults) == record.faults == record.draws > 0
    assert not judged[0].kept
    assert not ledger.counts.missing


def test_a_draw_that_came_to_nothing_ends_a_run() -> None:
    def lose_the_first(result: UnitResult) -> UnitResult:
        return (
            all_faulty(result.unit, TASK.name, "sample", "a prompt is too long") if not result.unit.number else result
        )

    with pytest.raises(InputError, match="a prompt is too long"):
        filled(settings(), spoil=lose_the_first, rounds=True)
