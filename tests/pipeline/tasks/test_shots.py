"""The shots: k per class, the same for the same seed, never silently fewer."""

from collections import Counter
from pathlib import Path

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.shots import check_real, draw_shots, real_examples, take_shots
from fourshot.pipeline.tasks.task_file import load_task
from tests.pipeline.task_folders import COLD, WARM, rows_of, write_jsonl, write_task

EXAMPLES = [Example(text=f"{label} {i}", label=label) for i in range(50) for label in ("warm", "cold", "odd")]
LABELS = ("warm", "cold")
GOLDEN = ["cold 23", "cold 14", "warm 37", "warm 26"]


def test_k_of_each_label_and_of_no_other() -> None:
    shots = draw_shots(EXAMPLES, LABELS, 4, seed=0)
    assert Counter(shot.label for shot in shots) == {"warm": 4, "cold": 4}
    assert len(set(shots)) == 8


def test_the_seed_decides_and_nothing_else() -> None:
    assert draw_shots(EXAMPLES, LABELS, 4, seed=3) == draw_shots(list(EXAMPLES), LABELS, 4, seed=3)
    draws = {tuple(draw_shots(EXAMPLES, LABELS, 4, seed=seed)) for seed in range(20)}
    assert len(draws) == 20


def test_the_draw_of_a_seed_never_changes() -> None:
    """Published numbers name a seed; the shots behind it must stay the same over versions."""
    shots = draw_shots(EXAMPLES, LABELS, 2, seed=0)
    assert [shot.text for shot in shots] == GOLDEN


def test_the_labels_stand_in_random_order() -> None:
    orders = {tuple(shot.label for shot in draw_shots(EXAMPLES, LABELS, 2, seed=seed)) for seed in range(40)}
    assert len(orders) == 6  # all orders of two and two


def test_a_larger_draw_contains_the_smaller() -> None:
    assert set(draw_shots(EXAMPLES, LABELS, 4, seed=5)) < set(draw_shots(EXAMPLES, LABELS, 25, seed=5))


@pytest.mark.parametrize("k", [0, -1])
def test_no_shots_are_refused(k: int) -> None:
    with pytest.raises(InputError, match=f"got {k} shots per class, at least 1"):
        draw_shots(EXAMPLES, LABELS, k, seed=0)


def test_too_few_in_a_class_names_it_and_the_ways_out() -> None:
    few = [example for example in EXAMPLES if example.label == "warm"] + EXAMPLES[1:7:3]
    with pytest.raises(InputError, match=r"'cold' has 2\. Either add .* --shots 2, or .*--allow-fewer-shots"):
        draw_shots(few, LABELS, 4, seed=0)
    shots = draw_shots(few, LABELS, 4, seed=0, allow_fewer=True)
    assert Counter(shot.label for shot in shots) == {"warm": 4, "cold": 2}


def test_a_class_without_any_example_is_refused_always() -> None:
    with pytest.raises(InputError, match=r"'cold' has 0.*remove a class that has none"):
        draw_shots([e for e in EXAMPLES if e.label == "warm"], LABELS, 4, seed=0, allow_fewer=True)


def test_shots_that_the_user_chose_are_used_whatever_the_seed(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    chosen = rows_of([f"chosen warm {i}" for i in range(4)], "warm") + rows_of(
        [f"chosen cold {i}" for i in range(4)], "cold"
    )
    write_jsonl(tmp_path / "shots.jsonl", chosen)
    shots = take_shots(task, 4, seed=0)
    assert {shot.text for shot in shots} == {row["text"] for row in chosen}
    assert shots != take_shots(task, 4, seed=1)
    assert set(shots) == set(take_shots(task, 4, seed=1))
    with pytest.raises(InputError, match="'warm' has 4, 'cold' has 4"):
        take_shots(task, 5, seed=0)


def test_without_chosen_shots_they_come_from_the_train_split(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    assert {shot.text for shot in take_shots(task, 4, seed=0)} == {*WARM, *COLD}


def test_real_examples_are_a_number_per_class_a_share_or_all() -> None:
    train = [Example(text=f"{label}{n}", label=label) for label, count in (("a", 90), ("b", 10)) for n in range(count)]
    assert len(real_examples(train, ["a", "b"], "4", 0)) == 8
    assert real_examples([*train, Example(text="c", label="c")], ["a", "b"], "all", 0) == train
    assert len(real_examples(train, ["a", "b"], "20", 0)) == 30, "all of a label that has fewer"
    with pytest.raises(InputError, match="'c' has 0"):
        real_examples(train, ["a", "b", "c"], "all", 0)
    for wrong in ("0", "many", "0%", "101%", "-3", "²"):
        with pytest.raises(InputError, match="--real"):
            check_real(wrong)


def test_a_share_of_the_examples_has_that_share_of_each_class() -> None:
    counts = {"a": 90, "b": 30, "c": 10, "d": 1}
    train = [Example(text=f"{label}{n}", label=label) for label, count in counts.items() for n in range(count)]
    expected = {"1%": (1, 1, 1, 1), "5%": (5, 2, 1, 1), "15%": (14, 5, 2, 1), "50%": (45, 15, 5, 1)}
    smaller: set[Example] = set()
    for share, by_label in expected.items():
        drawn = real_examples(train, [*counts], share, 0)
        assert Counter(example.label for example in drawn) == dict(zip(counts, by_label, strict=True))
        assert smaller <= {*drawn}, "a larger share contains a smaller one"
        smaller = {*drawn}
    assert drawn != sorted(drawn, key=train.index), "classes do not stand behind one another"
    assert sorted(real_examples(train, [*counts], "100%", 0), key=train.index) == train
