"""Ten adapters with random weights, a service with them, and the probabilities that a separate engine computes."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from fourshot.engine.calibration import apply
from fourshot.engine.checkpoints.models import ResolvedModel, resolve_model
from fourshot.engine.core import Adapter, Engine, EngineSettings, Verbalizer
from fourshot.engine.opening import open_engine
from fourshot.pipeline.card import AdapterCard, load_card
from fourshot.pipeline.synthesis.prompts import Wording
from fourshot.pipeline.task import Task
from fourshot.serving.testing.adapters import make_adapter, task_of
from fourshot.serving.testing.server import RunningService, running_service

WORDS = [
    ("good", "bad"),
    ("red", "green", "blue"),
    ("cat", "dog"),
    ("north", "south", "east", "west"),
    ("yes", "no"),
    ("billing question", "billing complaint", "other"),  # several tokens, with a common beginning
    ("sport", "politics", "science"),
    ("happy", "sad"),
    ("new order", "old order", "no order"),  # several tokens, but each can be represented by one
    ("question", "statement"),
]
BARE = (1, 2)  # adapters with the wording "bare", without the instruction
ONE_STEP = (8,)  # adapters with the verbalizer "token", one token per label
TEXTS = ["Where is my parcel?", "I was charged twice.", "A wonderful little film.", "It rains in the north."]
TOLERANCE = 0.1  # of a probability, as for a card's probe: bf16 logits near 16 are an eighth apart


@pytest.fixture(scope="module")
def base(decided_model: str) -> ResolvedModel:
    """A random base model, because the behaviour of a service does not depend on trained weights."""
    return resolve_model(decided_model)


@pytest.fixture(scope="module")
def own_engine(base: ResolvedModel) -> Iterator[Engine]:
    """An engine in this process, on the same base as the service."""
    opened = open_engine(EngineSettings(model=base.path, max_loras=2, kv_cache_bytes=64 << 20, max_model_len=1024))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, base: ResolvedModel) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    for number, words in enumerate(WORDS):
        wording: Wording = "bare" if number in BARE else "task"
        verbalizer: Verbalizer = "token" if number in ONE_STEP else "word"
        task = task_of(f"task-{number}", words)
        make_adapter(root, task, number, wording=wording, verbalizer=verbalizer, align=number % 2 == 0, base=base)
    return root


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory, base: ResolvedModel) -> Iterator[RunningService]:
    """The service, with an additional adapter from vLLM's own option, which belongs to no task."""
    log = tmp_path_factory.mktemp("log") / "serve.log"
    foreign = make_adapter(tmp_path_factory.mktemp("foreign"), task_of("foreign"), base=base)
    limits = (
        "--base",
        base.path,
        "--max-body-bytes",
        "20000",
        "--max-texts",
        "16",
        "--poll-s",
        "0.2",
        "--drain-s",
        "40",
        "--header-timeout-s",
        "2",
        "--vllm",
        "--lora-modules",
        f"foreign={foreign}",
    )
    with running_service(folder, log, *limits) as started:
        yield started


@pytest.fixture(scope="module")
def cards(folder: Path) -> dict[str, AdapterCard]:
    """The adapters' cards by task."""
    return {card.task.name: card for card in map(load_card, sorted(folder.iterdir()))}


@pytest.fixture(scope="module")
def offline(cards: dict[str, AdapterCard], folder: Path, own_engine: Engine) -> dict[str, np.ndarray]:
    """Probabilities [num_texts, num_labels] of each adapter for `TEXTS`, computed in `own_engine`, by task."""
    by_name = {}
    for name, card in cards.items():
        prompts = [card.prompt(text) for text in TEXTS]
        adapter = Adapter(name=card.name, path=str(folder / card.name))
        by_name[name] = np.exp(
            apply(card.calibration, own_engine.score(prompts, card.task.label_words, adapter, card.verbalizer))
        )
    return by_name


def probabilities(answer: httpx.Response, task: Task) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    return np.array([[result["probabilities"][name] for name in task.label_names] for result in results])
