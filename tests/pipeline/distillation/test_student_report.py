"""What the report of a distillation says beside the scores: mistakes, size, speed, cost, and doubtful labels."""

from pathlib import Path

import pytest

from fourshot.pipeline.report.students import NUM_UNSURE, least_sure, student_facts
from fourshot.pipeline.scores import Scores
from fourshot.training.students.examples import StudentResult
from fourshot.training.students.onnx_export import Parity
from tests.pipeline.distillation.test_distill import REMOTE, Teacher, folder, make

__all__ = ["folder"]  # a fixture

RESULT = StudentResult(
    name="a",
    path="",
    strategy="plain",
    parameters=22_713_216,
    examples=90,
    left_out=0,
    steps=40,
    seconds=12.5,
    held_out=20,
    held_out_agreement=0.85,
)


def test_the_report_shows_mistakes_size_speed_cost_and_what_to_correct_first(folder: Path) -> None:
    make(folder, Teacher())
    report = (folder / "out" / "report.md").read_text()
    for line in ("| Precision % |", "Accuracy against coverage is from 2 texts", "- one text at a time, median: "):
        assert line in report
    assert "- answers of large: 30 requests, 930 tokens" in report
    assert "| warm | 0.90 | cold |" in report.partition("least sure of")[2]


def test_the_least_sure_come_first_and_are_few() -> None:
    texts = [(f"text {number}", (0.5 + number / 100, 0.5 - number / 100, 0.0)) for number in reversed(range(40))]
    unsure = least_sure(texts, ["a", "b", "c"])
    assert [row.text for row in unsure] == [f"text {number}" for number in range(NUM_UNSURE)]
    assert (unsure[1].label, unsure[1].second) == ("a", "b") and unsure[1].probability == pytest.approx(0.51)
    assert least_sure([], ["a", "b"]) == ()


def test_facts_are_told_as_far_as_they_are_known() -> None:
    bare = student_facts(RESULT, 90.91, None, None, [], None)
    assert bare == {
        "parameters": "22,713,216",
        "checkpoint": "90.9 MB",
        "training": "12.5 s, 40 steps",
        "same label as the teacher": "85.0 % of 20 texts not used for training",
    }
    scores = Scores(
        n=100, accuracy=1, macro_f1=1, ece=0, interval=(0.9, 1.0), seconds=0.5, prompt_tokens=0, cached_tokens=0
    )
    parity = Parity(file="model_int8.onnx", megabytes=25.5, texts=200, other_labels=5, largest_difference=0.1)
    facts = student_facts(RESULT, 90.91, scores, 0.0042, [parity], REMOTE)
    assert facts["speed, all test texts at once"] == "200 texts/s on this machine"
    assert facts["one text at a time, median"] == "4.2 ms"
    assert facts["model_int8.onnx"] == "25.5 MB, the same label on 195 of 200 texts"
    assert facts["answers of large"] == "30 requests, 930 tokens"
