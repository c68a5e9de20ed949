"""How far annotators can be trusted by how often they agree with the labels that texts were generated for."""

import msgspec
import pytest

from fourshot.pipeline.events import Event
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.trust import report_agreement
from tests.pipeline.candidates import candidate

TASK = load_task("sst2")
NEGATIVE, POSITIVE = TASK.label_names


def pairs(*counts: tuple[str, str, int], mixed: bool = False) -> tuple[list[Candidate], list[Verdict]]:
    """Texts as (intended label, predicted label, how many); a predicted label "" is that of a malformed text."""
    labels = [labels for *labels, count in counts for _ in range(count)]
    texts = [candidate(number, "a text", intended) for number, (intended, _) in enumerate(labels)]
    return [msgspec.structs.replace(text, mixed=mixed) for text in texts], [
        Verdict(candidate_id=text.id, kept=False, reason="label_disagrees", predicted=predicted)
        for text, (_, predicted) in zip(texts, labels, strict=True)
    ]


@pytest.mark.parametrize(
    ("agreed", "warning"),
    [
        (31, ""),
        (25, "in 50% of 100 texts, and guessing would in 50%. The labels of generated texts may be wrong"),
        (29, "in 58% of 100 texts, and guessing would in 50%. The labels of generated texts may be wrong"),
        (0, "in 0% of 100 texts, and guessing would in 50%. The labels of generated texts may be wrong"),
    ],
)
def test_an_agreement_that_guessing_nearly_reaches_is_reported(agreed: int, warning: str) -> None:
    other, events = 50 - agreed, list[Event]()
    both = [(NEGATIVE, NEGATIVE, agreed), (NEGATIVE, POSITIVE, other), (POSITIVE, POSITIVE, agreed)]
    report_agreement(TASK, *pairs(*both, (POSITIVE, NEGATIVE, other)), events.append)
    assert [event.notice for event in events] == [True] * bool(warning)
    assert not warning or f"sst2: the annotators find the intended class {warning}" in events[0].message


def test_annotators_that_predict_a_single_class_agree_by_chance_alone() -> None:
    events = list[Event]()
    report_agreement(TASK, *pairs((NEGATIVE, POSITIVE, 10), (POSITIVE, POSITIVE, 40)), events.append)
    assert "in 80% of 50 texts, and guessing would in 80%" in events[0].message


def test_texts_without_both_labels_say_nothing() -> None:
    events = list[Event]()
    report_agreement(TASK, *pairs((NEGATIVE, "", 10), ("", POSITIVE, 10)), events.append)
    report_agreement(TASK, *pairs((NEGATIVE, POSITIVE, 10), mixed=True), events.append)
    report_agreement(TASK, *pairs((NEGATIVE, NEGATIVE, 10)), events.append)
    assert not events
