"""How much memory a training needs, told before it starts, and what to do when it was more.

Rows are made as long as fit. Where even so memory runs out, rows are halved; a row of a single text is then computed
with gradient checkpointing, which keeps one layer's values at a time and computes the rest twice.
"""

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.engine.checkpoints.models import checkpoint_shapes
from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.memory import free_bytes

if TYPE_CHECKING:
    import torch

MOST_ROW_TOKENS = 2048  # attention inside a packed row grows with its square, and longer rows are not faster
SHARE = 0.7  # of the free memory that rows may take by the estimate
GB = 1e9


def bytes_per_token(config: Any, sees: int, number_bytes: int = 2) -> int:
    """What the forward pass keeps for the backward pass, per token, where a token attends to ``sees`` others.

    Counted for `llama`: per layer six rows of the hidden size, queries, keys and values, attention weights,
    four rows of the inner size.
    """
    heads, kv_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size  # some families do not name it
    per_layer = 6 * config.hidden_size + (heads + 2 * kv_heads) * size + heads * sees + 4 * inner
    return int(number_bytes * config.num_hidden_layers * per_layer)


def row_tokens(config: Any, sees: int, free: int) -> int:
    """The longest packed row that fits by the estimate, `MOST_ROW_TOKENS` at most."""
    return max(1, min(MOST_ROW_TOKENS, int(SHARE * free / bytes_per_token(config, sees))))


def base_bytes(model: str | Path, number_bytes: int = 2) -> int:
    """What a base takes in numbers of so many bytes; files may hold other numbers than those that are loaded.

    Of files that are not safetensors only the size is known.
    """
    shapes, pickles = checkpoint_shapes(Path(model)), Path(model).glob("pytorch_model*.bin")
    return number_bytes * sum(map(prod, shapes.values())) or sum(file.stat().st_size for file in pickles)


def check_base_fits(model: str | Path, device: str, number_bytes: int) -> None:
    """Raise FourshotError where the base alone, in numbers of so many bytes, takes more memory than there is."""
    needed, free = base_bytes(model, number_bytes), free_bytes(device)
    if needed > free:
        raise FourshotError(
            f"The base model {model} needs {needed / GB:.1f} GB of memory, and {free / GB:.1f} GB are free on this "
            f"{'machine' if device == 'cpu' else 'GPU'}. Close other programs, take a larger machine, or another base "
            "with --model."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is how torch says that memory ran out, on a GPU or on the CPU."""
    import torch

    message = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("allocate memory" in message or "not enough memory" in message)
    )


def give_back(parameters: "list[torch.Tensor]") -> None:
    """Drop half-made gradients, and what the GPU's allocator holds."""
    import torch

    for parameter in parameters:
        parameter.grad = None
    torch.cuda.empty_cache()
