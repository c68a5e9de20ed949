"""A training that was killed goes on from its checkpoint, to the bytes of one that was not."""

import io
from pathlib import Path

import msgspec
import pytest
import torch

from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes

HELD_OUT = notes.examples(("Toast.",), ("Sleet.",))
SETTINGS = LoraSettings(min_steps=6, max_steps=6, batch_size=4, lora_dropout=0.1)


class Killed(BaseException):
    """Stands for the end of the process."""


def die_at(step: int):  # type: ignore[no-untyped-def]
    def on_step(done: int, planned: int, loss: float) -> None:
        if done == step:
            raise Killed

    return on_step


@pytest.mark.parametrize("deaths", [(4,), (2, 5)])
def test_the_bytes_and_the_losses_are_those_of_an_undisturbed_training(
    tiny_trainer: LoraTrainer, tmp_path: Path, deaths: tuple[int, ...]
) -> None:
    """Dropout draws random numbers in every step: they go on where they were."""
    undisturbed = tiny_trainer.train(notes.examples(), notes.WORDS, SETTINGS, tmp_path / "whole", held_out=HELD_OUT)
    file, steps = tmp_path / "state.pt", list[int]()
    for step in deaths:
        with pytest.raises(Killed):
            tiny_trainer.train(
                notes.examples(),
                notes.WORDS,
                SETTINGS,
                tmp_path / "killed",
                on_step=die_at(step),
                checkpoint=file,
                checkpoint_s=0,
                held_out=HELD_OUT,
            )
        assert file.is_file()
    result = tiny_trainer.train(
        notes.examples(),
        notes.WORDS,
        SETTINGS,
        tmp_path / "killed",
        on_step=lambda step, *_: steps.append(step),
        checkpoint=file,
        held_out=HELD_OUT,
    )
    assert result.held_out_losses == undisturbed.held_out_losses and len(undisturbed.held_out_losses) == 3
    assert steps == list(range(deaths[-1], 7))  # the step of the death was not saved
    assert result.name == undisturbed.name and result.losses == undisturbed.losses
    assert result.tokens == undisturbed.tokens
    assert not file.exists()


def test_a_machine_with_fewer_gpus_goes_on_from_the_checkpoint(
    tiny_trainer: LoraTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been written where more of them were visible. Here there is none, so both are said to be there."""

    def set_all(states: list[torch.Tensor]) -> None:
        if len(states) > 1:
            raise IndexError("tuple index out of range")  # what torch says of a GPU that is not there

    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.get_rng_state()] * 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", set_all)
    file = tmp_path / "state.pt"
    more = {"checkpoint": file, "checkpoint_s": 0.0}
    with pytest.raises(Killed):
        tiny_trainer.train(notes.examples(), notes.WORDS, SETTINGS, tmp_path, on_step=die_at(4), **more)  # type: ignore[arg-type]
    assert tiny_trainer.train(notes.examples(), notes.WORDS, SETTINGS, tmp_path, checkpoint=file).steps == 6


OTHER_LAYOUT = io.BytesIO()
torch.save({"masters": [torch.zeros(3)]}, OTHER_LAYOUT)


@pytest.mark.parametrize("content", [b"", b"PK not a zip", b"\x80\x04N.", OTHER_LAYOUT.getvalue()])
def test_a_broken_checkpoint_is_as_good_as_none(tiny_trainer: LoraTrainer, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "state.pt"
    file.write_bytes(content)
    brief = msgspec.structs.replace(SETTINGS, min_steps=1, max_steps=1)
    result = tiny_trainer.train(notes.examples(), notes.WORDS, brief, tmp_path, checkpoint=file)
    assert result.steps == 1 and not file.exists()


def test_a_checkpoint_is_written_when_it_is_due_and_not_before(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    file, existed = tmp_path / "state.pt", list[bool]()
    tiny_trainer.train(
        notes.examples(),
        notes.WORDS,
        SETTINGS,
        tmp_path,
        on_step=lambda *_: existed.append(file.exists()),
        checkpoint=file,
        checkpoint_s=3600,
    )
    assert existed == [False] * 6
