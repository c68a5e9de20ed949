"""The engine package: find and load one base model, sample from it, score labels with it, and manage its adapters.

It exports value types only: importing it loads neither torch nor vllm. `engine.opening.open_engine` loads a model.
"""

from fourshot.engine.calibration import Calibration
from fourshot.engine.core import Adapter, Completion, Engine, EngineSettings, EngineStats, PerPromptAdapter, Sampling
from fourshot.engine.errors import (
    AdapterError,
    FourshotError,
    InputError,
    ModelNotFoundError,
    RunFolderError,
    ShortRunError,
    TaskFileError,
)

__all__ = [
    "Adapter",
    "AdapterError",
    "Calibration",
    "Completion",
    "Engine",
    "EngineSettings",
    "EngineStats",
    "FourshotError",
    "InputError",
    "ModelNotFoundError",
    "PerPromptAdapter",
    "RunFolderError",
    "Sampling",
    "ShortRunError",
    "TaskFileError",
]
