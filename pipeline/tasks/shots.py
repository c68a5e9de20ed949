"""The real examples a run starts from: k per class, drawn with a seed, or chosen by the user."""

import random
from collections.abc import Sequence
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.examples import Split, load_split
from fourshot.pipeline.tables.split_files import find_split_file
from fourshot.pipeline.task import Example, Task

SHOTS_STEM = "shots"


def draw_shots(
    examples: Sequence[Example], labels: Sequence[str], k: int, seed: int, allow_fewer: bool = False
) -> list[Example]:
    """Draw ``k`` examples of each label, in a seeded random order over all of them.

    The same arguments always give the same list. A larger ``k`` with the same seed contains the smaller draw, so that
    results for 4 and 25 examples per class differ by the added examples only.

    Raises `InputError` for k < 1, for a label without examples, and for one with fewer than ``k`` unless
    ``allow_fewer``: then it gives what it has.
    """
    if k < 1:
        raise InputError(
            f"got {k} shots per class, at least 1 is needed: the shots are all that the classes are known by."
        )
    by_label: dict[str, list[Example]] = {label: [] for label in labels}
    for example in examples:
        if example.label in by_label:
            by_label[example.label].append(example)
    fewest = 1 if allow_fewer else k
    shortages = {label: len(pool) for label, pool in by_label.items() if len(pool) < fewest}
    if shortages:
        raise InputError(_too_few(shortages, k))
    drawn: list[Example] = []
    for label, pool in by_label.items():
        random.Random(f"{seed}/{label}").shuffle(pool)
        drawn += pool[:k]
    random.Random(f"{seed}/order").shuffle(drawn)
    return drawn


def take_shots(task: Task, k: int, seed: int) -> list[Example]:
    """``k`` shots per class of those the user chose (``shots.jsonl`` in the folder), else of the train split.

    What is left out of the files is not told, see `pipeline.task_data`. Raises `InputError` as `draw_shots` does.
    """
    pool = load_chosen_shots(task) or load_split(task, "train")
    return draw_shots(pool.examples, task.label_names, k, seed)


def load_chosen_shots(task: Task) -> Split | None:
    """The shots that the user chose, or None where the task's data has no file of them."""
    if not task.data.folder or find_split_file(Path(task.data.folder), SHOTS_STEM) is None:
        return None
    return load_split(task, SHOTS_STEM)


def _too_few(shortages: dict[str, int], k: int) -> str:
    classes = ", ".join(f"{label!r} has {count}" for label, count in shortages.items())
    fewest = min(shortages.values())
    remedies = [f"add examples to {'this class' if len(shortages) == 1 else 'these classes'}"]
    if fewest:
        remedies += [f"ask for fewer with --shots {fewest}", "accept unequal shots with --allow-fewer-shots"]
    else:
        remedies.append("remove a class that has none from the task file")
    return f"{k} shots per class were asked for, but {classes}. Either {', or '.join(remedies)}."
