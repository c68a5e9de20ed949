"""Which units are asked for: as many draws as are lacking, and the same ones whatever came first."""

import random

import pytest

from fourshot.pipeline.corpus.plan import FEWEST_DRAWS, SHARE_AHEAD, UNITS_AHEAD, Plan, UnitRecord
from fourshot.pipeline.corpus.units import Unit
from fourshot.pipeline.synthesis.settings import GenerateSettings

LABELS = ("warm", "cold", "mild")


def plan(per_class: int = 100, **more: float) -> Plan:
    return Plan("colours", LABELS, GenerateSettings(per_class=per_class, **{"max_candidates": 0, **more}))  # type: ignore[arg-type]


def record(unit: Unit, passed: int, kept: int | None = None) -> UnitRecord:
    kept = passed if kept is None else kept
    rejected = {"label_disagrees": unit.draws - passed}
    return UnitRecord(
        number=unit.number, label=unit.label, draws=unit.draws, passed=passed, kept=kept, rejected=rejected
    )


def played(made: Plan, rate: float) -> list[Unit]:
    """All units until the plan is done, where a share of ``rate`` is accepted."""
    waiting, units = made.next_units(), []
    while waiting:
        unit = waiting.pop(0)
        units.append(unit)
        passed = int(rate * unit.draws)
        made.finish(record(unit, passed, min(passed, made.wanted - made.classes[unit.label].kept)))
        waiting += made.next_units()
    assert made.is_done
    return units


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.13])
def test_every_class_gets_what_was_wanted_and_few_draws_too_many(rate: float) -> None:
    made = plan()
    units = played(made, rate)
    for label in LABELS:
        count = made.classes[label]
        assert count.kept == 100
        assert count.drawn <= 1.35 * 100 / rate + 64
        own = [unit for unit in units if unit.label == label]
        assert [unit.first_draw for unit in own] == [sum(one.draws for one in own[:i]) for i in range(len(own))]
    assert [unit.number for unit in units] == list(range(len(units)))


def test_the_first_units_are_one_for_each_class_and_more_are_given_than_are_finished() -> None:
    for per_class, ahead in ((1_000, UNITS_AHEAD), (100_000, 300_000 // 64 // SHARE_AHEAD)):
        first = plan(per_class=per_class).next_units()
        assert [unit.label for unit in first[:3]] == list(LABELS)
        assert len(first) == ahead and {unit.draws for unit in first} == {64}


def test_a_class_that_lacks_little_is_drawn_for_a_little() -> None:
    assert [unit.draws for unit in plan(per_class=20).next_units()] == [20, 20, 20]
    assert [unit.draws for unit in plan(per_class=2).next_units()] == [FEWEST_DRAWS] * 3


def test_what_is_next_hangs_on_what_is_finished_and_not_on_who_asked_in_between() -> None:
    draw = random.Random(0)
    whole, again = plan(per_class=300), plan(per_class=300)
    waiting, records = whole.next_units(), []
    while waiting:
        unit = waiting.pop(0)
        records.append(record(unit, draw.randint(0, unit.draws // 2)))
        whole.finish(records[-1])
        waiting += whole.next_units()
    for number, finished in enumerate(records):
        given = again.next_units()
        assert all(again.next_units() == [] for _ in range(2)), f"asked twice after {number}: {given}"
        again.finish(finished)
    assert again.next_units() == [] and again.is_done
    assert again.classes == whole.classes


def test_a_class_that_nothing_is_accepted_of_is_given_up_after_two_rounds_and_the_others_go_on() -> None:
    made = plan(per_class=1_000)
    waiting = made.next_units()
    while waiting:
        unit = waiting.pop(0)
        passed = 0 if unit.label == "cold" else unit.draws // 2
        made.finish(record(unit, passed, min(passed, 1_000 - made.classes[unit.label].kept)))
        waiting += made.next_units()
    assert [made.has_stalled(label) for label in LABELS] == [False, True, False]
    assert made.classes["cold"].drawn <= 64 * UNITS_AHEAD
    assert made.classes["warm"].kept == made.classes["mild"].kept == 1_000


def test_a_class_whose_texts_begin_to_repeat_themselves_stalls_by_its_last_units() -> None:
    made = plan(per_class=10_000)
    waiting = made.next_units()
    while waiting:
        unit = waiting.pop(0)
        made.finish(record(unit, unit.draws if made.classes[unit.label].drawn < 2_000 else 0))
        waiting += made.next_units()
    assert all(made.has_stalled(label) for label in LABELS)
    assert all(2_000 < made.classes[label].drawn < 2_000 + 64 * (10 + made.ahead) for label in LABELS)


def test_no_more_is_drawn_than_is_allowed() -> None:
    made = plan(per_class=100, max_candidates=150, min_acceptance=0.0)
    played(made, 0.1)
    assert [made.classes[label].drawn for label in LABELS] == [150] * 3
    assert all(made.has_stalled(label) for label in LABELS)


def test_units_are_finished_in_order() -> None:
    made = plan()
    first, second, *_ = made.next_units()
    with pytest.raises(ValueError, match="unit 1 cannot be finished before unit 0"):
        made.finish(record(second, 1))
    made.finish(record(first, 1))
