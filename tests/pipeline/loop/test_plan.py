"""Which units are asked for: as many draws as are lacking, and the same ones whatever came first."""

import random
from typing import Any

import msgspec
import pytest

from fourshot.pipeline.loop.counts import RECENT_BATCHES, DrawRecord
from fourshot.pipeline.loop.plan import FEWEST_DRAWS, SHARE_AHEAD, UNITS_AHEAD, AheadPlan, RoundPlan, first_draws
from fourshot.pipeline.loop.rounds import pool_settings
from fourshot.pipeline.loop.units import DrawSlice, DrawUnit, TaskBrief
from fourshot.pipeline.synthesis.settings import PRESETS, GenerateSettings, RunSettings, VarietySettings
from fourshot.pipeline.task import Example, Label, Task

LABELS = ("warm", "cold", "mild")
TASK = Task(
    name="colours", instruction="Classify the colour.", noun="colour", labels=tuple(Label(name=name) for name in LABELS)
)


def brief(per_class: int = 100, suppress: float = 0.0, **more: float) -> TaskBrief:
    generate = GenerateSettings(**{"per_class": per_class, "draws_per_round": 64, "max_candidates": 0, **more})  # type: ignore[arg-type]
    shots = tuple(Example(text=f"a {name} one", label=name) for name in LABELS)
    run_settings = RunSettings(generate=generate, variety=VarietySettings(suppress=suppress))
    return TaskBrief(key="colours", task=TASK, shots=shots, settings=run_settings)


def plan(per_class: int = 100, **more: float) -> AheadPlan:
    return AheadPlan(brief(per_class, **more))


def next_units(draw_plan: AheadPlan | RoundPlan) -> list[DrawUnit]:
    return [unit for batch in draw_plan.next_batches(lambda label: ()) for unit in batch.units]


def only_slice(unit: DrawUnit) -> DrawSlice:
    (part,) = unit.slices
    return part


def record(unit: DrawUnit, passed: int, kept: int | None = None) -> DrawRecord:
    return DrawRecord(
        number=unit.batch,
        label=only_slice(unit).label,
        draws=unit.size,
        passed=passed,
        kept=passed if kept is None else kept,
        rejected={"label_disagrees": unit.size - passed},
    )


def worked_through(draw_plan: AheadPlan, rate: float) -> list[DrawUnit]:
    """All units until the plan is done, where a share of ``rate`` is accepted."""
    waiting, units = next_units(draw_plan), []
    while waiting:
        unit = waiting.pop(0)
        units.append(unit)
        passed = int(rate * unit.size)
        missing = draw_plan.counts.missing.get(only_slice(unit).label, 0)
        draw_plan.finish([record(unit, passed, min(passed, missing))])
        waiting += next_units(draw_plan)
    assert draw_plan.is_done
    return units


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.13])
def test_every_class_gets_what_was_wanted_and_few_draws_too_many(rate: float) -> None:
    draw_plan = plan()
    units = worked_through(draw_plan, rate)
    for label in LABELS:
        count = draw_plan.counts.by_label[label]
        assert count.kept == 100
        assert count.drawn <= 1.35 * 100 / rate + 64
        parts = [only_slice(unit) for unit in units if only_slice(unit).label == label]
        assert [part.first_id for part in parts] == [
            sum(earlier.draws for earlier in parts[:i]) for i in range(len(parts))
        ]
    assert [unit.number for unit in units] == list(range(len(units)))


