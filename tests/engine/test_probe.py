"""Served answers are compared with the trainer's."""

import msgspec
import numpy as np
import pytest

from fourshot.engine.core import Adapter, EngineSettings
from fourshot.engine.errors import AdapterError
from fourshot.engine.fake_engine import FakeEngine
from fourshot.engine.probe import Probe, ProbeResult, check_probe


class Served(FakeEngine):
    """Answers with these probabilities."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__(EngineSettings(model="fake"))
        self._answers = np.log([[probability, 1 - probability] for probability in probabilities])

    def score(self, *_: object) -> np.ndarray:
        return self._answers


PROBE = Probe(prompts=("a", "b"), labels=("yes", "no"), probabilities=((0.9, 0.1), (0.3, 0.7)))
ADAPTER = Adapter(name="mine-123", path="/adapters/mine-123")


def test_rounding_is_no_difference_and_another_adapter_is() -> None:
    assert check_probe(Served(0.88, 0.33), ADAPTER, PROBE) == ProbeResult(difference=0.03, texts=2)
    with pytest.raises(AdapterError, match=r"mine-123 .* on 1 of 2 texts .*no 0\.70 in training, yes 0\.60 served"):
        check_probe(Served(0.9, 0.6), ADAPTER, PROBE)
    with pytest.raises(AdapterError, match="The model does not predict"):
        check_probe(Served(0.2, 0.3), None, PROBE)


def test_what_an_earlier_version_wrote_is_read() -> None:
    old = b'{"difference": 0.01, "texts": 10, "tolerance": 0.1}'
    assert msgspec.json.decode(old, type=ProbeResult) == ProbeResult(difference=0.01, texts=10)
