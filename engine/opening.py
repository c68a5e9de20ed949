"""Opening an engine: the only module that maps ``kind`` to an engine class."""

from fourshot.engine.context import within_context
from fourshot.engine.core import Engine, EngineSettings
from fourshot.engine.fake_engine import FakeEngine, is_fake
from fourshot.engine.vllm_seams.lora_support import check_lora_support


def imports_of(settings: EngineSettings) -> str:
    """Return the module whose import takes most of the time to open such an engine; "" if there is none."""
    is_vllm = settings.kind == "vllm" and not is_fake(settings.model)
    return "fourshot.engine.vllm_seams.imports" if is_vllm else ""


def open_engine(settings: EngineSettings) -> Engine:
    """Load the base model and return the engine, ready for use. The caller closes it.

    Raises InputError if adapters are requested (``max_loras``) for a vLLM base model that does not support them.
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
