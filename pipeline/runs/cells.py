"""The cells of an experiment, methods x seeds: each with its settings, examples and folder, computed once."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import msgspec

from fourshot.engine.chat import ChatTurns
from fourshot.pipeline.runs.methods import METHODS, Method
from fourshot.pipeline.runs.run_folder import RunFolder
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.types import Example


class SeedExamples(msgspec.Struct, frozen=True, kw_only=True):
    """The real examples of one seed."""

    seed: int
    shots: tuple[Example, ...]
    more: tuple[Example, ...] = ()  # for methods that want more per class; contains the shots


class MethodCell(msgspec.Struct, frozen=True, kw_only=True):
    """A method on a seed: all that follows from the settings and the shots, before anything is done."""

    name: str  # of the method
    method: Method
    seed: int
    settings: RunSettings
    form: PromptFormat  # of the prompt, in training and after
    worded: dict[Wording, PromptFormat]  # the same in each wording, for annotators
    shots: tuple[Example, ...]
    real: tuple[Example, ...]  # those of the real examples that the method is shown or trained on
    folder: RunFolder  # where its synthetic texts lie

    @property
    def key(self) -> tuple[str, int]:
        return self.name, self.seed


def method_cells(
    settings: RunSettings,
    methods: Sequence[str],
    seeds: Sequence[SeedExamples],
    root: Path,
    *,
    flat: bool,
    chats: Mapping[int, ChatTurns | None] = MappingProxyType({}),
    align: Callable[[PromptFormat], PromptFormat] = lambda form: form,
) -> list[MethodCell]:
    """By method, then seed, in their orders. ``flat``: the texts of fourshot, of a single seed, lie in ``root``.

    ``chats``: of each seed's prompts; None or left out: plain text. ``align`` adds the filler to a form.
    """
    return [
        _cell(settings, name, examples, root, flat, chats.get(examples.seed), align)
        for name in methods
        for examples in seeds
    ]


def writer_names(methods: Sequence[str]) -> list[str]:
    """The methods whose texts are needed, be it by another method."""
    return list(dict.fromkeys(METHODS[name].texts_of or name for name in methods if METHODS[name].synthetic))


def _cell(
    base: RunSettings,
    name: str,
    examples: SeedExamples,
    root: Path,
    flat: bool,
    chat: ChatTurns | None,
    align: Callable[[PromptFormat], PromptFormat],
) -> MethodCell:
    method = METHODS[name]
    settings = msgspec.structs.replace(method.settings(base), seed=examples.seed)
    writer = method.texts_of or name
    uses_shots = method.trained or method.shots_in_prompt
    # What was not trained needs the instruction, and knows words alone.
    plain = PromptFormat(
        verbalizer=settings.learnt_verbalizer if method.trained else settings.base_verbalizer,
        max_text_words=settings.max_text_words,
        long_texts=settings.long_texts,
        chat=chat,
    )
    worded = {wording: msgspec.structs.replace(plain, wording=wording) for wording in get_args(Wording)}
    if settings.aligns:
        worded = {wording: align(form) for wording, form in worded.items()}
    return MethodCell(
        name=name,
        method=method,
        seed=examples.seed,
        settings=settings,
        form=worded[settings.wording if method.trained else "task"],
        worded=worded,
        shots=examples.shots,
        real=examples.more if method.real_per_class else examples.shots if uses_shots else (),
        folder=RunFolder(root if flat and writer == "fourshot" else root / f"seed{examples.seed}" / writer),
    )
