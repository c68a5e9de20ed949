"""Opening an engine: the one place that knows which class stands behind which ``kind``."""

from fourshot.engine.core import Engine, EngineSettings
from fourshot.engine.fake_engine import FakeEngine, is_fake


def open_engine(settings: EngineSettings) -> Engine:
    """Load the base model and return the engine, ready. The caller closes it."""
    if settings.kind == "fake" or is_fake(settings.model):
        return FakeEngine(settings)
    if settings.kind == "vllm":
        from fourshot.engine.vllm_engine import VllmEngine

        return VllmEngine(settings)
    from fourshot.engine.transformers_engine import TransformersEngine

    return TransformersEngine(settings)
