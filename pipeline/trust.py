"""Reports of how far the annotators can be trusted, by their predictions on shots that they have not seen."""

from collections.abc import Mapping

from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.synthesis.evidence import KindEvidence
from fourshot.pipeline.task import Task

MOST_CHANCE = 0.2  # probability that guessing is as accurate, above which an accuracy is no evidence


def report_evidence(task: Task, evidence: Mapping[str, KindEvidence], on_event: OnEvent) -> None:
    """Report how accurate the annotators are on held-out shots, and warn if they may be guessing."""
    on_event(Event(stage="generate", message=f"{task.name}, the annotators: {evidence_line(evidence)}"))
    if warning := chance_warning(evidence, len(task.labels)):
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
        f"the annotators classify {correct} of {num_texts} held-out shots correctly, and guessing may do as well. The "
        "labels of generated texts may be wrong: read some of the texts in the report. A base model that knows the "
        "language and the subject (--model), or more shots (--shots), can help"
    )
