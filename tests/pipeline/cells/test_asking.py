"""Which texts a person is asked about: those nobody is sure of, one of each kind."""

import numpy as np

from fourshot.pipeline.cells.asking import select_for_labelling


def around(directions: list[int], count: int) -> np.ndarray:
    """Unit vectors, ``count`` near each of some axes, in turn."""
    noise = np.random.default_rng(0).normal(0, 0.02, (len(directions) * count, 8))
    vectors = np.eye(8)[directions * count] + noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_each_kind_of_unsure_text_is_asked_about_once_and_no_sure_one() -> None:
    vectors = np.concatenate([around([0, 1, 2, 3], 10), around([5], 400)])
    entropies = [1.0] * 40 + [0.1] * 400
    chosen = select_for_labelling(vectors, entropies, 4, seed=0)
    assert sorted(index % 4 for index in chosen) == [0, 1, 2, 3]
    assert max(chosen) < 40


def test_the_text_in_the_middle_stands_for_its_kind() -> None:
    vectors = around([0, 1], 9)
    vectors[0] = np.eye(8)[0]
    centred = vectors[::2].mean(axis=0)
    nearest = min(range(0, 18, 2), key=lambda index: float(((vectors[index] - centred) ** 2).sum()))
    assert nearest in select_for_labelling(vectors, [1.0] * 18, 2, seed=0)


def test_the_least_sure_come_first_and_the_same_seed_asks_the_same() -> None:
    vectors, entropies = around([0, 1, 2], 20), list(np.random.default_rng(1).random(60))
    chosen = select_for_labelling(vectors, entropies, 7, seed=3)
    assert len(set(chosen)) == 7
    assert [entropies[index] for index in chosen] == sorted((entropies[index] for index in chosen), reverse=True)
    assert chosen == select_for_labelling(vectors, entropies, 7, seed=3)


def test_texts_that_are_all_alike_or_few_are_asked_about_too() -> None:
    same = np.tile(np.eye(8, dtype=np.float32)[0], (30, 1))
    assert len(set(select_for_labelling(same, [0.5] * 30, 5, seed=0))) == 5
    assert select_for_labelling(same[:3], [0.1, 0.3, 0.2], 5, seed=0) == [1, 2, 0]
