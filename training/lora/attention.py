"""Rotary embedding and attention within the segments of a packed row, forward and backward.

Each text attends to the instruction and to itself only.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from fourshot.training.lora.packing import PackedRow

# Softmax takes a third of the time, or less, if a row of weights fills a whole number of vector registers.
KEY_MULTIPLE = 32
LONG_PREFIX, LEAST_PIECE = 128, 16  # tokens: the shortest prefix that may be split, and the shortest piece of it


class Segments:
    """Which tokens of a row attend to which: the prefix to itself, each tail to the prefix and itself.

    There are S segments of at most L queries and K keys; the keys begin with those of the prefix. A long prefix is
    split into several segments, which attend to keys of the prefix alone. Queries, keys and values are selected by row
    indices, with one row per token and head. The indices of padding are arbitrary, and padding is masked.
    """

    def __init__(
        self, row: PackedRow, dtype: torch.dtype, heads: int, kv_heads: int, windows: Iterable[int | None] = (None,)
    ) -> None:
        """``windows``: the most tokens that a query attends to, itself included; None for all.

        Everything is built on the row's device, from one copied tensor of a few numbers. So a GPU does not wait for the
        host, neither for the masks nor for data-dependent shapes.
        """
        prefix, device = row.prefix_length, row.input_ids.device
        pieces = _pieces(prefix, max(row.lengths))
        spans = [*pieces, *zip(row.starts, row.lengths, strict=True)]
        longest, num_tokens = max(length for _, length in spans), row.input_ids.shape[1]
        numbers, zeros = (partial(make, dtype=torch.long, device=device) for make in (torch.arange, torch.zeros))
        every, offsets = heads + 2 * kv_heads, numbers(longest)
        starts, lengths = torch.tensor([*zip(*spans, strict=True)], device=device)[:, :, None]  # both [S, 1]
        inside = offsets < lengths  # [S, L]
        queries = torch.where(inside, starts + offsets, 0)  # [S, L]: indices in the row
        unused = zeros(len(spans), -(prefix + longest) % KEY_MULTIPLE)
        keys = torch.cat([numbers(prefix).expand(len(spans), prefix), queries, unused], dim=1)  # [S, K]
        # An unsplit prefix is a segment of its own, whose keys are its own tokens and not the shared prefix keys.
        is_tail, is_whole = starts >= prefix, len(pieces) < 2
        sees_prefix = (is_tail | (not is_whole)).expand(len(spans), prefix)
        visible = torch.cat([sees_prefix, inside & (is_tail | is_whole), unused.bool()], dim=1)  # [S, K]
        positions = torch.where(is_tail | is_whole, prefix, starts) + offsets  # [S, L]: index of each query in the keys
        behind = positions[:, :, None] - numbers(keys.shape[1])  # [S, L, K]: distance from a key to a later query
        self.prefix, self.heads, self.kv_heads = prefix, heads, kv_heads
        self.used = prefix + sum(row.lengths)  # tokens before the padding
        group, self.shape = heads // kv_heads, (len(spans), kv_heads, longest, keys.shape[1])
        self.masks: dict[int | None, Tensor] = {}
        for window in set(windows):
            near = (behind >= 0) & (behind < window) if window else behind >= 0
            allowed = visible[:, None, :] & near  # [S, L, K]
            mask = zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
            # [S * kv_heads, group * L, K]: heads that share keys are rows of one product.
            self.masks[window] = mask[:, None, None].expand(-1, kv_heads, group, -1, -1).flatten(0, 1).flatten(1, 2)
        q = queries[:, None, None, :] * every + numbers(heads).view(kv_heads, group, 1)  # [S, kv, group, L]
        k = keys[:, None, :] * every + heads + numbers(kv_heads)[:, None]  # [S, kv, K]
        self.counts = q.numel(), k.numel()
        self.rows = torch.cat([q.flatten(), k.flatten(), k.flatten() + kv_heads])  # of queries, keys, values
        # Padding gets its gradient from a row of zeros after the last token.
        answers = torch.where(inside, queries, num_tokens)[:, None, None, :]
        self.answer_rows = (answers * heads + numbers(heads).view(kv_heads, group, 1)).flatten()
        # The inverse: the indices of each token's query, key and value. Those of padding are arbitrary.
        segment = numbers(len(spans)).repeat_interleave(lengths[:, 0], output_size=self.used)
        offset = numbers(self.used) - starts[:, 0].index_select(0, segment)
        segment, offset = (pad(part, (0, num_tokens - self.used))[:, None] for part in (segment, offset))  # [T, 1]
        self.back_q = (segment * heads + numbers(heads)) * longest + offset  # [T, heads]
        back_k = (segment * kv_heads + numbers(kv_heads)) * keys.shape[1] + prefix + offset
        self.back = torch.cat([self.back_q, back_k + q.numel(), back_k + q.numel() + k.numel()], dim=1).flatten()


def _pieces(prefix: int, longest_tail: int) -> list[tuple[int, int]]:
    """Return (start, length) of each segment of a prefix: one, or several if it is far longer than the texts.

    An empty prefix has none. All segments are padded to the queries of the longest. As a single segment, an instruction
    that names 77 classes would need 14 times as many weights as there are pairs of tokens that attend to each other.
    """
    size = max(longest_tail, LEAST_PIECE)
    if prefix < LONG_PREFIX or prefix < 2 * size:
        return [(0, prefix)] if prefix else []
    return [(start, min(size, prefix - start)) for start in range(0, prefix, size)]


def attend(
    qkv: Tensor, cos: Tensor, sin: Tensor, segments: Segments, window: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate q and k in place, then compute attention. ``qkv`` is [T, (heads + 2 * kv_heads) * size].

    Returns the outputs [S * heads * L, size], where `Segments.back_q` has the indices of each token's. Also returns the
    selected rows and the attention weights, for `attend_backward`.
    """
    x = qkv.view(len(qkv), -1, cos.shape[-1])
    _turn(x[:, : segments.heads + segments.kv_heads], cos, sin)
    rows = x.view(-1, cos.shape[-1]).index_select(0, segments.rows)
    q, k, v = _split(rows, segments)
    weights = torch.baddbmm(segments.masks[window], q, k.transpose(1, 2)).softmax(-1)
    return torch.bmm(weights, v).view(-1, cos.shape[-1]), rows, weights