def test_the_first_units_are_one_for_each_class_and_more_are_given_than_are_finished() -> None:
    for per_class, ahead in ((1_000, UNITS_AHEAD), (100_000, 300_000 // 64 // SHARE_AHEAD)):
        first = next_units(plan(per_class=per_class))
        assert [only_slice(unit).label for unit in first[:3]] == list(LABELS)
        assert len(first) == ahead and {unit.size for unit in first} == {64}


@pytest.mark.parametrize(("classes", "first"), [(2, 64), (8, 64), (20, 25), (150, FEWEST_DRAWS)])
def test_the_first_units_of_many_classes_are_small_for_nothing_is_judged_before_all_are_read(
    classes: int, first: int
) -> None:
    labels = tuple(Label(name=f"class {number}") for number in range(classes))
    draw_plan = AheadPlan(msgspec.structs.replace(brief(1000), task=msgspec.structs.replace(TASK, labels=labels)))
    units = next_units(draw_plan)
    assert [only_slice(unit).label for unit in units[:classes]] == [label.name for label in labels]
    assert {unit.size for unit in units[:classes]} == {first} and units[classes].size == 64


def test_where_records_are_of_other_units_than_were_planned_no_draw_is_numbered_twice() -> None:
    """As where a shard was made again and gave fewer texts: units after it were planned by what it had given."""
    draw_plan = plan(300)
    units = next_units(draw_plan)
    for unit in units[:9]:
        draw_plan.finish([record(unit, unit.size)])
        next_units(draw_plan)
    drawn = {label: sum(unit.size for unit in units[:9] if only_slice(unit).label == label) for label in LABELS}
    assert only_slice(units[9]).label == LABELS[0] and only_slice(units[1]).label == LABELS[1]
    draw_plan.finish([record(msgspec.structs.replace(units[1], number=9, batch=9), 3)])
    drawn[LABELS[1]] += units[1].size
    later = next_units(draw_plan)
    assert [unit.number for unit in later] == list(range(10, 10 + len(later)))
    for label in LABELS:
        first = next(only_slice(unit) for unit in later if only_slice(unit).label == label)
        assert first.first_id == drawn[label]


def test_a_class_that_lacks_little_is_drawn_for_a_little() -> None:
    assert [unit.size for unit in next_units(plan(per_class=20))] == [20, 20, 20]
    assert [unit.size for unit in next_units(plan(per_class=2))] == [FEWEST_DRAWS] * 3


def test_what_is_next_hangs_on_what_is_finished_and_not_on_who_asked_in_between() -> None:
    draw = random.Random(0)
    undisturbed, again = plan(per_class=300), plan(per_class=300)
    waiting, records = next_units(undisturbed), []
    while waiting:
        unit = waiting.pop(0)
        records.append(record(unit, draw.randint(0, unit.size // 2)))
        undisturbed.finish([records[-1]])
        waiting += next_units(undisturbed)
    for number, finished in enumerate(records):
        units = next_units(again)
        assert all(next_units(again) == [] for _ in range(2)), f"asked twice after {number}: {units}"
        again.finish([finished])
    assert next_units(again) == [] and again.is_done
    assert again.counts.by_label == undisturbed.counts.by_label


def test_a_class_that_nothing_is_accepted_of_is_given_up_after_two_rounds_and_the_others_go_on() -> None:
    draw_plan = plan(per_class=1_000)
    waiting = next_units(draw_plan)
    while waiting:
        unit = waiting.pop(0)
        passed = 0 if only_slice(unit).label == "cold" else unit.size // 2
        draw_plan.finish([record(unit, passed, min(passed, draw_plan.counts.missing.get(only_slice(unit).label, 0)))])
        waiting += next_units(draw_plan)
    assert [draw_plan.counts.has_stalled(label) for label in LABELS] == [False, True, False]
    assert draw_plan.counts.by_label["cold"].drawn <= 64 * UNITS_AHEAD
    assert draw_plan.counts.by_label["warm"].kept == draw_plan.counts.by_label["mild"].kept == 1_000


def test_a_class_whose_texts_begin_to_repeat_themselves_stalls_by_its_last_units() -> None:
    draw_plan = plan(per_class=10_000)
    waiting = next_units(draw_plan)
    while waiting:
        unit = waiting.pop(0)
        drawn = draw_plan.counts.by_label[only_slice(unit).label].drawn
        draw_plan.finish([record(unit, unit.size if drawn < 2_000 else 0)])
        waiting += next_units(draw_plan)
    assert all(draw_plan.counts.has_stalled(label) for label in LABELS)
    most = 2_000 + 64 * (RECENT_BATCHES + draw_plan.ahead)
    assert all(2_000 < draw_plan.counts.by_label[label].drawn < most for label in LABELS)


def test_no_more_is_drawn_than_is_allowed() -> None:
    draw_plan = plan(per_class=100, max_candidates=150, min_acceptance=0.0)
    worked_through(draw_plan, 0.1)
    assert [draw_plan.counts.by_label[label].drawn for label in LABELS] == [150] * 3
    assert all(draw_plan.counts.has_stalled(label) for label in LABELS)


def test_units_are_finished_in_order() -> None:
    draw_plan = plan()
    first, second, *_ = next_units(draw_plan)
    with pytest.raises(ValueError, match="batch 1 cannot be finished before batch 0"):
        draw_plan.finish([record(second, 1)])
    draw_plan.finish([record(first, 1)])


def test_a_round_waits_for_the_one_before_and_is_drawn_for_the_classes_that_lack_texts() -> None:
    draw_plan = RoundPlan(brief(per_class=2, draws_per_round=6, max_candidates=12))
    (unit,) = next_units(draw_plan)
    assert [(part.label, part.first_id, part.seed_offset) for part in unit.slices] == [
        ("warm", 0, 0),
        ("cold", 6, 6),
        ("mild", 12, 12),
    ]
    assert len({part.seed for part in unit.slices}) == 1 and unit.fresh and not unit.annotates
    assert next_units(draw_plan) == []
    numbers: dict[str, Any] = {"number": 0, "draws": 6, "rejected": {}}
    draw_plan.finish(
        [
            DrawRecord(label=name, passed=kept, kept=kept, **numbers)
            for name, kept in zip(LABELS, (2, 1, 0), strict=True)
        ]
    )
    (unit,) = next_units(draw_plan)
    assert [(part.label, part.first_id) for part in unit.slices] == [("cold", 0), ("mild", 6)]
    numbers["number"] = 1
    draw_plan.finish([DrawRecord(label=name, passed=0, kept=0, **numbers) for name in LABELS[1:]])
    assert next_units(draw_plan) == [] and draw_plan.is_done and list(draw_plan.counts.missing) == ["cold", "mild"]


def test_rounds_are_no_larger_than_few_texts_per_class_need() -> None:
    draw_plan = RoundPlan(brief(per_class=5))
    (unit,) = next_units(draw_plan)
    assert [(part.label, part.draws, part.first_id) for part in unit.slices] == [
        ("warm", 20, 0),
        ("cold", 20, 20),
        ("mild", 20, 40),
    ]
    draw_plan.finish(
        [
            DrawRecord(number=0, label=name, draws=20, passed=kept, kept=kept, rejected={})
            for name, kept in zip(LABELS, (5, 4, 0), strict=True)
        ]
    )
    (unit,) = next_units(draw_plan)  # by what they lack and how much is accepted; of a class of which nothing is, all
    assert [(part.label, part.draws, part.first_id) for part in unit.slices] == [("cold", 8, 0), ("mild", 64, 8)]


@pytest.mark.parametrize(("num_labels", "second"), [(18, 112), (19, 11)])
def test_with_many_classes_a_later_round_draws_only_what_each_lacks(num_labels: int, second: int) -> None:
    """Of 112 draws for each class 94 are kept, and 100 are wanted."""
    names = [f"class {number}" for number in range(num_labels)]
    task = msgspec.structs.replace(TASK, labels=tuple(Label(name=name) for name in names))
    draw_plan = RoundPlan(msgspec.structs.replace(brief(per_class=100, draws_per_round=112), task=task))
    for number, (draws, kept) in enumerate([(112, 94), (second, 6)]):
        (unit,) = next_units(draw_plan)
        assert [(part.label, part.draws) for part in unit.slices] == [(name, draws) for name in names]
        draw_plan.finish(
            [DrawRecord(number=number, label=name, draws=draws, passed=kept, kept=kept, rejected={}) for name in names]
        )
    assert not next_units(draw_plan)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_presets_draw_whole_rounds_and_pools(preset: RunSettings) -> None:
    assert first_draws(preset) == preset.generate.draws_per_round
    if preset.annotate.has_pool:
        assert preset.pool_per_class(150) == preset.annotate.pool_per_class
        assert first_draws(pool_settings(preset, 150)) == preset.generate.draws_per_round


def test_a_pool_of_many_classes_is_no_larger_than_few_texts_per_class_need() -> None:
    few = RunSettings(generate=GenerateSettings(per_class=10))
    assert [few.pool_per_class(num_labels) for num_labels in (150, 8, 5)] == [30, 50, 80]
    assert first_draws(pool_settings(few, 150)) == 45


@pytest.mark.parametrize("suppress", [0.0, 1.0])
def test_a_round_that_is_spread_asks_for_the_same_in_small_units(suppress: float) -> None:
    task_brief = brief(draws_per_round=40, suppress=suppress)
    (unit,), parts = next_units(RoundPlan(task_brief)), next_units(RoundPlan(task_brief, spread=True))
    assert [unit.size for unit in parts] == [16, 16, 8] * 3
    assert [unit.number for unit in parts] == list(range(9)) and not any(unit.fresh for unit in parts)
    for number, slice_of_class in enumerate(unit.slices):
        class_parts = [only_slice(unit) for unit in parts[3 * number : 3 * number + 3]]
        assert [part.skip for part in class_parts] == [0, 16, 32]
        for part in class_parts:
            assert part.first_id - part.skip == slice_of_class.first_id
            assert part.seed_offset - part.skip == slice_of_class.seed_offset
            assert (part.stream, part.stream_draws, part.seed) == (slice_of_class.stream, 40, slice_of_class.seed)
