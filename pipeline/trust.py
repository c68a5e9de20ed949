"""Reports of how far the annotators can be trusted: on shots that they have not seen, or by how often they agree."""

from collections import Counter
from collections.abc import Mapping, Sequence

from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.synthesis.evidence import KindEvidence
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import Task

MOST_CHANCE = 0.2  # probability that guessing is as accurate, above which an accuracy is no evidence
# Cohen's kappa up to which an agreement is called slight. Source: Landis & Koch 1977, "The Measurement of Observer
# Agreement for Categorical Data".
SLIGHT = 0.2
REMEDY = (
    "The labels of generated texts may be wrong: read some of the texts in the report. A base model that knows the "
    "language and the subject (--model), or more shots (--shots), can help"
)


def report_evidence(task: Task, evidence: Mapping[str, KindEvidence], on_event: OnEvent) -> None:
    """Report how accurate the annotators are on held-out shots, and warn if they may be guessing."""
    on_event(Event(stage="generate", message=f"{task.name}, the annotators: {evidence_line(evidence)}"))
    if warning := chance_warning(evidence, len(task.labels)):
        on_event(Event(stage="generate", message=f"{task.name}: {warning}", notice=True))


def report_agreement(
    task: Task, candidates: Sequence[Candidate], verdicts: Sequence[Verdict], on_event: OnEvent
) -> None:
    """Warn if annotators that were not scored on held-out shots hardly predict the labels that texts were written for.

    Either the generator or the annotators may be wrong then. An agreement is no proof that both are right.
    """
    labels = [
        (candidate.label, verdict.predicted)
        for candidate, verdict in zip(candidates, verdicts, strict=True)
        if candidate.label and not candidate.mixed and verdict.predicted
    ]
    intended, predicted = (Counter(label[side] for label in labels) for side in (0, 1))
    by_chance = sum(intended[name] * predicted[name] for name in task.label_names) / max(1, len(labels)) ** 2
    agreed = sum(label[0] == label[1] for label in labels) / max(1, len(labels))
    if len(labels) and by_chance < 1 and (agreed - by_chance) / (1 - by_chance) <= SLIGHT:
        warning = (
            f"the annotators find the intended class in {agreed:.0%} of {len(labels)} texts, and guessing would in "
            f"{by_chance:.0%}. {REMEDY}"
        )
        on_event(Event(stage="generate", message=f"{task.name}: {warning}", notice=True))


def evidence_line(evidence: Mapping[str, KindEvidence]) -> str:
    """Return the accuracies and weights in one line for people."""
    return ", ".join(
        f"{kind}: {item.accuracy:.0%} of {item.num_texts} held-out shots correct (weight {item.weight:.2f})"
        for kind, item in evidence.items()
    )


def chance_warning(evidence: Mapping[str, KindEvidence], num_labels: int) -> str:
    """Return a warning if guessing may be as accurate as the best kind on the held-out shots; "" if it is not.

    The probability that it is, is the tail of a binomial distribution.
    """
    from scipy.special import bdtrc  # type: ignore[import-untyped]

    best = max(evidence.values(), key=lambda item: item.accuracy)
    num_texts, correct = best.num_texts, round(best.accuracy * best.num_texts)
    if correct == num_texts or bdtrc(correct - 1, num_texts, 1 / num_labels) <= MOST_CHANCE:
        return ""
    return (
        f"the annotators classify {correct} of {num_texts} held-out shots correctly, and guessing may do as well. "
        f"{REMEDY}"
    )
