"""Both trainers of the training suite get the same work, and their memory is their own."""

from pathlib import Path

import pytest

from fourshot.bench.core.processes import call_in_child, peak_bytes
from fourshot.bench.suites import training as suite
from fourshot.bench.suites.training import TrainerCall
from fourshot.engine.errors import InputError


@pytest.mark.parametrize("texts", [12, 300])
def test_ours_takes_as_many_passes_as_the_other_trainer(texts: int) -> None:
    """Ours has a bound on how often texts are repeated; here it would compare fewer steps with more."""
    training = TrainerCall(
        model="", prompts=("x",) * texts, targets=(0,) * texts, labels=("a", "b"), epochs=6, seed=0, out=""
    )
    assert training.settings.planned_steps(texts, 2) == 6 * training.steps_per_epoch


def test_the_memory_of_a_training_does_not_begin_with_that_of_who_started_it() -> None:
    ballast = bytearray(1 << 30)
    assert call_in_child(peak_bytes) < len(ballast) // 2


def test_data_is_a_folder_with_a_folder_for_each_task_or_the_tasks_own(tmp_path: Path) -> None:
    own = tmp_path / "sst2"
    own.mkdir()
    for split in ("train", "test"):
        rows = [f'{{"text": "{split} {number}", "label": "positive"}}' for number in range(3)]
        (own / f"{split}.jsonl").write_text("\n".join(rows))
    for data in (tmp_path, own):
        task, test = suite.task_and_test(suite.Options(task="sst2", data=data, test_limit=2))
        assert (task.name, sorted(example.text for example in test)) == ("sst2", ["test 1", "test 2"])
    with pytest.raises(InputError, match="nowhere"):
        suite.task_and_test(suite.Options(task="sst2", data=tmp_path / "nowhere"))


def test_the_other_trainer_learns_the_label_alone_with_a_tokenizer_that_begins_texts_with_a_token() -> None:
    def tokenizer(text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1] * add_special_tokens + [100 + ord(letter) for letter in text]}

    training = TrainerCall(model="", prompts=("a",), targets=(1,), labels=("x", "b"), epochs=1, seed=0, out="")
    assert list(suite._masked_rows(training, tokenizer)) == [
        {"input_ids": [1, 197, 132, 198], "labels": [-100, -100, 132, 198]}
    ]
