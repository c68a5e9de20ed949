"""Fixtures for the tests of suites."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourshot.bench.suites.paper.plan import (
    Options,
)


@pytest.fixture
def options_of(tmp_path: Path, model: str) -> Callable[..., Options]:
    """Return a function that makes options of the paper suite: the small size on two tasks, in temporary folders."""
    for task in ("sst2", "trec"):
        (tmp_path / "data" / task).mkdir(parents=True)
        for split in ("train", "test"):
            (tmp_path / "data" / task / f"{split}.jsonl").touch()

    def make(**more: Any) -> Options:
        places = {"data": tmp_path / "data", "runs": tmp_path / "runs"}
        return Options(**{"tasks": ("sst2", "trec"), **places, **more})

    return make
