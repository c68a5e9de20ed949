"""Trainings side by side: each is what it would be alone, nothing is lost, and the machine is not overfilled."""

import os
import signal
import threading
from pathlib import Path

import msgspec
import psutil
import pytest
from transformers import LlamaConfig

from fourshot.engine.errors import FourshotError, InputError
from fourshot.training.jobs import at_once
from fourshot.training.jobs.at_once import SWITCH, ParallelWidth, do_jobs_at_once, width
from fourshot.training.jobs.jobs import Placement, TrainingJob, do_job, finished
from fourshot.training.lora import memory
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes
from tests.waiting import wait_for

JOB = TrainingJob(
    name="notes",
    model_revision="",
    examples=tuple(notes.examples()),
    labels=notes.WORDS,
    settings=LoraSettings(min_steps=4, max_steps=4, batch_size=3),
)
JOBS = [msgspec.structs.replace(JOB, seed=seed) for seed in range(3)]
GB = 1 << 30


def numbered(*jobs: TrainingJob) -> list[tuple[int, TrainingJob]]:
    return list(enumerate(jobs))


def test_each_is_what_it_is_alone_and_says_how_far_it_is(
    tiny_model: str, tiny_trainer: LoraTrainer, tmp_path: Path
) -> None:
    import torch

    steps: list[tuple[int, int, int, float]] = []
    among = ParallelWidth(at_once=2, threads=1)
    log = tmp_path / "log"
    failed = do_jobs_at_once(
        tiny_model, numbered(*JOBS), tmp_path, among, log, lambda *progress: steps.append(progress)
    )
    assert failed == []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = [do_job(tiny_trainer, job, tmp_path / "alone") for job in JOBS]
    finally:
        torch.set_num_threads(before)
    names = [result.name for job in JOBS if (result := finished(tmp_path, job))]
    assert names == [result.name for result in alone], "the same weights: an adapter's name is their hash"
    assert len(set(names)) == 3
    for number in range(3):
        assert [step for of, step, planned, _ in steps if of == number and planned == 4] == [1, 2, 3, 4, 4]


def test_the_longest_are_begun_first(tiny_model: str, tmp_path: Path) -> None:
    def of_steps(steps: int) -> TrainingJob:
        return msgspec.structs.replace(JOB, settings=LoraSettings(min_steps=steps, max_steps=steps, batch_size=3))

    began: list[int] = []

    def note(number: int, step: int, planned: int, loss: float) -> None:
        if number not in began:
            began.append(number)

    jobs = numbered(of_steps(1), of_steps(2), of_steps(3))
    assert (
        do_jobs_at_once(tiny_model, jobs, tmp_path, ParallelWidth(at_once=1, threads=1), tmp_path / "log", note) == []
    )
    assert began == [2, 1, 0]


def test_one_that_fails_does_not_stop_the_others(tiny_model: str, tmp_path: Path) -> None:
    one_label = msgspec.structs.replace(JOB, labels=("warm",), examples=JOB.examples[:1])
    among = ParallelWidth(at_once=2, threads=1)
    (failed,) = do_jobs_at_once(tiny_model, numbered(one_label, *JOBS[:2]), tmp_path, among, tmp_path / "log", _ignore)
    assert (failed.key, failed.kind) == (one_label.key, "InputError")
    assert "at least two labels" in failed.message
    assert all(finished(tmp_path, job) for job in JOBS[:2])


def test_a_process_that_is_killed_ends_the_others_and_the_next_call_goes_on(tiny_model: str, tmp_path: Path) -> None:
    settings = LoraSettings(min_steps=20_000, max_steps=20_000, batch_size=3)
    long_jobs = [msgspec.structs.replace(JOB, seed=seed, settings=settings) for seed in (7, 8)]
    begun: dict[int, int] = {}
    raised: list[BaseException] = []

    def run() -> None:
        try:
            do_jobs_at_once(
                tiny_model,
                numbered(JOB, *long_jobs),
                tmp_path,
                ParallelWidth(at_once=3, threads=1),
                tmp_path / "log",
                lambda number, step, *_: begun.__setitem__(number, step),
            )
        except FourshotError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: finished(tmp_path, JOB) and {1, 2} <= begun.keys(), "all of them to be begun", 120)
    wait_for(lambda: len(_children_of(os.getpid())) == 2, "the first one's process to end")
    workers = _children_of(os.getpid())
    os.kill(workers[-1], signal.SIGKILL)
    thread.join(60)
    assert not thread.is_alive()
    assert "SIGKILL" in str(raised[0])
    assert not set(workers) & set(_children_of(os.getpid())), "none is left"
    assert finished(tmp_path, JOB)
    short_job = msgspec.structs.replace(JOB, seed=9)
    again = do_jobs_at_once(
        tiny_model, numbered(short_job), tmp_path, ParallelWidth(at_once=2, threads=1), tmp_path / "log", _ignore
    )
    assert again == [] and finished(tmp_path, short_job)


