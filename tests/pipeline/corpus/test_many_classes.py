"""A corpus of a task with 150 classes."""

from collections import Counter
from pathlib import Path

from fourshot.pipeline.tasks.task_file import load_task
from tests.pipeline.corpus.small_corpora import make, rows_of, settings
from tests.pipeline.tasks.test_new_task import task_of, write_csv

NAMES = tuple(f"intent_{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(150))


def test_each_of_150_classes_has_its_texts_and_datasets_loads_them(tmp_path: Path) -> None:
    from datasets import load_dataset

    rows = [
        (f"Could anybody please tell me how I would have to go about {name} for the {number}th time?", name)
        for number in range(5)
        for name in NAMES
    ]
    table = write_csv(tmp_path / "intents.csv", ("text", "label"), rows)
    task, folder = load_task(task_of(table, tmp_path / "task")), tmp_path / "corpus"
    summary = make(folder, {"intents": task}, settings(per_class=2))
    assert summary.rows == 300
    assert Counter(row.label for row in rows_of(folder)) == dict.fromkeys(NAMES, 2)
    loaded = load_dataset(str(folder), task.name, split="train", cache_dir=str(tmp_path / "cache"))
    assert Counter(loaded["label"]) == dict.fromkeys(NAMES, 2)
    assert {len(probabilities) for probabilities in loaded["probabilities"]} == {150}
    assert all(abs(sum(probabilities) - 1) < 1e-3 for probabilities in loaded["probabilities"])
    card = (folder / "README.md").read_text("utf-8")
    assert "Not all classes are finished" not in card and all(name in card for name in NAMES)
