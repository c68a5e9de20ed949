"""Score generated texts against references: chrF, BLEU, ROUGE and exact match, with sacrebleu and rouge-score.

Importing this module loads neither library.
"""

import unicodedata
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.text_words import characters, count_words, has_unspaced, script_runs

RESAMPLES = 500  # of the test split, for the interval


class TextScores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of generated texts on a test split. Several references count as `pipeline.tasks.generation.Pair` says."""

    n: int
    chrf: float  # 0 to 100, of the complete split
    chrf_interval: tuple[float, float]  # 95 %, by resampling the split
    bleu: float  # 0 to 100, of the complete split
    rouge1: float  # 0 to 100, mean F1 with the closest reference
    rouge2: float
    rougeL: float  # noqa: N815 - its name
    exact: float  # share of texts that equal one of their references, outer blanks ignored
    words: float  # mean length, in words
    unfinished: int = 0  # texts that were cut because they did not end
    seconds: float = 0.0  # to write them all
    signature: str = ""  # of sacrebleu: scores are comparable only if it is equal


def score_texts(
    written: Sequence[str], right: Sequence[Sequence[str]], *, unfinished: int = 0, seconds: float = 0.0
) -> TextScores:
    """Score ``written`` against ``right``, the references of each text, at least one per text.

    Source: Popovic 2015 (chrF) and Papineni et al. 2002 (BLEU) as in sacrebleu (Post 2018), with its defaults; Lin 2004
    (ROUGE) as in rouge-score, with stemming. ROUGE counts words of other scripts too, see `_Words`. If most references
    are in a script without blanks, BLEU counts characters. Raises InputError where there is nothing to score, or a
    library is missing.
    """
    if not written or len(written) != len(right) or not all(right):
        raise InputError(
            f"To score texts, give at least one, each with its references; got {len(written)} and {len(right)}."
        )
    check_scoring()
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
    from sacrebleu.metrics import BLEU, CHRF

    most = max(map(len, right))
    # sacrebleu wants one list per reference; None stands for one that a text does not have.
    streams = [[references[k] if k < len(references) else None for references in right] for k in range(most)]

    class Chrf(CHRF):
        """Makes all scores Python floats: only those of empty texts are, others are NumPy's, and no mean takes both."""

        def _compute_score_from_stats(self, stats: list[Any]) -> Any:
            score = super()._compute_score_from_stats(stats)
            score.score = float(score.score)
            return score

    references_of_all = [reference for references in right for reference in references]
    unspaced = 2 * sum(map(has_unspaced, references_of_all)) > len(references_of_all)
    chrf, bleu = Chrf(), BLEU(tokenize="char") if unspaced else BLEU()
    resampled = chrf.corpus_score(list(written), streams, n_bootstrap=RESAMPLES)
    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(kinds, tokenizer=_Words())
    rouge = [scorer.score_multi(list(references), text) for text, references in zip(written, right, strict=True)]
    mean = {kind: 100 * sum(row[kind].fmeasure for row in rouge) / len(rouge) for kind in kinds}
    exact = sum(
        text.strip() in {reference.strip() for reference in references}
        for text, references in zip(written, right, strict=True)
    )
    middle, half = float(resampled._mean), float(resampled._ci)
    return TextScores(
        n=len(written),
        chrf=round(resampled.score, 2),
        chrf_interval=(round(max(0.0, middle - half), 2), round(min(100.0, middle + half), 2)),
        bleu=round(bleu.corpus_score(list(written), streams).score, 2),
        exact=round(exact / len(written), 4),
        words=round(sum(map(count_words, written)) / len(written), 1),
        unfinished=unfinished,
        seconds=round(seconds, 2),
        signature=str(chrf.get_signature()),
        **{kind: round(value, 2) for kind, value in mean.items()},
    )


class _Words:
    """Tokenizer for ROUGE. For ASCII it is that of rouge-score, which would drop all other letters.

    Elsewhere a token is a run of letters, marks and digits, or a single character of a script without blanks.
    """

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer  # type: ignore[import-untyped]

        self._ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of one text, in lower case."""
        if text.isascii():
            return list(self._ascii.tokenize(text))
        import regex

        words: list[str] = []
        for word in regex.findall(r"[\p{L}\p{M}\p{N}]+", unicodedata.normalize("NFC", text).lower()):
            for run in script_runs(word):
                words += self._ascii.tokenize(run) if run.isascii() else characters(run) if has_unspaced(run) else [run]
        return words


def check_scoring() -> None:
    """Raise InputError where a library for scoring texts is not installed."""
    if missing := [name for name in ("sacrebleu", "rouge_score") if find_spec(name) is None]:
        raise InputError(
            f"Texts are scored with sacrebleu and rouge-score, and {' and '.join(missing)} is not installed. Run: pip "
            "install '.[generation]' in fourshot's clone."
        )
