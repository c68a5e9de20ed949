"""What a student may learn of what its teacher wrote, and how a teacher is measured that refuses texts."""

from collections.abc import Iterator
from pathlib import Path

from fourshot.pipeline.distillation.annotators import Annotation, Parts
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.distillation.taught import learnable_pairs, lesson_of, teacher_measured
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import Example, Label, Task
from fourshot.training.students.examples import TaughtExample
from tests.pipeline.candidates import candidate

TASK = Task(name="weather", instruction="Say it.", noun="note", labels=(Label(name="cold"), Label(name="warm")))


def written(text: str, kept: bool = True) -> tuple[Candidate, Verdict]:
    drawn = candidate(0, text, "cold")
    return drawn, Verdict(candidate_id=drawn.id, kept=kept, reason="kept" if kept else "too_short")


def test_a_text_that_an_earlier_run_wrote_is_not_learnt_where_it_is_measured_on_or_annotated() -> None:
    pairs = [written(text) for text in ("Frost at night", "A TEST  text", "A shot", "Annotated", "frost at night")]
    usable, notes = learnable_pairs(
        [*pairs, written("Rejected", kept=False)],
        [Example(text="A shot", label="cold")],
        [TaughtExample(text="Annotated", probabilities=(1.0, 0.0))],
        [Example(text="a test text", label="cold")],
    )
    assert [drawn.text for drawn, _ in usable] == ["Frost at night"]
    assert notes == [
        "not learnt, because used for testing: 1 written text",
        "not learnt, because duplicated: 3 written texts",
    ]


def test_a_text_that_is_nearly_a_test_text_is_learnt_and_that_is_told(tmp_path: Path) -> None:
    texts = ("The lake near our house is frozen again!", "Sunburn in May", "lake near our house is frozen again")
    annotated = [TaughtExample(text=text, probabilities=(1.0, 0.0)) for text in texts]
    test = [Example(text="the lake near our house is frozen again", label="cold")]
    request = LabelDistillation(task=TASK, folder=tmp_path)
    lesson = lesson_of(request, annotated, [], [], test)
    assert len(lesson.annotated) == 3
    (note,) = lesson.notes
    assert note.startswith("learnt, although nearly identical to a test text: 2 texts, such as 'The lake near our")
    assert (
        lesson_of(request, annotated[1:2], [], [], test).notes == lesson_of(request, annotated, [], [], []).notes == []
    )


def test_texts_that_the_teacher_refuses_count_as_answered_at_random_not_as_the_first_label() -> None:
    def refuse(parts: Parts) -> Iterator[list[Annotation]]:
        for texts in parts:
            yield [Annotation(fault="no") for _ in texts]

    test = [Example(text=f"Text {number}", label="cold") for number in range(400)]
    scores = teacher_measured(refuse, TASK, test, lambda event: None).scores
    assert 0.4 < scores.accuracy < 0.6
