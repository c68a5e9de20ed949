"""What a report says of classes that are short, of texts that are surplus, and of a simpler method that was better."""

from pathlib import Path

import msgspec
import pytest

from fourshot.pipeline.report.data import MethodRow, ReportData
from fourshot.pipeline.report.varied import cloud_figures
from fourshot.pipeline.report.write import write_report
from tests.pipeline.report.full_report import TASK, full_data, judged


def test_classes_with_fewer_texts_than_were_asked_for_are_named(tmp_path: Path) -> None:
    kept = tuple(judged(number, label, "kept") for number, label in enumerate(("good", "good", "bad")))
    for least_texts, is_named in ((2, True), (0, False)):
        (folder := tmp_path / str(least_texts)).mkdir()
        for file in write_report(msgspec.structs.replace(full_data(), kept=kept, least_texts=least_texts), folder):
            said = "Classes with fewer than the requested 2 texts: bad with 1, mixed with 0."
            assert (said in file.read_text()) == is_named


def test_the_word_surplus_is_explained_where_it_stands(tmp_path: Path) -> None:
    for name, rejected in (("with", (judged(9, "bad", "surplus"),)), ("without", (judged(9, "bad", "too_long"),))):
        (folder := tmp_path / name).mkdir()
        for file in write_report(msgspec.structs.replace(full_data(), rejected=rejected), folder):
            assert ("Surplus ones are good, but their class had enough." in file.read_text()) == (name == "with")


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (0.85, "LoRA: 85.0 %, 1.1 points higher, which may be chance; more test texts would tell."),
        (0.99, "LoRA: 99.0 %, 15.1 points higher: on these texts it is the better classifier."),
        (0.8, "LoRA: 80.0 %, 3.9 points lower."),
    ],
)
def test_the_best_other_method_is_named(tmp_path: Path, accuracy: float, said: str) -> None:
    data = full_data()
    lora = MethodRow(method="lora", display_name="LoRA", accuracy=accuracy, real_examples=12)
    many = MethodRow(method="lora25", display_name="Many", accuracy=1.0, real_examples=75)  # of more labelled texts
    rows = [row for row in data.methods if row.method not in ("lora", "lora25")]
    for file in write_report(msgspec.structs.replace(data, methods=(*rows, lora, many)), tmp_path):
        text = file.read_text().replace("\u00a0", " ")
        assert said in text and ("points higher" in text) == ("higher" in said)


@pytest.mark.parametrize(("num_test", "said"), [(30, "error (ECE) of 30 texts is uncertain"), (200, ""), (0, "")])
def test_a_calibration_error_of_few_texts_is_called_uncertain(tmp_path: Path, num_test: int, said: str) -> None:
    for file in write_report(msgspec.structs.replace(full_data(), num_test=num_test), tmp_path):
        assert said in file.read_text() and ("is uncertain" in file.read_text()) == bool(said)


def test_a_word_without_room_does_not_end_the_cloud() -> None:
    data = ReportData(title="Keys", task=TASK, real_texts={"good": (f"{'k' * 90} sunny", f"{'k' * 90} morning")})
    cloud = cloud_figures(data)[0]
    assert ">sunny</text>" in cloud["real"] and cloud["real_words"] == "morning, sunny"
