"""What layers without an adapter make of a text is computed once, and is what it would be each time."""

from collections.abc import Sequence

import pytest
import torch

from fourshot.training.lora import frozen_states
from fourshot.training.lora.frozen_states import FrozenStates, fits
from fourshot.training.lora.llama import LlamaDecoder
from fourshot.training.lora.packing import PackedRow, pack
from tests.training.lora.test_fast import tiny

PREFIX = [5, 9, 11]
TAILS = [[number % 60 + 1] * (2 + number % 4) for number in range(11)]


@pytest.fixture
def decoder() -> LlamaDecoder:
    return LlamaDecoder(tiny(more={"num_hidden_layers": 3}, layers_to_transform=[2]))


def counted(decoder: LlamaDecoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each row has that is computed from here on."""
    rows: list[int] = []
    below = LlamaDecoder.below

    def count(decoder: LlamaDecoder, row: PackedRow) -> torch.Tensor:
        rows.append(len(row.lengths))
        return below(decoder, row)

    monkeypatch.setattr(LlamaDecoder, "below", count)
    return rows


@pytest.mark.parametrize("prefix", [PREFIX, []], ids=["an instruction", "none"])
@pytest.mark.parametrize("most_tokens", [2048, 6], ids=["rows of eight", "short rows"])
def test_they_are_those_of_the_row_itself(decoder: LlamaDecoder, prefix: Sequence[int], most_tokens: int) -> None:
    states = FrozenStates(decoder, prefix, TAILS, "cpu")
    for chosen in ([10, 0, 3], [3, 4]):
        row = pack(prefix, [TAILS[index] for index in chosen], "cpu", decoder.row_multiple)
        num_tokens = row.input_ids.shape[1]
        of_row = states.of_row(chosen, num_tokens, most_tokens)
        used = len(prefix) + sum(row.lengths)
        torch.testing.assert_close(of_row[:used], decoder.below(row)[:used], rtol=1e-4, atol=1e-5)
        assert of_row.shape[0] == num_tokens and not of_row[used:].any()
        known = decoder(row, torch.tensor(row.starts), of_row)
        torch.testing.assert_close(known, decoder(row, torch.tensor(row.starts)), rtol=1e-4, atol=1e-5)


def test_each_text_is_computed_once(decoder: LlamaDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, states = counted(decoder, monkeypatch), FrozenStates(decoder, PREFIX, TAILS, "cpu")
    for _ in range(3):
        states.of_row([9, 1], 16, 2048)
        states.of_row(list(range(11)), 64, 2048)
    assert rows == [1, 8, 3]  # the prefix, and two rows of texts


def test_the_bytes_do_not_depend_on_what_is_asked_first(decoder: LlamaDecoder) -> None:
    """A training that goes on from a checkpoint begins with other texts."""
    batches = [[0, 1, 2], [7, 6, 10], [9, 3]]
    states = [FrozenStates(decoder, PREFIX, TAILS, "cpu") for _ in range(2)]
    there = [states[0].of_row(batch, 40, 2048) for batch in batches]
    back = [states[1].of_row(batch, 40, 2048) for batch in reversed(batches)]
    assert all(torch.equal(first, second) for first, second in zip(there, reversed(back), strict=True))


def test_no_more_are_kept_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_states, "MOST_BYTES", 1000)
    assert fits(10, 100) and not fits(11, 100)
