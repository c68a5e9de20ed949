"""Merges adapter and base model into one checkpoint, for servers without LoRA. It takes the disk of a base per task."""

from pathlib import Path

from fourshot.engine.errors import AdapterError
from fourshot.engine.machine.files import disk_errors, settle, staged_folder


def merge(model: str | Path, adapter: str | Path, out: str | Path) -> Path:
    """Write base plus adapter to the folder ``out`` atomically, in the base's number format, and return the folder.

    An existing ``out`` is replaced. Raises AdapterError if the adapter does not fit this base, and OSError if the disk
    is full.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    out = Path(out)
    base = AutoModelForCausalLM.from_pretrained(str(model), dtype="auto", trust_remote_code=False)
    try:
        merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError) as error:
        raise AdapterError(
            f"The adapter {adapter} does not fit the base {model}: {str(error).splitlines()[0]}. Give the base it was "
            "trained on; card.json beside it names it."
        ) from error
    with disk_errors(out), staged_folder(out.parent) as staged:
        merged.save_pretrained(str(staged))
        AutoTokenizer.from_pretrained(str(model), trust_remote_code=False).save_pretrained(str(staged))
        settle(staged, out, replace=True)
    return out
