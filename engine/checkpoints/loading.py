"""Loading a checkpoint folder with transformers: completely, or with an error that says what is wrong with it.

transformers initialises weights that are in no file with random numbers, and reports that only in its log.
"""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from fourshot.engine.errors import FourshotError, ModelNotFoundError

LONGEST_REASON = 300  # characters of a library's error message
T = TypeVar("T")


def load_base(model: str | Path, **options: Any) -> Any:
    """Load the causal language model of the folder ``model``; ``options`` are for transformers' ``from_pretrained``.

    Raises ModelNotFoundError if it cannot be loaded, or if a weight is in none of its files or has another shape.
    """
    from transformers import AutoModelForCausalLM

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(
            str(model),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
            trust_remote_code=False,
        )

    base, info = load_or_explain(load, "base model", model)
    missing = sorted(info["missing_keys"])
    mismatched = sorted(str(key[0]) for key in info["mismatched_keys"])
    if missing or mismatched:
        problem = (
            f"lacks {len(missing)} of its weights" if missing else f"has {len(mismatched)} weights of the wrong shape"
        )
        raise ModelNotFoundError(
            f"The base model in {model} {problem}, {(missing or mismatched)[0]} for example: files are missing, or "
            "its config.json belongs to another model. Copy or fetch the folder again, or name another model."
        )
    return base


def load_or_explain(load: Callable[[], T], subject: str, folder: str | Path) -> T:
    """Return the result of ``load``, and convert its errors into ModelNotFoundError about ``subject`` in ``folder``.

    FourshotError, and errors that are not due to the files, such as out of memory, are propagated.
    """
    try:
        return load()
    except (FourshotError, MemoryError):
        raise
    except Exception as error:  # damaged files or unknown formats can make transformers raise anything
        message = " ".join(str(error).split()) or "no reason given"
        if "allocate memory" in message or "out of memory" in message:
            raise
        message = f"{message[:LONGEST_REASON]}..." if len(message) > LONGEST_REASON else message
        if "custom code" in message or "trust_remote_code" in message:
            reason = "it brings Python code of its own, which fourshot does not run. Name a model that needs none"
        elif isinstance(error, ImportError):
            reason = (
                f"its format needs a package that is not installed ({message.rstrip('.')}). Name its 16-bit checkpoint"
            )
        else:
            reason = (
                f"{type(error).__name__}: {message.rstrip('.')}. Its files are damaged, or unknown to transformers "
                f"{version('transformers')}. Copy or fetch the folder again, or name another model"
            )
        raise ModelNotFoundError(f"The {subject} in {folder} cannot be loaded: {reason} (docs/models.md).") from error
