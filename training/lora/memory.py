"""Memory needs of a training, estimated before it starts, and helpers for when memory still runs out.

Rows are as long as the estimate allows. If memory still runs out, rows are halved. A row with a single text is then
computed with gradient checkpointing, which keeps one layer's values at a time and computes the rest twice. So it is
from the beginning if, by the estimate, the longest text does not fit.
"""

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.engine.checkpoints.models import checkpoint_shapes
from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.memory import free_bytes

if TYPE_CHECKING:
    import torch

MOST_ROW_TOKENS = 2048  # attention cost grows with the square of the row length, and longer rows are not faster
PADDED_TIMES = 2  # in attention, so many tokens of padding and texts for each token that a row may have
SHARE = 0.7  # of the free memory that rows may use, by the estimate
GB = 1e9


def bytes_per_token(config: Any, sees: int, number_bytes: int = 2) -> int:
    """Estimate the bytes per token that the forward pass keeps, if a token attends to ``sees`` others.

    Counted for `llama`. Per layer, these are six vectors of the hidden size, queries, keys and values, attention
    weights, and four vectors of the inner size.
    """
    heads, kv_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size  # not in every family's config
    per_layer = 6 * config.hidden_size + (heads + 2 * kv_heads) * size + heads * sees + 4 * inner
    return int(number_bytes * config.num_hidden_layers * per_layer)


def row_tokens(config: Any, sees: int, free: int) -> int:
    """Return the length in tokens of the longest packed row that fits by the estimate, at most `MOST_ROW_TOKENS`.

    ``sees``: see `bytes_per_token`. ``free``: free memory in bytes.
    """
    return max(1, min(MOST_ROW_TOKENS, int(SHARE * free / bytes_per_token(config, sees))))


def text_bytes(config: Any, length: int) -> int:
    """Estimate the bytes for a text of ``length`` tokens alone; attention pads what all texts begin with to it."""
    return PADDED_TIMES * length * bytes_per_token(config, length)


def base_bytes(model: str | Path, number_bytes: int = 2) -> int:
    """Return the bytes of a base model with ``number_bytes`` per weight; its files may use another number format.

    Without safetensors files, this is the total size of the files ``pytorch_model*.bin``.
    """
    shapes, pickles = checkpoint_shapes(Path(model)), Path(model).glob("pytorch_model*.bin")
    return number_bytes * sum(map(prod, shapes.values())) or sum(file.stat().st_size for file in pickles)


def check_base_fits(model: str | Path, device: str, number_bytes: int) -> None:
    """Raise FourshotError if the base model alone, with ``number_bytes`` per weight, exceeds the free memory."""
    needed, free = base_bytes(model, number_bytes), free_bytes(device)
    if needed > free:
        raise FourshotError(
            f"The base model {model} needs {needed / GB:.1f} GB of memory, but {free / GB:.1f} GB are free on this "
            f"{'machine' if device == 'cpu' else 'GPU'}. Close other programs, use a larger machine, or give another "
            "base with --model."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is one of torch's out-of-memory errors, on a GPU or on the CPU."""
    import torch

    message = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("allocate memory" in message or "not enough memory" in message)
    )


def release_gradients(parameters: "list[torch.Tensor]") -> None:
    """Discard incomplete gradients, and release the cached memory of the GPU's allocator."""
    import torch

    for parameter in parameters:
        parameter.grad = None
    torch.cuda.empty_cache()
