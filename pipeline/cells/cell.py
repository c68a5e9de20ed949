"""The cells of an experiment, methods x seeds: each with its settings, examples and folder, computed once.

The prompt style, which depends on the shots, is part of a cell as soon as it has been chosen.
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
    more: tuple[Example, ...] = ()  # of the train split, for methods that need more; the shots may be among them


class MethodCell(msgspec.Struct, frozen=True, kw_only=True):
    """A method on a seed: everything that settings and shots determine, before any work."""

    name: str  # of the method
    method: Method
    seed: int
    settings: RunSettings
    form: PromptFormat  # of the prompt, in training and afterwards
    worded: dict[Wording, PromptFormat]  # the same in each wording, for annotators
    shots: tuple[Example, ...]
    real: tuple[Example, ...]  # real examples that the method is shown or trained on
    folder: RunFolder  # of its synthetic texts

    @property
    def key(self) -> tuple[str, int]:
        return self.name, self.seed

    @property
    def self_trains(self) -> bool:
        """Whether a first classifier annotates its texts again."""
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
    """Return the cells by method, then seed, in the given orders.

    ``flat``: the texts of the method fourshot, for a single seed, are stored in ``root`` itself. ``chats``: chat turns
    of each seed's prompts; None or omitted: plain text. ``align`` returns a prompt format with filler.
    """
    cells = []
    for name, examples in product(methods, seeds):
        method, writer = METHODS[name], METHODS[name].texts_of or METHODS[name].annotators_of or name
        method_settings = msgspec.structs.replace(method.settings(settings), seed=examples.seed)
        asks_adapters = method.trained or method.has_annotators
        uses_shots = asks_adapters or method.shots_in_prompt
        # A model that was not trained needs the instruction, and knows labels only as words.
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
    """Return the methods whose texts are needed, by any of ``methods``; then those whose annotators alone are."""
    writers = [METHODS[name].texts_of or name for name in methods if METHODS[name].synthetic]
    others = [name for name in methods if METHODS[name].annotators_of and METHODS[name].annotators_of not in writers]
    return list(dict.fromkeys([*writers, *others]))


class Cells:
    """The cells of one experiment, with the prompt styles that its files record."""

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
        """Return the cells by method, then seed, in the seed's prompt style; in plain text until it has been chosen."""
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
        """Return the path of a seed's prompt style; its name has a hash of everything that the choice depends on."""
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
