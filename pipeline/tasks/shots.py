"""The shots, real examples from which a run starts: k per class, drawn with a seed, or chosen by the user."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.examples import Split, load_split
from fourshot.pipeline.tables.split_files import find_split_file
from fourshot.pipeline.task import Example, Task

SHOTS_STEM = "shots"
ALL = "all"


def draw_shots(
    examples: Sequence[Example], labels: Sequence[str], k: int, seed: int, allow_fewer: bool = False
) -> list[Example]:
    """Draw ``k`` examples of each label, in a seeded random order over all of them.

    The same arguments always give the same list. A larger ``k`` with the same seed contains the smaller draw, so that
    results for 4 and 25 examples per class differ by the added examples only.

    Raises `InputError` for k < 1 and for a label without examples. A label with fewer than ``k`` examples is an error
    too, unless ``allow_fewer`` is set: then all of them are used.
    """
    if k < 1:
        raise InputError(f"got {k} shots per class, at least 1 is needed: the classes are known only from the shots.")
    by_label = _by_label(examples, labels)
    fewest = 1 if allow_fewer else k
    shortages = {label: len(pool) for label, pool in by_label.items() if len(pool) < fewest}
    if shortages:
        raise InputError(_too_few(shortages, k))
    return _draw(by_label, lambda count: k, seed)


def _by_label(examples: Sequence[Example], labels: Sequence[str]) -> dict[str, list[Example]]:
    """Return label -> its examples, in their order, without examples of other labels."""
    by_label: dict[str, list[Example]] = {label: [] for label in labels}
    for example in examples:
        if example.label in by_label:
            by_label[example.label].append(example)
    return by_label


def _draw(by_label: dict[str, list[Example]], amount: Callable[[int], int], seed: int) -> list[Example]:
    """Draw ``amount(count)`` examples of each label with ``count`` examples, in a seeded random order.

    A larger draw contains a smaller one. The lists in ``by_label`` are shuffled in place.
    """
    drawn: list[Example] = []
    for label, pool in by_label.items():
        random.Random(f"{seed}/{label}").shuffle(pool)
        drawn += pool[: amount(len(pool))]
    random.Random(f"{seed}/order").shuffle(drawn)
    return drawn


def check_real(real: str) -> None:
    """Raise InputError if ``real``, the value of --real, is not an amount of real data."""
    number = real.removesuffix("%")
    is_share = real.endswith("%")
    if real == ALL or (number.isascii() and number.isdigit() and 0 < int(number) <= (100 if is_share else 10**9)):
        return
    raise InputError(f"--real {real}: give a number per class, a share from 1% to 100%, or all.")


def real_examples(examples: Sequence[Example], labels: Sequence[str], real: str, seed: int) -> list[Example]:
    """Draw real examples.

    ``real``: a number per label (all of a label that has fewer), "all", or a share such as "5%" of each label, rounded
    half up, at least one example. Larger draws with the same seed contain smaller ones. Raises InputError for a label
    without examples.
    """
    draw_shots(examples, labels, 1, seed)  # raises for a label without examples
    if real == ALL:
        return [example for example in examples if example.label in labels]
    if not real.endswith("%"):
        return draw_shots(examples, labels, int(real), seed, allow_fewer=True)
    percent = int(real.removesuffix("%"))
    return _draw(_by_label(examples, labels), lambda count: max((count * percent + 50) // 100, 1), seed)


def take_shots(task: Task, k: int, seed: int) -> list[Example]:
    """Draw ``k`` shots per class from those the user chose (``shots.jsonl`` in the folder), else from the train split.

    Rows left out of the files are not reported; `pipeline.task_data` does that. Raises `InputError` as `draw_shots`
    does.
    """
    pool = load_chosen_shots(task) or load_split(task, "train")
    return draw_shots(pool.examples, task.label_names, k, seed)


def load_chosen_shots(task: Task) -> Split | None:
    """Load the shots that the user chose. None if the task's data has no file of them."""
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
