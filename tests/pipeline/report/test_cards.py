"""What a report says of single texts."""

from pathlib import Path

import msgspec

from fourshot.pipeline.cells.review import Decisions, corrected_pairs
from fourshot.pipeline.report.write import write_report
from fourshot.pipeline.rows.review_table import ReviewAnswer
from tests.pipeline.report.full_report import full_data, judged


def test_a_card_says_what_a_person_said_and_what_nobody_checked(tmp_path: Path) -> None:
    relabelled, kept, dropped = (judged(number, "good", "label_disagrees") for number in range(3))
    answers = {
        relabelled[0].id: ReviewAnswer(label="bad", keep=True),
        kept[0].id: ReviewAnswer(label="good", keep=True),
        dropped[0].id: ReviewAnswer(label="good", keep=False),
    }
    unread = msgspec.structs.replace(kept[1], candidate_id="c9", kept=True, reason="kept", probabilities={})
    pairs = corrected_pairs([relabelled, kept, dropped], Decisions(answers=answers))
    data = msgspec.structs.replace(
        full_data(),
        kept=(*(pair for pair in pairs if pair[1].kept), (judged(9, "mixed", "kept")[0], unread)),
        rejected=tuple(pair for pair in pairs if not pair[1].kept),
    )
    html, markdown = (file.read_text(encoding="utf-8") for file in write_report(data, tmp_path))
    for label in ("bad", "good"):
        assert (
            f"labelled by a person: <b>{label}</b>" in html and f"| {label}, labelled by a person | kept |" in markdown
        )
    assert "written as <b>mixed</b>" in html and html.count("Its label was not checked.") == 1
    assert "written as <b>bad</b>" not in html
