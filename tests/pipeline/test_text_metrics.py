"""How near texts are to references: the libraries' numbers, also where texts have different numbers of references."""

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.text_metrics import score_texts

sacrebleu = pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

RIGHT = [["The cat sat on the mat."], ["A dog barks loudly at night.", "The dog barked all night long."]]


def test_what_is_right_scores_highest_and_any_reference_counts() -> None:
    scores = score_texts(["The cat sat on the mat.", " The dog barked all night long. "], RIGHT, seconds=1.5)
    assert scores.chrf == scores.bleu == scores.rouge1 == scores.rougeL == 100.0
    assert scores.exact == 1.0 and scores.words == 6.0 and scores.seconds == 1.5


def test_scores_are_those_of_the_libraries() -> None:
    written = ["The cat sat on a mat.", "Dogs bark at night."]
    scores = score_texts(written, RIGHT)
    streams = [["The cat sat on the mat.", "A dog barks loudly at night."], [None, "The dog barked all night long."]]
    assert scores.chrf == round(sacrebleu.corpus_chrf(written, streams).score, 2)
    assert scores.bleu == round(sacrebleu.corpus_bleu(written, streams).score, 2)
    assert scores.rouge1 == pytest.approx(100 * (5 / 6 + 2 * 4 / (4 + 6)) / 2, abs=0.01)  # all but "a"; all 4 of 6
    assert scores.chrf_interval[0] < scores.chrf < scores.chrf_interval[1]
    assert scores.exact == 0.0 and "nrefs:var" in scores.signature


def test_a_score_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="give at least one, each with its references"):
        score_texts([], [])
    with pytest.raises(InputError, match="got 1 and 1"):
        score_texts(["a"], [[]])
