"""The content of a report.

The caller fills it from a run folder or a comparison; every part but the first two may be missing.
Importing this module loads neither numpy nor the template engine.
"""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import msgspec

from fourshot.pipeline.forecasts.forecast import Forecast
from fourshot.pipeline.scores import Scores
from fourshot.pipeline.selective import CoverageCurve, Scope
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import Example, Task


class MethodRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table: one way of classifying, over one or more seeds. Shares are 0 .. 1; None means not known."""

    method: str  # key: "zero_shot", "icl", "lora", "fourshot", "lora25", ...
    display_name: str
    accuracy: float  # mean over seeds
    accuracy_deviation: float | None = None  # sample standard deviation over seeds
    seed_accuracies: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None  # 95 %
    macro_f1: float | None = None
    ece: float | None = None  # expected calibration error, mean over seeds
    ece_before: float | None = None  # the same before calibration, where every seed was calibrated
    surest_80: float | None = None  # accuracy on the most confident 80 % of the texts
    seconds_per_example: float | None = None
    prompt_tokens_per_example: float | None = None
    real_examples: int | None = None  # labelled texts used, all classes together
    synthetic_examples: int | None = None
    unlabelled_examples: int | None = None  # of the user's own, labelled by annotators


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the classifier comes from."""

    base_model: str = ""
    revision: str = ""
    hashes: dict[str, str] = {}  # what -> content hash
    shots: tuple[Example, ...] = ()
    prompts: dict[str, str] = {}  # purpose -> one rendered prompt


class Certainty(msgspec.Struct, frozen=True, kw_only=True):
    """How far a classifier's probabilities can be trusted: calibration, coverage curve and scope."""

    calibrated_on: str = ""  # "": it is not calibrated
    uncalibrated_because: str = "no texts were held out for it"
    temperature: float = 1.0
    coverage: CoverageCurve | None = None
    scope: Scope | None = None


class UnsureText(msgspec.Struct, frozen=True, kw_only=True):
    """One of the user's texts of which a teacher was least certain."""

    text: str
    label: str  # the likeliest one
    probability: float
    second: str  # the next likeliest one


class ReportData(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `write_report` shows. A part that is left empty is named as missing in the report."""

    title: str
    task: Task
    created: str = ""  # date and time, as it is to be printed
    num_test: int = 0  # texts in the test split that was used
    methods: tuple[MethodRow, ...] = ()
    left_out: dict[str, str] = {}  # display name of a method -> why it has no row
    answers: tuple[tuple[str, str], ...] = ()  # (label, prediction) of each test text, as for `certainty`
    long_texts: tuple[str, ...] = ()  # sentences on how much of each split's texts is not read, where that is any
    certainty: Certainty | None = None  # of the headline method, on the first seed
    headline_method: str = ""  # key of the row that the first sentence is about; "": "fourshot", else the last row
    reason_counts: dict[str, dict[str, int]] = {}  # class -> reason -> number; empty: counted from the two below
    kept: tuple[tuple[Candidate, Verdict], ...] = ()
    rejected: tuple[tuple[Candidate, Verdict], ...] = ()
    facts: dict[str, str] = {}  # heading -> size, speed or cost of the classifier, beyond the table of methods
    least_texts: int = 0  # to keep per class, where a run may continue with fewer; 0: it may not
    unsure: tuple[UnsureText, ...] = ()  # the texts of which a teacher was least certain, the least certain first
    unlabelled: dict[str, int] = {}  # reason -> number of the user's own texts
    labelled: int = 0  # of the user's own texts, those that a person was asked about and labelled
    reviewed: dict[str, int] = {}  # "relabelled", "dropped", "kept" -> texts that a person decided so
    real_texts: dict[str, tuple[str, ...]] = {}  # by class
    synthetic_texts: dict[str, tuple[str, ...]] = {}  # by class
    losses: dict[str, tuple[tuple[int, float], ...]] = {}  # training -> (step, loss), steps ascending
    stage_seconds: dict[str, float] = {}  # in the order the stages ran
    forecast: Forecast | None = None  # of the last call that had something to do
    settings: dict[str, Any] = {}  # may be nested
    versions: dict[str, str] = {}
    lineage: Lineage = Lineage()
    try_it: str = ""  # a command line
    seed: int = 0  # of the choice of examples shown


def method_row(
    method: str,
    display_name: str,
    scores: Sequence[Scores],
    *,
    real_examples: int | None = None,
    synthetic_examples: int | None = None,
    unlabelled_examples: int | None = None,
) -> MethodRow:
    """Aggregate one method's scores, one per seed. Raises ValueError for no scores.

    The interval is Wilson's at the mean accuracy with the n of one test split: the seeds answer the same texts, so
    adding up their n would claim a precision that the test set does not have.
    """
    from fourshot.pipeline.metrics import wilson_interval

    if not scores:
        raise ValueError(f"no scores for method {method!r}: give one `Scores` per seed")
    accuracies = tuple(score.accuracy for score in scores)
    n = min(score.n for score in scores)
    num_answers = sum(score.n for score in scores)
    return MethodRow(
        method=method,
        display_name=display_name,
        accuracy=fmean(accuracies),
        accuracy_deviation=stdev(accuracies) if len(accuracies) > 1 else None,
        seed_accuracies=accuracies,
        interval=wilson_interval(fmean(accuracies) * n, n),
        macro_f1=fmean(score.macro_f1 for score in scores),
        ece=fmean(score.ece for score in scores),
        ece_before=_mean([score.ece_before for score in scores]),
        surest_80=_mean([score.surest_80 for score in scores]),
        seconds_per_example=sum(score.seconds for score in scores) / num_answers,
        prompt_tokens_per_example=sum(score.prompt_tokens for score in scores) / num_answers,
        real_examples=real_examples,
        synthetic_examples=synthetic_examples,
        unlabelled_examples=unlabelled_examples,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where a value is missing."""
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if len(numbers) == len(values) else None
