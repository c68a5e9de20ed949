"""The first sentence of a report, and what it has room for."""

from pathlib import Path

import msgspec
import pytest

from fourshot.pipeline.report.data import MethodRow
from fourshot.pipeline.report.results import headline
from fourshot.pipeline.report.write import write_report
from tests.pipeline.report.full_report import full_data


def test_the_headline_counts_all_that_was_learnt() -> None:
    row = msgspec.structs.replace(
        full_data().methods[-1], real_examples=12, synthetic_examples=3, unlabelled_examples=61
    )

    def learnt(**changes: int | None) -> str:
        changed = msgspec.structs.replace(row, **changes)
        told = headline(msgspec.structs.replace(full_data(), methods=(changed,), headline_method=changed.method))
        return told["sentence"].partition(", from ")[2].partition(" (")[0] if told else ""

    annotated = "61 texts with the labels of annotators"
    assert learnt() == f"12 labelled examples, {annotated} and 3 synthetic ones"
    assert learnt(synthetic_examples=None) == f"12 labelled examples and {annotated}"
    assert learnt(synthetic_examples=0, unlabelled_examples=None) == "12 labelled examples"


@pytest.mark.parametrize("is_markdown", [False, True])
def test_a_student_s_report_has_no_empty_columns_or_parts(tmp_path: Path, is_markdown: bool) -> None:
    row = msgspec.structs.replace(full_data().methods[-1], unlabelled_examples=61, synthetic_examples=0)
    bare = msgspec.structs.replace(row, prompt_tokens_per_example=None)
    parts = ("Synthetic", "Diversity", "Prompt tokens / text")

    def report(*rows: MethodRow, facts: dict[str, str]) -> str:
        changed = msgspec.structs.replace(full_data(), methods=rows, headline_method=rows[0].method, facts=facts)
        return write_report(changed, tmp_path)[is_markdown].read_text(encoding="utf-8")

    student = report(bare, facts={"parameters": "1"})
    assert "Annotated" in student and not any(part in student for part in parts)
    run = report(msgspec.structs.replace(row, unlabelled_examples=None), facts={})
    assert "Annotated" not in run and all(part in run for part in parts)
    if is_markdown:
        table = [line for line in student.partition("## Results")[2].splitlines() if line.startswith("|")][:3]
        assert len({line.count("|") for line in table}) == 1
