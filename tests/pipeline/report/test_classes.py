"""Reports of tasks with many classes stay readable, and say which classes are taken for which."""

from pathlib import Path

import msgspec

from fourshot.pipeline.report.classes import FEWEST_KEPT, WORST_PAIRS, class_tables
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
    assert f"Drawn are the {FEWEST_KEPT} of 150 classes" in page
    assert len(page) < 100_000
    row = f'<tr><th scope="row">{NAMES[7]}</th><td>{NAMES[8]}</td><td>4</td>'
    assert row in page and f"| {NAMES[7]} | {NAMES[8]} | 4 |" in markdown


def test_few_classes_are_told_as_before(tmp_path: Path) -> None:
    few = msgspec.structs.replace(MANY, labels=MANY.labels[:10])
    small = msgspec.structs.replace(data(), task=few, reason_counts={NAMES[0]: {"kept": 3}})
    without = msgspec.structs.replace(small, answers=())
    pages = [write_report(report, tmp_path / str(number)) for number, report in enumerate((small, without))]
    assert [path.read_bytes() for path in pages[0]] == [path.read_bytes() for path in pages[1]]
