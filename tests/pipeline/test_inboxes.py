"""The demo's task in German and in Japanese: the text filter rejects none of its test texts."""

import json
from pathlib import Path

import pytest

from fourshot.pipeline.synthesis.filters import TextFilter
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import check_task, load_task
from tests.pipeline.synthesis.test_filters import candidate

INBOXES = Path(__file__).parent / "inboxes"


@pytest.mark.parametrize("language", ["de", "ja"])
def test_no_text_is_rejected_for_its_language(language: str) -> None:
    file = INBOXES / language / f"inbox_{language}.toml"
    assert [fault for fault in check_task(file) if fault.severity != "note"] == []
    task = load_task(file)
    text_filter = TextFilter(take_shots(task, k=4, seed=0), task=task)
    texts = [json.loads(line)["text"] for line in (file.parent / "test.jsonl").read_text("utf-8").splitlines()]
    assert len(texts) == 50
    assert {text: reason for text in texts if (reason := text_filter.check(candidate(text)))} == {}