@pytest.mark.parametrize(
    ("cores", "jobs", "free", "at_once_and_threads"),
    [
        (1, 5, 20 * GB, (1, 1)),
        (2, 1, 20 * GB, (1, 2)),
        (2, 5, 20 * GB, (2, 1)),
        (16, 5, 60 * GB, (5, 3)),
        (16, 40, 60 * GB, (8, 2)),
        (16, 5, 7 * GB, (2, 3)),  # memory for two: threads as with memory for all, so the bytes are the same
        (2, 5, 1 * GB, (1, 1)),
    ],
)
def test_cores_and_memory_say_how_many(
    cores: int, jobs: int, free: int, at_once_and_threads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(at_once, "available_cores", lambda: cores)
    monkeypatch.setattr(at_once, "gpus", lambda environment: [])
    monkeypatch.setattr(at_once, "free_bytes", lambda: free)
    monkeypatch.setattr(memory, "checkpoint_shapes", lambda folder: {"weight": (1 << 16, 1 << 11)})  # 256 MiB
    chosen = width("model", jobs)
    assert (chosen.at_once, chosen.threads) == at_once_and_threads


def test_fewer_trainings_on_long_texts_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    LlamaConfig(**shape, num_key_value_heads=3).save_pretrained(tmp_path)
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(at_once, "available_cores", lambda: 4)
    monkeypatch.setattr(at_once, "gpus", lambda environment: [])
    monkeypatch.setattr(at_once, "free_bytes", lambda: 16 * GB)
    monkeypatch.setattr(memory, "checkpoint_shapes", lambda folder: {"weight": (1 << 16, 1 << 11)})  # 256 MiB
    chosen = [width(str(tmp_path), 4, longest=longest) for longest in (0, 600, 1200, 2000)]
    assert [among.at_once for among in chosen] == [4, 4, 3, 1]
    assert {among.threads for among in chosen} == {1}, "so the bytes are the same"


def test_gpus_are_shared_as_far_as_their_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(at_once, "available_cores", lambda: 16)
    monkeypatch.setattr(at_once, "gpus", lambda environment: ["0", "1"])
    monkeypatch.setattr(at_once, "free_gpu_bytes", lambda names: 75 * GB)
    monkeypatch.setattr(at_once, "are_shared", lambda names: True)
    monkeypatch.setattr(memory, "checkpoint_shapes", lambda folder: {"weight": (7_000_000_000,)})
    assert width("model", 12) == ParallelWidth(at_once=4, threads=2, gpus=("0", "1"))  # 28 GB each
    monkeypatch.setattr(at_once, "are_shared", lambda names: False)
    assert width("model", 12).at_once == 2


def test_a_base_without_safetensors_takes_memory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_once, "available_cores", lambda: 8)
    monkeypatch.setattr(at_once, "free_bytes", lambda: 64 << 30)
    with (tmp_path / "pytorch_model.bin").open("wb") as file:
        file.truncate(14 << 30)  # a hole: nothing is written
    assert at_once.width(str(tmp_path), jobs=8).at_once == 1


def test_a_number_that_was_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_once, "available_cores", lambda: 4)
    monkeypatch.setattr(at_once, "free_bytes", lambda: 0)
    monkeypatch.setenv(SWITCH, "1")
    assert (width("model", 6).at_once, width("model", 6).threads) == (1, 4)
    assert width("model", 6, requested=2).threads == 2
    monkeypatch.setenv(SWITCH, "all")
    with pytest.raises(InputError, match="FOURSHOT_TRAIN_AT_ONCE is 'all'"):
        width("model", 6)
    with pytest.raises(InputError, match="at_once must be at least 1, or 0"):
        Placement(at_once=-1)


def _ignore(*_: object) -> None:
    pass


def _children_of(process: int) -> list[int]:
    """Process ids of its workers, which are copies of a process that it has started."""
    servers = psutil.Process(process).children()
    return sorted(
        copy.pid
        for server in servers
        if any("fork_server" in argument for argument in server.cmdline())
        for copy in server.children()
        if copy.status() != psutil.STATUS_ZOMBIE
    )
