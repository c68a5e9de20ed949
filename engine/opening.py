"""Opening an engine: the one place that knows which class stands behind which ``kind``."""

from fourshot.engine.context import within_context
from fourshot.engine.core import Engine, EngineSettings
from fourshot.engine.fake_engine import FakeEngine, is_fake
from fourshot.engine.vllm_seams.lora_support import check_lora_support


def imports_of(settings: EngineSettings) -> str:
    """The module that a process should have imported to open such an engine soon; "" where that takes no time."""
    is_vllm = settings.kind == "vllm" and not is_fake(settings.model)
    return "fourshot.engine.vllm_seams.imports" if is_vllm else ""


def open_engine(settings: EngineSettings) -> Engine:
    """Load the base model and return the engine, ready. The caller closes it.

    Raises InputError where adapters are wanted (``max_loras``) of a base that takes none.
    """
    if settings.kind == "fake" or is_fake(settings.model):
        return FakeEngine(settings)
    settings = within_context(settings)
    if settings.kind == "vllm":
        from fourshot.engine.vllm_engine import VllmEngine

        if settings.max_loras:
            check_lora_support(settings.model)
        return VllmEngine(settings)
    from fourshot.engine.transformers_engine import TransformersEngine

    return TransformersEngine(settings)
