"""A task's splits, each read once, on first use."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from fourshot.engine.errors import InputError, RunFolderError
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.faults import counted
from fourshot.pipeline.rows.examples import Split, drop_overlap, limited, load_split
from fourshot.pipeline.rows.fields import bare_text
from fourshot.pipeline.rows.text_words import cut_texts
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tables.split_files import find_split_file
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.tasks.shots import SHOTS_STEM, draw_shots, load_chosen_shots, real_examples

NO_TEST = "there is no test file"


class TaskData:
    """The splits of ``task``. Reading them raises InputError, see `load_split`; events report what is left out."""

    def __init__(
        self,
        task: Task,
        on_event: OnEvent = ignore,
        settings: RunSettings | None = None,
        *,
        needs_test: bool = True,
        real: str = "",
    ) -> None:
        """``needs_test``: if False, the test split of a folder without a test file is empty. ``settings``: of the run,
        to report how much of long texts it will not read. ``real``: the number of examples to use as shots, in the form
        that `real_examples` takes; "": the number in the settings.
        """
        self.task, self._on_event, self._settings, self._needs_test = task, on_event, settings, needs_test
        self._real = real

    @cached_property
    def test(self) -> list[Example]:
        """The test split. Raises InputError where the command needs one, and no text of it can be used."""
        source = self.task.data
        if not self._needs_test and source.folder and not find_split_file(Path(source.folder), source.test_split):
            return []
        examples = self._report(load_split(self.task, "test"))
        if self._needs_test and not examples:
            raise InputError(
                f"{self.task.name}: {self._name_of(source.test_split)} has no row that can be used, so nothing could "
                "be measured. Fix its rows (`fourshot tasks check` names them), or add others."
            )
        return examples

    @property
    def why_no_test(self) -> str:
        """Why `test` is empty, for people: there is no file, or no row of it can be used."""
        source = self.task.data
        has_file = not source.folder or find_split_file(Path(source.folder), source.test_split)
        return f"{self._name_of(source.test_split)} has no row that can be used" if has_file else NO_TEST

    @cached_property
    def train(self) -> list[Example]:
        """The train split without texts that are in the test split too."""
        return self._report(drop_overlap(load_split(self.task, "train"), self.test_texts))

    @property
    def test_texts(self) -> list[str]:
        return [example.text for example in self.test]

    @cached_property
    def _shots_file(self) -> list[Example] | None:
        chosen = load_chosen_shots(self.task)
        return None if chosen is None else self._report(drop_overlap(chosen, self.test_texts))

    def shots(self, settings: RunSettings, seed: int | None = None) -> list[Example]:
        """Draw ``settings.k`` per class, or as many as ``real`` says, from the shots that the user chose, else from the
        train split; never a text of the test split. ``seed`` defaults to that of the settings. Raises InputError as
        `draw_shots` does.
        """
        seed = settings.seed if seed is None else seed
        if self._real:
            return real_examples(self._labelled, self.task.label_names, self._real, seed)
        return draw_shots(self._labelled, self.task.label_names, settings.k, seed, settings.allow_fewer_shots)

    @property
    def _labelled(self) -> list[Example]:
        return self.train if self._shots_file is None else self._shots_file

    @property
    def _labelled_name(self) -> str:
        """The file or split that the shots are drawn from, for people."""
        return self._name_of(self.task.data.train_split if self._shots_file is None else SHOTS_STEM)

    def _name_of(self, stem: str) -> str:
        """Return the name of a split's file, else of the split, for people."""
        source = self.task.data
        file = find_split_file(Path(source.folder), stem) if source.folder else None
        return file.name if file else f"the split {stem!r}"

    def tell_counts(self, shots: Sequence[Example]) -> None:
        """Report how many labelled texts are the shots, unless all are: the user may want to train on more. With
        ``real``, always report it, with the file: if the user chose shots, "all" does not mean the train split.
        """
        has_more = len(shots) < len(self._labelled)
        if has_more or self._real:
            of_file = f" of {self._labelled_name}" if self._real else ""
            remedy = "--real takes more of them" if self._real else "--shots takes more of each class"
            line = f"{len(shots):,} of {len(self._labelled):,} labelled texts{of_file} are the shots"
            self.tell(f"{line}; {remedy}" if has_more else line)

    def tell(self, message: str, *, notice: bool = False) -> None:
        """Send an event of the stage "shots" about this task."""
        self._on_event(Event(stage="shots", message=f"{self.task.name}: {message}", notice=notice))

    def _report(self, split: Split) -> list[Example]:
        for warning in split.warnings:
            self._on_event(Event(stage="shots", message=warning, notice=True))
        if self._settings and (
            line := cut_line(split.name, [example.text for example in split.examples], self._settings, self.task)
        ):
            self._on_event(Event(stage="shots", message=line, notice=True))
        return split.examples

    def check_stored_shots(self, shots: Sequence[Example]) -> None:
        """Report which shots of an earlier call are no longer in the labelled data.

        Raises RunFolderError where some are in the test split by now: the evaluation would contain training texts.
        """
        kept = {shot.text for shot in shots}
        if tested := sorted(kept.intersection(self.test_texts)):
            raise RunFolderError(
                f"{self.task.name}: {counted(len(tested), 'shot')} of this folder {'are' if len(tested) > 1 else 'is'} "
                f"in the test split by now ({tested[0][:60]!r}), so the evaluation would include training texts. "
                "Start again in another folder (--out), or restore the data."
            )
        try:
            labelled = load_chosen_shots(self.task) or load_split(self.task, "train")
        except InputError:
            return  # the shots in the folder suffice
        there = {(example.text, example.label) for example in labelled.examples}
        if changed := [shot.text for shot in shots if (shot.text, shot.label) not in there]:
            self.tell(
                f"{counted(len(changed), 'shot')} of this folder {'are' if len(changed) > 1 else 'is'} no longer in "
                f"the labelled data ({changed[0][:60]!r}), and stay as they were. To train on the current data, "
                "start again in another folder (--out)",
                notice=True,
            )

    def measured(self, limit: int) -> Sequence[Example]:
        """Return the test texts to evaluate on; ``limit`` 0 means all."""
        return limited(self.test, limit or None)


def lost_shots(file: Path) -> str:
    """Return a warning that shots, on which other files are based, are missing and drawn again."""
    return (
        f"{file} is missing, so shots are drawn again: the same ones, if the data and the seed are the same. "
        "Otherwise restore it, or start again in another folder (--out)"
    )


def cut_line(name: str, texts: Iterable[str], settings: RunSettings, task: Task) -> str:
    """Return a message on how much of a split's texts is not read; "" where all is."""
    cut = cut_texts((bare_text(task, text) for text in texts), settings.max_text_words, settings.long_texts)
    return f"{name}: {cut}" if cut.cut else ""
