"""Both starts of vLLM are given the same, wherever they run."""

import pytest

from fourshot.bench.suites import engine_start
from fourshot.engine import opening
from fourshot.engine.core import EngineSettings
from fourshot.engine.fake_engine import FakeEngine


def test_our_start_has_the_batch_and_the_memory_of_the_other_on_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[EngineSettings] = []

    def open_engine(settings: EngineSettings) -> FakeEngine:
        opened.append(settings)
        return FakeEngine(settings)

    monkeypatch.setattr(opening, "open_engine", open_engine)
    monkeypatch.setattr(engine_start, "embedded_model", lambda: "fake")
    assert engine_start.our_start(rounds=2).tokens_per_s > 0
    (settings,) = opened
    assert settings.kv_cache_bytes == settings.gpu_kv_cache_bytes == engine_start.KV_CACHE_BYTES
    assert settings.max_num_seqs == settings.gpu_max_num_seqs == engine_start.BATCH
