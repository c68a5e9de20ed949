"""The first sentence of a report."""

import msgspec

from fourshot.pipeline.report.results import headline
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
