"""The demo task is what it says: enough texts, all different, none of them a variation of another."""

from collections import Counter

from rapidfuzz import fuzz, process, utils

from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.shots import load_chosen_shots
from fourshot.pipeline.tasks.task_file import load_task

TASK = load_task("support_tickets")


def shots() -> list[Example]:
    chosen = load_chosen_shots(TASK)
    assert chosen is not None
    return chosen.examples


def test_counts_per_class() -> None:
    assert len(TASK.labels) >= 5
    assert Counter(e.label for e in shots()) == dict.fromkeys(TASK.label_names, 4)
    for split, least in (("test", 30), ("train", 25)):
        loaded = load_split(TASK, split)
        assert not loaded.dropped
        assert not loaded.warnings
        counts = Counter(e.label for e in loaded.examples)
        assert all(counts[name] >= least for name in TASK.label_names)


def test_no_text_is_a_variation_of_another() -> None:
    texts = [e.text for e in shots() + load_split(TASK, "train").examples + load_split(TASK, "test").examples]
    similarity = process.cdist(texts, texts, scorer=fuzz.token_set_ratio, processor=utils.default_process)
    pairs = [
        (texts[i], texts[j], similarity[i, j]) for i in range(len(texts)) for j in range(i) if similarity[i, j] > 70
    ]
    assert pairs == []


def test_texts_differ_in_length_and_voice() -> None:
    texts = [e.text for e in load_split(TASK, "test").examples]
    words = [len(text.split()) for text in texts]
    assert min(words) <= 8
    assert max(words) >= 40
    assert 0.1 < sum(text[0].islower() for text in texts) / len(texts) < 0.4
    openings = Counter(" ".join(text.lower().split()[:2]) for text in texts)
    assert max(openings.values()) <= 6
