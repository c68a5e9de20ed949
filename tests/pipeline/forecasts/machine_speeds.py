"""Speeds of an imaginary machine, for forecasts."""

from pathlib import Path

import pytest

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.pipeline.forecasts.forecast import SWITCH
from fourshot.pipeline.forecasts.speed import Speed
from fourshot.pipeline.students.speed import EncoderSpeed

MODEL = ResolvedModel(path="/models/none", name="none", revision="r1")
SPEED = Speed(
    open_engine_s=10.0,
    open_trainer_s=5.0,
    prompt_token_s=0.01,
    shots_token_s=0.02,
    adapter_token_s=0.03,
    output_token_s=0.1,
    train_token_s=0.5,
    training_s=2.0,
    engine_bytes=3_000,
    trainer_bytes=2_000,
)
ENCODER_SPEED = EncoderSpeed(
    open_s=4.0,
    training_s=1.0,
    step_s=0.1,
    learn_token_s=0.01,
    read_token_s=0.001,
    alone_s=0.02,
    process_bytes=5_000,
)


def forecasts_on(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Turn forecasts on, as outside of tests, with their files in ``home``."""
    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setenv("FOURSHOT_HOME", str(home))