def attend_backward(
    g: Tensor, rows: Tensor, weights: Tensor, cos: Tensor, sin: Tensor, segments: Segments, out: Tensor
) -> None:
    """Write the gradient of qkv to ``out``, shaped like qkv.

    ``g`` [T + 1, heads * size] is the gradient of the attention outputs by token; its last row must be zero.
    """
    (q, k, v), size = _split(rows, segments), cos.shape[-1]
    g = g.view(-1, size).index_select(0, segments.answer_rows).view(q.shape)
    of_rows = torch.empty_like(rows)
    of_q, of_k, of_v = _split(of_rows, segments)
    torch.bmm(weights.transpose(1, 2), g, out=of_v)
    of_weights = torch.bmm(g, v.transpose(1, 2))
    of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
    torch.bmm(of_scores, k, out=of_q)
    torch.bmm(of_scores.transpose(1, 2), q, out=of_k)
    torch.index_select(of_rows, 0, segments.back, out=out.view(-1, size))
    out = out.view(len(out), -1, size)
    if prefix := segments.prefix:  # every segment attends to its keys and values
        s, kv_heads, _, num_keys = segments.shape
        of_prefix = of_rows[segments.counts[0] :].view(2, s, kv_heads, num_keys, size)[:, :, :, :prefix]
        out[:prefix, segments.heads :] += of_prefix.sum(1).permute(2, 0, 1, 3).flatten(1, 2)
    out[segments.used :] = 0
    _turn(out[:, : segments.heads + segments.kv_heads], cos, sin, back=True)


def _split(rows: Tensor, segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [S * kv_heads, group * L, size], keys and values [S * kv_heads, K, size], as views of ``rows``."""
    s, kv_heads, _, num_keys = segments.shape
    q, k, v = rows.split([segments.counts[0], segments.counts[1], segments.counts[1]])
    size = rows.shape[1]
    return q.view(s * kv_heads, -1, size), k.view(-1, num_keys, size), v.view(-1, num_keys, size)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> None:
    """Apply the rotary embedding to x [T, heads, size] in place; ``back`` applies its transpose, for gradients."""
    swapped = x.roll(x.shape[-1] // 2, -1)
    x.mul_(cos).addcmul_(swapped, sin, value=-1 if back else 1)
