"""Merged checkpoints: when one is finished."""

import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fourshot.engine.core import Adapter
from fourshot.pipeline.runs.stages.merge import MergeItem, MergeStage


def test_a_checkpoint_whose_weights_are_gone_or_cut_is_not_finished(tmp_path: Path) -> None:
    """Some programs that copy or clean up leave out large files, and what lies beside them stays."""
    weights = tmp_path / "model.safetensors"
    item = MergeItem(adapter=Adapter(name="one", path=str(tmp_path)), out=str(tmp_path))
    stage = MergeStage(model_path="base", items=(item,))
    (tmp_path / "config.json").write_text("{}")
    save_file({"weight": np.zeros(1000, np.float32)}, weights)
    assert stage.is_finished(item)
    os.truncate(weights, 1000)
    assert not stage.is_finished(item)
    weights.unlink()
    assert not stage.is_finished(item)
