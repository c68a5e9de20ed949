"""The measures of varied texts, and the table that is drawn from them."""

from typing import Any

import numpy as np
import pytest

from fourshot.bench.suites.diversity import REAL, RECIPES, SUITE, coverage, gains, self_bleu


def unit(*angles: float) -> np.ndarray:
    return np.array([[np.cos(a), np.sin(a)] for a in np.radians(angles)], dtype=np.float32)


def test_coverage_is_the_share_of_real_texts_with_a_neighbour() -> None:
    real = unit(0, 1, 2, 90, 91, 92)  # two groups; the second nearest real neighbour is at most 2 degrees away
    assert coverage(real, unit(1.5), neighbours=2) == pytest.approx(0.5)
    assert coverage(real, unit(1.5, 91.5), neighbours=2) == pytest.approx(1.0)
    assert coverage(real, unit(45), neighbours=2) == 0.0


def test_coverage_of_few_real_texts_raises() -> None:
    with pytest.raises(ValueError, match="more than 5 real texts, got 3"):
        coverage(unit(0, 1, 2), unit(1))


def test_self_bleu_is_one_for_the_same_text_and_falls_with_variety() -> None:
    same = ["the film is a quiet joy to watch"] * 5
    varied = ["the film is a quiet joy to watch", "nobody sings here at all today", "what a mess they made of it"]
    assert self_bleu(same) == pytest.approx(1.0)
    assert self_bleu(varied) < 0.2
    with pytest.raises(ValueError, match="at least two"):
        self_bleu(["alone"])


def rows() -> list[dict[str, Any]]:
    """Two seeds; every way beyond the first gains a point of accuracy on one seed and three on the other."""
    recipe_rows = []
    for seed in range(2):
        for place, recipe in enumerate((*RECIPES, REAL)):
            row: dict[str, Any] = {"task": "sst2", "seed": seed, "way": recipe, "texts": 100, "trigrams": 500.0}
            row |= {f"distinct_{n}": 0.5 for n in (1, 2, 3)} | {"self_bleu": 0.3, "coverage": 0.4}
            if recipe != REAL:
                row |= {"acceptance": 0.7, "accuracy": 0.8 + bool(place) * (0.01 + 0.02 * seed)}
            recipe_rows.append(row)
    recipe_rows[1]["trigrams"] = recipe_rows[len(RECIPES) + 2]["trigrams"] = 600.0  # of the second way
    return recipe_rows


def test_gains_are_paired_by_task_and_seed() -> None:
    first = gains(rows())[0]
    assert first["way"] == RECIPES[1]
    assert first["accuracy"]["mean"] == pytest.approx(0.02) and first["accuracy"]["standard_error"] == pytest.approx(
        0.01
    )
    assert first["trigrams"]["mean"] == pytest.approx(0.2)
    assert gains(rows()[: len(RECIPES) + 1])[0]["accuracy"]["standard_error"] is None


def test_the_table_has_every_way_and_what_it_gains() -> None:
    drawn = SUITE.markdown({"settings": {"tasks": ["sst2"], "seeds": 2}, "rows": rows(), "gains": gains(rows())})
    assert "| fourshot | 500 |" in drawn and "80.0 ± 0.0" in drawn
    assert "| shots in one order | +2.0 ± 1.0 | +20 ± 0 % |" in drawn
    (real,) = (line for line in drawn.splitlines() if line.startswith("| as many real texts"))
    assert real.endswith("|  |  |"), "nothing was accepted of real texts, and nothing trained on them here"
