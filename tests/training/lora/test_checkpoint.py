"""A training that was killed goes on from its checkpoint, to the bytes of one that was not."""

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from fourshot.training.lora.optimize import Optimization
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


class GpuGenerator:
    """Stands for the generator of the one GPU that trains; ``draws`` are what its dropout would have drawn."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(1)
        self.devices = set[str]()  # whose state was saved or restored
        self.draws: list[float] = []

    def get_rng_state(self, device: str) -> torch.Tensor:
        self.devices.add(device)
        return self._generator.get_state()

    def set_rng_state(self, state: torch.Tensor, device: str) -> None:
        self.devices.add(device)
        self._generator.set_state(state)

    def draw(self, step: int, planned: int, loss: float) -> None:
        self.draws.append(float(torch.rand((), generator=self._generator)))
        if step == 4 and len(self.draws) == 4:
            raise Killed

    def restart(self) -> None:
        """As a new process has it."""
        self._generator.manual_seed(2)


def test_dropout_on_a_gpu_goes_on_where_it_was(
    tiny_trainer: LoraTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other GPUs are left alone: the next start may see fewer of them. The steps themselves are taken on the CPU."""
    gpu = GpuGenerator()
    monkeypatch.setattr(torch.cuda, "get_rng_state", gpu.get_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", gpu.set_rng_state)
    begin = Optimization.__init__

    def begin_on_gpu(optimization: Optimization, *given: Any, **more: Any) -> None:
        begin(optimization, *given, **more)
        optimization._is_on_gpu = True

    monkeypatch.setattr(Optimization, "__init__", begin_on_gpu)
    file = tmp_path / "state.pt"
    with pytest.raises(Killed):
        tiny_trainer.train(
            notes.examples(), notes.WORDS, SETTINGS, tmp_path, on_step=gpu.draw, checkpoint=file, checkpoint_s=0.0
        )
    gpu.restart()
    result = tiny_trainer.train(notes.examples(), notes.WORDS, SETTINGS, tmp_path, on_step=gpu.draw, checkpoint=file)
    assert result.steps == 6 and gpu.devices == {"cpu"}, "the device that trains, and no other"
    assert len(gpu.draws) == 4 + 3 and gpu.draws[4] == gpu.draws[3], "the step of the death was not saved"


def test_the_optimizer_takes_all_tensors_at_once(
    tiny_trainer: LoraTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensor by tensor is hundreds of launches a step on a GPU."""
    optimizers: list[torch.optim.AdamW] = []

    class Observed(torch.optim.AdamW):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            optimizers.append(self)

    monkeypatch.setattr(torch.optim, "AdamW", Observed)
    brief = msgspec.structs.replace(SETTINGS, min_steps=1, max_steps=1)
    tiny_trainer.train(notes.examples(), notes.WORDS, brief, tmp_path)
    assert [optimizer.defaults["fused"] for optimizer in optimizers] == [True]


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
