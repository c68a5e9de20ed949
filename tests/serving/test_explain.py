"""What an explanation keeps on disk."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fourshot.pipeline.card import TrainingText
from fourshot.pipeline.events import ignore
from fourshot.serving.clients.explain import ExampleIndex
from tests.serving.test_long_texts import CARD


def test_the_name_on_a_card_leads_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may have written the card."""
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path / "home"))
    learnt = [TrainingText(text=text, label="good-label", kind="shot") for text in ("so good", "very good")]
    for name in (CARD.name, "../../elsewhere-0123", str(tmp_path / "elsewhere-0123")):
        card = msgspec.structs.replace(CARD, name=name)
        ExampleIndex(card, learnt, lambda prompts, on_read: np.eye(len(prompts)), ignore)
    assert {file.parent for file in tmp_path.rglob("*.npy")} == {tmp_path / "home" / "states"}
