"""An adapter and its base as one checkpoint, for servers that know no LoRA. It costs a whole base of disk per task."""

import os
import shutil
import tempfile
from pathlib import Path

from fourshot.engine.errors import AdapterError


def merge(model: str | Path, adapter: str | Path, out: str | Path) -> Path:
    """Write base plus adapter to the folder ``out``, in the base's number format, whole or not at all.

    ``out`` may hold an earlier merge of the same name: it is replaced. Raises AdapterError where the adapter was not
    made for this base, OSError where the disk is full.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    base = AutoModelForCausalLM.from_pretrained(str(model), dtype="auto")
    try:
        merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError) as error:
        raise AdapterError(
            f"The adapter {adapter} does not fit the base {model}: {str(error).splitlines()[0]}. Give the base it was "
            "trained on; card.json beside it names it."
        ) from error
    making = Path(tempfile.mkdtemp(dir=out.parent, prefix=".making-"))
    try:
        merged.save_pretrained(str(making))
        AutoTokenizer.from_pretrained(str(model)).save_pretrained(str(making))
        os.chmod(making, 0o755)
        shutil.rmtree(out, ignore_errors=True)
        os.rename(making, out)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return out
