"""The compared variants of classification, and their prompts with real texts of real tasks.

No text is sent twice between two resets of the prefix cache. A repeated prompt would be served completely from the
cache, text included, which favours variants with long prompts.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording, classification_prompt
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.tasks.shots import draw_shots
from fourshot.pipeline.tasks.task_file import load_task

FLOOR_PROMPT = "Label:"
MANY = -1


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One way to classify a text with a model."""

    display_name: str
    engine: str  # name of the suite's engine that answers
    shots: Literal["none", "fixed", "drawn"] = "none"  # in the prompt: none, the task's, or different ones per request
    wording: Wording = "task"
    filler: bool = PRESETS["default"].align  # in front of prompts that begin alike, as in runs
    adapters: int = 0  # number of alternating adapters; MANY: all of the suite's
    text: bool = True  # False: measures the cost of a request without a text
    one_by_one: bool = False  # supports only one request at a time


VARIANTS = {
    "zero_shot": Variant(display_name="Zero-shot, base model", engine="base"),
    "icl_off": Variant(display_name="In context, cache off", engine="uncached", shots="fixed"),
    "icl_cold": Variant(display_name="In context, shots drawn per request", engine="base", shots="drawn"),
    "icl_warm": Variant(display_name="In context, cache warm", engine="base", shots="fixed"),
    # Without filler, for comparison with earlier results; runs use it, see "lora_filler".
    "lora": Variant(display_name="LoRA, one adapter", engine="lora", adapters=1, filler=False),
    "lora_bare": Variant(display_name="LoRA, bare text", engine="lora", adapters=1, wording="bare"),
    "lora_filler": Variant(display_name="LoRA, one adapter, filler", engine="lora", adapters=1),
    "lora_many": Variant(display_name="LoRA, many adapters", engine="lora", adapters=MANY),
    "lora_merged": Variant(display_name="LoRA merged into the base", engine="merged"),
    "transformers_icl": Variant(
        display_name="In context, transformers one by one", engine="transformers", shots="fixed", one_by_one=True
    ),
    "transformers_lora": Variant(
        display_name="LoRA, transformers one by one", engine="transformers", adapters=1, one_by_one=True
    ),
    "floor": Variant(display_name="A request without a text", engine="base", text=False),
}


class PromptRequest(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One prompt, and the index of the engine's adapter that answers it; -1 for the base model."""

    prompt: str
    adapter: int = -1


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A task with the texts to classify and the examples to show."""

    task: Task
    texts: tuple[str, ...]  # distinct texts of the test split in a seeded order
    shots: tuple[Example, ...]
    train_by_label: dict[str, tuple[Example, ...]]  # label -> training examples, from which other shots are drawn
    k: int  # shots per class
    model: str = ""  # folder of the base model, needed for filler; "": prompts have no filler

    def check_texts(self, needed: int, remedy: str = "or measure fewer requests") -> None:
        """Raise InputError if fewer texts than ``needed`` exist; ``remedy``: an alternative to a larger test file."""
        if needed > len(self.texts):
            raise InputError(
                f"{self.task.name} has {len(self.texts)} different test texts; {needed} are needed, because no text is "
                f"sent twice. Give a larger test file{remedy and f', {remedy}'}."
            )

    def requests(self, variant: Variant, start: int, number: int, many: int = 1) -> list[PromptRequest]:
        """Return ``number`` requests for the texts from ``start`` on; ``many``: the number that MANY stands for.

        Raises InputError if there are too few texts.
        """
        self.check_texts(start + number)
        adapters = many if variant.adapters == MANY else variant.adapters
        return [
            PromptRequest(prompt=self._prompt(variant, start + n), adapter=n % adapters if adapters else -1)
            for n in range(number)
        ]

    def _prompt(self, variant: Variant, number: int) -> str:
        if not variant.text:
            return FLOOR_PROMPT
        text = self.texts[number]
        if variant.shots == "none":
            return self.prompt(text, wording=variant.wording, filler=variant.filler)
        if variant.shots == "fixed" and variant.engine == "base":
            return self.prompt(text, self.shots, filler=variant.filler)
        # The prefix is not cached here, so filler would only add cost.
        shots = self.shots if variant.shots == "fixed" else self.drawn_shots(number)
        return classification_prompt(self.task, text, PromptFormat(), shots)

    def prompt(
        self,
        text: str,
        shots: Sequence[Example] = (),
        wording: Wording = "task",
        filler: bool = PRESETS["default"].align,
    ) -> str:
        """Return the prompt for ``text``. ``shots`` must be common to many texts, so that filler pays."""
        form = PromptFormat(wording=wording)
        if self.model and filler:
            form = aligned(form, self.task, EngineSettings(model=self.model), shots)
        return classification_prompt(self.task, text, form, shots)

    def drawn_shots(self, number: int) -> list[Example]:
        """Return shots of all classes, `k` each, that depend on ``number`` (of a request or a task), in random order.

        With different shots for each request, prompts are as if they showed a text's nearest neighbours.
        """
        draw = random.Random(number)
        shots = []
        for pool in self.train_by_label.values():
            shots += draw.sample(pool, self.k)
        draw.shuffle(shots)
        return shots


def load_workload(name: str, data: Path, k: int, model: str = "") -> Workload:
    """Load a shipped task with its data in ``data / name``. ``model``: as in `Workload`."""
    task = load_task(name, data / name)
    train = load_split(task, "train").examples
    texts = list(dict.fromkeys(example.text for example in load_split(task, "test").examples))
    random.Random(0).shuffle(texts)
    return Workload(
        task=task,
        texts=tuple(texts),
        shots=tuple(draw_shots(train, task.label_names, k, 0)),
        train_by_label={
            label: tuple(example for example in train if example.label == label) for label in task.label_names
        },
        k=k,
        model=model,
    )
