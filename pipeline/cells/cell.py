"""The cells of an experiment, methods x seeds: each with its settings, examples and folder, computed once.

What depends on the shots, the style of prompts, is in them as soon as it is found.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import msgspec

from fourshot.engine.chat import ChatTurns
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import EngineSettings
from fourshot.pipeline.cells.methods import METHODS, Method
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.prompt_style import ChosenStyle, style_name
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import WorkFolder


class SeedExamples(msgspec.Struct, frozen=True, kw_only=True):
    """The real examples of one seed."""

    seed: int
    shots: tuple[Example, ...]
    more: tuple[Example, ...] = ()  # of the train split, for methods that want more; the shots may be among them


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

    @property
    def self_trains(self) -> bool:
        """Whether a first classifier reads its texts again."""
        annotate = self.settings.annotate
        has_labels = annotate.annotator != "none" and not self.settings.learns_soft
        return self.method.synthetic and annotate.self_training and has_labels


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
    cells = []
    for name, examples in product(methods, seeds):
        method, writer = METHODS[name], METHODS[name].texts_of or METHODS[name].annotators_of or name
        method_settings = msgspec.structs.replace(method.settings(settings), seed=examples.seed)
        asks_adapters = method.trained or method.has_annotators
        uses_shots = asks_adapters or method.shots_in_prompt
        # What was not trained needs the instruction, and knows words alone.
        plain = PromptFormat(
            verbalizer=method_settings.learnt_verbalizer if asks_adapters else method_settings.base_verbalizer,
            max_text_words=method_settings.max_text_words,
            long_texts=method_settings.long_texts,
            chat=chats.get(examples.seed),
        )
        worded = {wording: msgspec.structs.replace(plain, wording=wording) for wording in get_args(Wording)}
        if method_settings.aligns:
            worded = {wording: align(form) for wording, form in worded.items()}
        cells.append(
            MethodCell(
                name=name,
                method=method,
                seed=examples.seed,
                settings=method_settings,
                form=worded[method_settings.wording if method.trained else "task"],
                worded=worded,
                shots=examples.shots,
                real=examples.more if method.real_per_class else examples.shots if uses_shots else (),
                folder=RunFolder(root if flat and writer == "fourshot" else root / f"seed{examples.seed}" / writer),
            )
        )
    return cells


def writer_names(methods: Sequence[str]) -> list[str]:
    """The methods whose texts are needed, be it by another method; then those that need annotators of none of these."""
    writers = [METHODS[name].texts_of or name for name in methods if METHODS[name].synthetic]
    others = [name for name in methods if METHODS[name].annotators_of and METHODS[name].annotators_of not in writers]
    return list(dict.fromkeys([*writers, *others]))


class Cells:
    """The cells of one experiment, as far as its files say what they are."""

    def __init__(
        self,
        task: Task,
        model: ResolvedModel,
        settings: RunSettings,
        seeds: Sequence[SeedExamples],
        root: Path,
        *,
        flat: bool,
    ) -> None:
        """``flat``: as in `method_cells`."""
        self._task, self._model, self._settings, self._seeds = task, model, settings, seeds
        self._root, self._flat = root, flat
        self._cells: dict[object, list[MethodCell]] = {}
        self._styles: dict[int, Path] = {}  # files, by seed
        self._chats: dict[Path, ChatTurns | None] = {}

    def of(self, methods: tuple[str, ...]) -> list[MethodCell]:
        """By method, then seed, in the prompt style of the seed, once that is found."""
        chats = {examples.seed: self._chat(examples) for examples in self._seeds}
        key = (methods, *chats.items())
        if key not in self._cells:
            self._cells[key] = method_cells(
                self._settings,
                methods,
                self._seeds,
                self._root,
                flat=self._flat,
                chats=chats,
                align=partial(aligned, task=self._task, engine=EngineSettings(model=self._model.path)),
            )
        return self._cells[key]

    def style_file(self, examples: SeedExamples) -> Path:
        """Where the prompt style of a seed's shots is written down, named by all that it is found from."""
        if examples.seed not in self._styles:
            folder = self._root if self._flat else self._root / f"seed{examples.seed}"
            name = style_name(self._task, self._settings, self._model.revision, examples.shots)
            self._styles[examples.seed] = folder / name
        return self._styles[examples.seed]

    def _chat(self, examples: SeedExamples) -> ChatTurns | None:
        if self._settings.prompt_style == "plain":
            return None
        file = self.style_file(examples)
        if file not in self._chats:
            if not file.exists():
                return None
            self._chats[file] = WorkFolder(file.parent).read(file.name, ChosenStyle).chat
        return self._chats[file]
