"""Styles of many tasks: tried in a child process where both are possible, and nowhere else."""

from pathlib import Path

import pytest

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import InputError
from fourshot.pipeline.loop.styles import choose_styles
from tests.pipeline.corpus.small_corpora import SHOTS, TASK

FAKE = ResolvedModel(path="fake", name="fake", revision="0")


def test_both_styles_are_tried_on_the_shots_of_each_task(tiny_model: str, tmp_path: Path) -> None:
    base = ResolvedModel(path=tiny_model, name="tiny", revision="0")
    with_all, part = choose_styles("auto", base, [(TASK, SHOTS), (TASK, SHOTS[:6])], 20, tmp_path / "log.txt")
    for chosen, shots in ((with_all, SHOTS), (part, SHOTS[:6])):
        assert chosen.plain_score is not None and chosen.chat_score is not None
        assert chosen.plain_score.shots == chosen.chat_score.shots == len(shots)
        assert (chosen.chat is not None) == (
            chosen.chat_score.accuracy >= chosen.plain_score.accuracy
            and chosen.chat_score.log_probability > chosen.plain_score.log_probability
        )


def test_a_base_that_nothing_can_be_tried_with_is_not_opened(tmp_path: Path) -> None:
    (plain,) = choose_styles("auto", FAKE, [(TASK, SHOTS)], 20, tmp_path / "log.txt")
    assert plain.chat is None
    assert choose_styles("chat", FAKE, [], 20, tmp_path / "log.txt") == []
    with pytest.raises(InputError):
        choose_styles("chat", FAKE, [(TASK, SHOTS)], 20, tmp_path / "log.txt")
    assert not (tmp_path / "log.txt").exists()
