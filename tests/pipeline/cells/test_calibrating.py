"""A classifier is calibrated on what its run has without test labels; nothing is trained here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fourshot.engine.core import Adapter
from fourshot.pipeline.cells.calibrating import (
    CALIBRATED_FILE,
    MOST_UNSEEN,
    CalibrationItem,
    HeldOutCandidate,
    calibrate,
    other_subjects,
    temperature_of,
    typical_texts,
    unseen_texts,
)
from fourshot.pipeline.cells.training_texts import TrainingTexts
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.types import Candidate, Reason, Verdict
from fourshot.pipeline.task import Example, Label, Task
from fourshot.pipeline.work_folder import WorkFolder
from tests.pipeline.candidates import candidate

TASK = Task(name="mood", instruction="Say which.", noun="text", labels=(Label(name="good"), Label(name="bad")))
SHOTS = tuple(Example(text=f"{name} {number}", label=name) for number in range(4) for name in TASK.label_names)
UNSEEN = tuple(HeldOutCandidate(text=f"{name} and new {number}") for number in range(20) for name in TASK.label_names)
CERTAIN = np.log([0.999, 0.001])


class SureEngine:
    """Nearly certain of whatever label a text begins with, and undecided where it begins with none."""

    def __init__(self, *wrong: str) -> None:
        """``wrong``: texts of which it is as certain of the other label."""
        self.wrong = wrong
        self.questions: list[tuple[str, str]] = []

    def reset_prefix_cache(self) -> None:
        pass

    def score(self, prompts: Sequence[str], labels: Sequence[str], adapter: Adapter, verbalizer: str) -> np.ndarray:
        rows = []
        for prompt in prompts:
            text = prompt.rpartition("Text: ")[2].partition("\n")[0]
            self.questions.append((adapter.name, text))
            row = CERTAIN if text.startswith("good") != (text in self.wrong) else CERTAIN[::-1]
            rows.append(row if text.split()[0] in TASK.label_names else row * 0)
        return np.array(rows, dtype=np.float32)


def item(path: Path, *unseen: HeldOutCandidate, calibrators: bool = True) -> CalibrationItem:
    annotators = tuple(
        Annotator(adapter=Adapter(name=f"calibrator{fold}", path=""), left_out=(2 * fold, 2 * fold + 1))
        for fold in range(4)
    )
    adapter = Adapter(name="own", path=str(path))
    return CalibrationItem(
        adapter=adapter,
        task=TASK,
        form=PromptFormat(),
        shots=SHOTS,
        calibrators=annotators if calibrators else (),
        unseen=unseen,
    )


def test_a_classifier_is_as_sure_as_judges_are_right_about_shots_they_have_not_seen(tmp_path: Path) -> None:
    engine: Any = SureEngine("good 1", "bad 3")
    calibrated = calibrate(engine, item(tmp_path))
    # Each calibrator is asked about its own two, and a quarter is wrong where all were said to be nearly certain.
    assert engine.questions == [(f"calibrator{i // 2}", shot.text) for i, shot in enumerate(SHOTS)]
    sure = 1 / (1 + np.exp((CERTAIN[1] - CERTAIN[0]) / calibrated.temperature))
    assert sure == pytest.approx((6 * 9 / 10 + 2 * 1 / 10) / 8, abs=0.02)
    assert calibrated.basis == "8 shots that adapters were trained without"
    assert (calibrated.curve, calibrated.scope) == (None, None)
    assert calibrate(SureEngine(), item(tmp_path)).temperature < calibrated.temperature  # type: ignore[arg-type]


def test_one_of_synthetic_texts_is_on_average_no_surer_than_its_annotators(tmp_path: Path) -> None:
    read = [HeldOutCandidate(text=f"good {number}", certainty=0.6 + 0.02 * number) for number in range(20)]
    engine: Any = SureEngine()
    calibrated = calibrate(engine, item(tmp_path, *read))
    assert calibrate(engine, item(tmp_path, *read, calibrators=False)) == calibrated, "of probabilities"
    assert 1 / (1 + np.exp((CERTAIN[1] - CERTAIN[0]) / calibrated.temperature)) == pytest.approx(0.79, abs=0.01)
    assert calibrated.basis == "20 candidates that it did not learn, to be no surer of them than its annotators"
    surer = [msgspec.structs.replace(text, certainty=0.9999) for text in read]
    assert calibrate(engine, item(tmp_path, *surer)).temperature == 1, "and never surer than it is"
    assert {name for name, _ in engine.questions} == {"own"}, (
        "calibrators say by how much shorter trainings are too sure"
    )


def test_one_of_the_shots_is_as_sure_as_the_annotators_say_that_it_is_right(tmp_path: Path) -> None:
    """It predicts the first label for each of these texts, and they give it half of the time less than that."""
    read = [
        HeldOutCandidate(text=f"good {number}", probabilities=(0.9, 0.1) if number % 2 else (0.5, 0.5))
        for number in range(20)
    ]
    engine: Any = SureEngine()
    calibrated = calibrate(engine, item(tmp_path, *read))
    assert 1 / (1 + np.exp((CERTAIN[1] - CERTAIN[0]) / calibrated.temperature)) == pytest.approx(0.7, abs=0.01)
    assert calibrated.basis == "20 candidates, to be as sure of them as the annotators say that it is right"
    assert calibrated.curve is not None


def test_a_temperature_is_fitted_again_for_other_texts(tmp_path: Path) -> None:
    """An adapter of the shots may be in a folder whose texts grow; one that an earlier version calibrated stays so."""
    few, more = ([HeldOutCandidate(text=f"good {n}", certainty=0.8) for n in range(count)] for count in (20, 30))
    engine: Any = SureEngine()
    first, second = (item(tmp_path, *texts) for texts in (few, more))
    first.do(engine)
    assert [first.is_finished, second.is_finished] == [True, False]
    second.do(engine)
    assert [first.is_finished, second.is_finished] == [False, True]
    stored = WorkFolder(tmp_path).read(CALIBRATED_FILE, dict)
    del stored["made_for"]
    WorkFolder(tmp_path).write(CALIBRATED_FILE, stored)
    assert [first.is_finished, second.is_finished] == [True, True]


def test_texts_it_has_not_learnt_give_the_curve_and_those_of_other_subjects_the_rule(tmp_path: Path) -> None:
    calibrated = calibrate(SureEngine(), item(tmp_path, *UNSEEN))  # type: ignore[arg-type]
    assert calibrated.curve is not None and (calibrated.curve.source, calibrated.curve.num_texts) == (
        "held-out texts",
        40,
    )
    assert calibrated.scope is not None and calibrated.scope.false_accepts == 0.0 and calibrated.scope.num_others == 40
    assert calibrated.scope.false_rejects <= 0.1


def test_the_rule_spares_texts_of_which_annotators_are_of_one_mind_not_all_that_was_not_learnt(tmp_path: Path) -> None:
    doubtful = item(tmp_path, *(HeldOutCandidate(text=f"unclear {number}", certainty=0.9) for number in range(30)))
    typical = msgspec.structs.replace(doubtful, typical=tuple(f"good and new {number}" for number in range(20)))
    lenient, strict = (calibrate(SureEngine(), each) for each in (doubtful, typical))  # type: ignore[arg-type]
    assert lenient.scope and lenient.scope.false_accepts == 1.0 and lenient.scope.num_texts == 30
    assert strict.scope and strict.scope.false_accepts == 0.0 and strict.scope.num_texts == 20
    assert (strict.temperature, strict.curve) == (lenient.temperature, lenient.curve), "the rule's texts alone differ"


def test_what_was_found_lies_beside_the_weights_and_is_not_found_again(tmp_path: Path) -> None:
    engine: Any = SureEngine()
    calibration = item(tmp_path)
    calibration.do(engine)
    assert calibration.is_finished and (tmp_path / CALIBRATED_FILE).exists()
    assert temperature_of(calibration.adapter) > 1
    num_questions = len(engine.questions)
    calibration.do(engine)
    assert len(engine.questions) == num_questions
    assert {adapter.name for adapter in calibration.adapters} == {
        "own",
        "calibrator0",
        "calibrator1",
        "calibrator2",
        "calibrator3",
    }


def pair(number: int, reason: Reason, predicted: str = "") -> tuple[Candidate, Verdict]:
    drawn = candidate(number, f"text {number}", "good")
    verdict = Verdict(
        candidate_id=drawn.id,
        kept=reason == "kept",
        reason=reason,
        predicted=predicted,
        probabilities={"good": 0.75, "bad": 0.25},
    )
    return drawn, verdict


def test_only_what_was_read_and_not_learnt_is_unseen() -> None:
    reasons: tuple[Reason, ...] = ("kept", "surplus", "label_disagrees", "malformed")
    pairs = [pair(number, reasons[number % 4]) for number in range(4 * 200)]
    unseen = TrainingTexts(synthetic=pairs).unseen
    chosen = unseen_texts(unseen, compared=True)
    assert len(chosen) == MOST_UNSEEN == len({entry.text for entry in chosen})
    assert {int(entry.text.split()[1]) % 4 for entry in chosen} == {1, 2}
    assert {entry.certainty for entry in chosen} == {0.75}
    assert {entry.certainty for entry in unseen_texts(unseen)} == {0.0}
    assert unseen_texts(unseen[:19]) == ()


def test_typical_are_those_whose_annotators_say_what_was_asked_for() -> None:
    reasons: tuple[Reason, ...] = ("surplus", "kept", "label_disagrees", "low_confidence")
    pairs = [pair(number, reasons[number % 4], predicted="good" if number % 8 < 4 else "bad") for number in range(800)]
    chosen = typical_texts(pairs)
    assert len(set(chosen)) == MOST_UNSEEN and {int(text.split()[1]) % 8 for text in chosen} == {0, 1}
    by_person = [(msgspec.structs.replace(drawn, origin="user", label=""), verdict) for drawn, verdict in pairs]
    assert {int(text.split()[1]) % 8 for text in typical_texts(by_person)} == {0, 1, 4, 5}
    assert typical_texts(pairs[:39]) == (), "too few"


def test_texts_of_other_subjects_are_many_and_different() -> None:
    assert len(set(other_subjects())) == 40
