"""What is kept of texts that were read."""

from collections.abc import Sequence

import msgspec
import numpy as np

from fourshot.pipeline.synthesis.annotate import judge
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.tasks.task_file import load_task

TASK = load_task("support_tickets")
TEXTS = ("The parcel never came", "I was charged twice", "How do I turn a page?", "Please delete my account")


def candidates(texts: Sequence[str] = TEXTS, label: str = TASK.label_names[0]) -> list[Candidate]:
    return [
        Candidate(
            id=f"r00-{number:06d}",
            text=text,
            label=label,
            round=0,
            prompt_hash="0" * 12,
            shots=(),
            num_tokens=5,
            cumulative_logprob=-9.0,
            finish_reason="stop",
        )
        for number, text in enumerate(texts)
    ]


def test_kept_is_what_is_read_as_intended_and_confidently_enough() -> None:
    sure, unsure, other = [0.9, 0.1, 0, 0, 0], [0.4, 0.3, 0.1, 0.1, 0.1], [0.2, 0.8, 0, 0, 0]
    probabilities = np.array([sure, unsure, other])
    verdicts = judge(
        TASK,
        candidates(TEXTS[:3]),
        probabilities,
        RunSettings(annotate=AnnotateSettings(confidence=0.5)),
    )
    assert [verdict.reason for verdict in verdicts] == ["kept", "low_confidence", "label_disagrees"]
    assert [verdict.kept for verdict in verdicts] == [True, False, False]
    assert verdicts[2].predicted == TASK.label_names[1]
    assert verdicts[0].probabilities == dict(zip(TASK.label_names, sure, strict=True))


def test_without_an_annotator_everything_is_believed() -> None:
    verdicts = judge(TASK, candidates(), None, RunSettings(annotate=AnnotateSettings(annotator="none")))
    assert all(verdict.kept for verdict in verdicts)


def test_a_verdict_of_an_earlier_version_can_still_be_read() -> None:
    line = b'{"candidate_id":"r00-000000","kept":true,"reason":"kept","predicted":"bug","train_label":"bug"}'
    assert msgspec.json.decode(line, type=Verdict).predicted == "bug"


def test_with_soft_targets_every_text_that_somebody_is_sure_enough_of_is_kept() -> None:
    names = TASK.label_names
    sure, unsure = np.full((2, len(names)), 0.1 / (len(names) - 1)), np.full((2, len(names)), 1 / len(names))
    sure[0, 0] = sure[1, 1] = 0.9
    settings = RunSettings(annotate=AnnotateSettings(targets="soft", confidence=0.6))
    drawn = candidates(TEXTS[:2], names[0])
    assert [verdict.predicted for verdict in judge(TASK, drawn, sure, settings)] == [names[0], names[1]]
    assert all(verdict.kept for verdict in judge(TASK, drawn, sure, settings))
    assert {verdict.reason for verdict in judge(TASK, drawn, unsure, settings)} == {"low_confidence"}
