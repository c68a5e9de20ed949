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


@pytest.mark.parametrize(
    "text",
    ["кошка сидит на окне", "Straße in Köln", "猫が窓に座っている", "बिल्ली खिड़की पर बैठी है", "קטן וגדול"],
)
def test_words_of_any_script_count(text: str) -> None:
    same, other = score_texts([text], [[text]]), score_texts(["ни одно слово"], [[text]])
    assert (same.rouge1, same.rouge2, same.rougeL, same.bleu) == (100, 100, 100, 100) or len(text.split()) < 4
    assert (same.rouge1, same.rougeL) == (100, 100)
    assert (other.rouge1, other.rougeL) == (0, 0)


def test_a_script_without_blanks_is_counted_by_characters() -> None:
    scores = score_texts(["猫が窓に座る"], [["猫が窓に寝る"]])
    assert scores.rouge1 == pytest.approx(100 * 5 / 6, abs=0.01)
    assert scores.bleu > 30
    assert scores.words == 3  # two characters for a word


def test_english_is_counted_as_rouge_score_does() -> None:
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    written, right = "The cats were running_home, 2 of them", "A cat ran home; 2 of the cats run"
    expected = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(right, written)
    scores = score_texts([written], [[right]])
    assert scores.rouge1 == pytest.approx(100 * expected["rouge1"].fmeasure, abs=0.01)
    assert scores.rougeL == pytest.approx(100 * expected["rougeL"].fmeasure, abs=0.01)
