"""Reports of tasks with many classes stay readable, and say which classes are taken for which."""

from pathlib import Path

import msgspec

from fourshot.pipeline.report.classes import FEWEST_KEPT, WORST_PAIRS, class_tables, confusion_matrix
from fourshot.pipeline.report.data import ReportData
from fourshot.pipeline.report.write import write_report
from fourshot.pipeline.task import Label, Task

NAMES = tuple(f"change account setting {number:03}" for number in range(150))
MANY = Task(name="intents", instruction="Classify.", noun="text", labels=tuple(Label(name=name) for name in NAMES))
LOST = ((NAMES[7], NAMES[8]),) * 4 + ((NAMES[7], NAMES[9]), (NAMES[0], NAMES[8]))


def data() -> ReportData:
    right = tuple((name, name) for name in NAMES[:-1])  # the last class has no test text
    near = tuple((NAMES[number], NAMES[number + 1]) for number in range(20, 60))
    reasons = {name: {"kept": number, "too_long": 3} for number, name in enumerate(NAMES)}
    return ReportData(title="Intents", task=MANY, answers=right + LOST + near, reason_counts=reasons)


def test_the_worst_pairs_and_the_worst_classes_come_first() -> None:
    tables = class_tables(data())
    assert tables
    assert (tables["pairs"][0]["label"], tables["pairs"][0]["said"], tables["pairs"][0]["count"]) == (*LOST[0], 4)
    assert tables["pairs"][0]["share"] == 4 / 6
    assert (len(tables["pairs"]), tables["num_pairs"], tables["mistakes"]) == (WORST_PAIRS, 43, 46)
    first, last = tables["classes"][0], tables["classes"][-1]
    assert (first["label"], first["texts"], first["right"], first["taken_for"]) == (NAMES[7], 6, 1, NAMES[8])
    assert (last["label"], last["recall"], last["precision"]) == (NAMES[-1], None, None)
    assert len(tables["classes"]) == len(NAMES)


def test_a_page_of_150_classes_is_light_and_draws_few_bars(tmp_path: Path) -> None:
    page, markdown = (path.read_text(encoding="utf-8") for path in write_report(data(), tmp_path))
    bars = page[page.index('<figure class="reasons">') : page.index("Numbers per class and reason")]
    assert bars.count('class="bar"') == FEWEST_KEPT and NAMES[FEWEST_KEPT] not in bars
    assert f"Shown are the {FEWEST_KEPT} of 150 classes" in page
    assert len(page) < 100_000
    row = f'<tr><th scope="row">{NAMES[7]}</th><td>{NAMES[8]}</td><td>4</td>'
    assert row in page and f"| {NAMES[7]} | {NAMES[8]} | 4 |" in markdown


def test_few_classes_have_a_confusion_matrix(tmp_path: Path) -> None:
    few = Task(name="colours", instruction="Classify.", noun="text", labels=(Label(name="red"), Label(name="<b>blue")))
    answers = (*(("red", "red"),) * 3, ("red", "<b>blue"), ("<b>blue", "<b>blue"))
    small = ReportData(title="Colours", task=few, answers=answers)
    matrix = confusion_matrix(small)
    assert matrix and class_tables(small) is None and confusion_matrix(data()) is None
    assert [[cell["count"] for cell in row["cells"]] for row in matrix["rows"]] == [[3, 1], [0, 1]]
    assert [row["recall"] for row in matrix["rows"]] == [0.75, 1.0] and matrix["precisions"] == [1.0, 0.5]
    page, markdown = (path.read_text(encoding="utf-8") for path in write_report(small, tmp_path))
    assert '<td class="own" style="--share:0.750">3</td><td class="other" style="--share:0.250">1</td>' in page
    assert (
        "<b>blue" not in page and "| red | 3 | 1 | 75.0 |" in markdown and "| Precision % | 100.0 | 50.0 |" in markdown
    )


def test_a_class_that_is_never_answered_and_one_without_texts_have_no_share(tmp_path: Path) -> None:
    few = msgspec.structs.replace(MANY, labels=MANY.labels[:3])
    matrix = confusion_matrix(ReportData(title="", task=few, answers=((NAMES[0], NAMES[1]),)))
    assert matrix and matrix["precisions"] == [None, 0.0, None]
    assert [row["recall"] for row in matrix["rows"]] == [0.0, None, None]


def test_without_answers_there_is_none(tmp_path: Path) -> None:
    page, markdown = (
        path.read_text(encoding="utf-8") for path in write_report(ReportData(title="", task=MANY), tmp_path)
    )
    assert "confused" not in page and "Precision" not in markdown
