"""Check the data of a task, and report all faults of every split."""

import re
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import TaskFault, counted, error, errors_in, note, shorten, warning
from fourshot.pipeline.rows.examples import clean, count_labels, label_rows, normalised_text, substitute_split_note
from fourshot.pipeline.rows.fields import bare_text
from fourshot.pipeline.rows.text_words import cut_texts
from fourshot.pipeline.tables.files import Table, read_settings_of, scan_table
from fourshot.pipeline.tables.hub import read_hub
from fourshot.pipeline.tables.misread import misread_place
from fourshot.pipeline.tables.split_files import find_split_file, missing_split, split_files
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.tasks.shots import SHOTS_STEM

FEWER_SHOTS = "fewer than"  # .. N shots: in the warning after which a run needs an option to continue
# HTML entities, and tags that exports leave in texts.
_MARKUP = re.compile(
    r"&(?:amp|lt|gt|quot|nbsp|#\d{1,6}|#x[\da-fA-F]{1,5});|</?(?:br|p|div|span|b|i|li|ul|a|td|tr)\b[^<>]*>"
)


def data_faults(task: Task, k: int) -> list[TaskFault]:
    """Return the faults of the user's shots, the train split and the test split, and of their overlaps.

    ``k``: shots per class that a run will draw.
    """
    source = task.data
    if not source.hub and not Path(source.folder).is_dir():
        return [error("$.data", missing_split(source, source.train_split))]
    faults: list[TaskFault] = []
    splits: dict[str, list[Example]] = {}
    counted_later: list[tuple[str, str, int]] = []  # split, its file, examples of each class that it needs
    for split, stem in (("shots", SHOTS_STEM), ("train", source.train_split), ("test", source.test_split)):
        if split == "shots" and source.hub:
            continue
        try:
            table, split_faults = _scan(task, stem)
        except InputError as failure:
            faults.append(error("$.data", str(failure)))
            continue
        if table is None:
            faults += _missing(task, split, stem, has_shots="shots" in splits)
            continue
        faults += split_faults
        if errors_in(split_faults):
            continue
        if elsewhere := substitute_split_note(task.data, split):
            faults.append(note(split, elsewhere))
        rows, label_faults = label_rows(task, table)
        cleaned = clean(split, table.path, rows, task.input_fields)
        faults += label_faults
        faults += [warning(table.path, text.removeprefix(f"{table.path}: ")) for text in cleaned.warnings]
        splits[split] = cleaned.examples
        if cut_note := str(cut_texts(bare_text(task, example.text) for example in cleaned.examples)):
            remedy = (
                "--set max_text_words=N shows more of them, --long-texts middle their beginning and end, "
                "--long-texts windows all of them, in parts."
            )
            faults.append(note(table.path, cut_note, remedy))
        if marked := [line for line, example in rows if _MARKUP.search(example.text)]:
            problem = f"{counted(len(marked), 'text')} with HTML, such as &amp; or <br> (line {shorten(marked)})."
            faults.append(note(table.path, problem, "It is used as it is. Do the texts to be classified have it, too?"))
        if damaged := [line for line, example in rows if misread_place(example.text)]:
            problem = f"{counted(len(damaged), 'text')} with signs of another encoding (line {shorten(damaged)})."
            remedy = "Save the table again as UTF-8. Is $.data.encoding that of another file?"
            faults.append(warning(table.path, problem, remedy if source.encoding else remedy.partition(" Is")[0]))
        # With a shots file, none are drawn from the train split, so a class may be missing there.
        fewest = k if split == "shots" or (split == "train" and "shots" not in splits) else 0
        if not errors_in(label_faults):  # else missing examples may have a faulty label
            counted_later.append((split, table.path, fewest))
    test = {normalised_text(example.text) for example in splits.get("test", [])}
    for split, path, fewest in counted_later:
        usable = [example for example in splits[split] if split == "test" or normalised_text(example.text) not in test]
        all_of_them = count_labels(task, splits[split])
        faults += _counts(task, path, split, count_labels(task, usable), all_of_them, fewest)
    return faults + _overlaps(splits)


def _scan(task: Task, stem: str) -> tuple[Table | None, list[TaskFault]]:
    if task.data.hub:
        return read_hub(task.data.hub, task.data.hub_config, stem), []
    folder = Path(task.data.folder)
    path = find_split_file(folder, stem)
    if path is None:
        return None, []
    table, faults = scan_table(path, read_settings_of(task.data))
    siblings = shorten(file.name for file in split_files(folder, stem) if file != path)
    return table, faults + ([note(path, f"beside it, {siblings} is not read.")] if siblings else [])


def _missing(task: Task, split: str, stem: str, has_shots: bool) -> list[TaskFault]:
    if split == "shots":
        names = sorted(path.name for path in Path(task.data.folder).iterdir())
        near = shorten([name for name in names if name.lower().startswith(SHOTS_STEM[:-1])])
        problem = f"{near} in {task.data.folder}: not read, because a file of shots is named, for example, {stem}.csv."
        return [warning("$.data", problem, "Rename it if it contains the shots.")] if near else []
    problem = missing_split(task.data, stem)
    if split == "test":
        remedy = "A run then trains a classifier and measures nothing; `evaluate` and `compare` need test texts."
        return [warning("$.data", problem, remedy)]
    if split == "train" and has_shots:
        return [note("$.data", problem, "The shots are there; only lora25 needs it.")]
    return [error("$.data", problem)] if split == "train" else []


def _counts(
    task: Task, path: str, split: str, usable: dict[str, int], all_of_them: dict[str, int], k: int
) -> list[TaskFault]:
    """Return faults of classes with fewer than ``k`` examples in ``usable``, which has no texts of the test split."""
    faults = []
    for name, count in usable.items():
        if not count and k and (tested := all_of_them[name]):
            problem = f"each of the {counted(tested, 'example')} of label {name!r} is a test text too, and is left out."
            faults.append(error(path, problem, "Add others, or remove these texts from the test file."))
        elif not count and k:
            faults.append(error(path, f"no example of label {name!r}.", "Add some, or remove the label."))
        elif not count and split == "test":
            faults.append(warning(path, f"no example of label {name!r}: it will not be measured."))
        elif count < k:
            problem = f"label {name!r} has {counted(count, 'example')}, {FEWER_SHOTS} {k} shots."
            if lost := all_of_them[name] - count:
                problem += (
                    f" {counted(lost, 'more example')} of it {'are' if lost > 1 else 'is'} in the test split too."
                )
            faults.append(warning(path, problem, f"Add examples, or ask for fewer with --shots {count}."))
    return faults


def _overlaps(splits: dict[str, list[Example]]) -> list[TaskFault]:
    test = {normalised_text(example.text) for example in splits.get("test", [])}
    faults = []
    for split in ("shots", "train"):
        shared = sorted({normalised_text(example.text) for example in splits.get(split, [])} & test)
        if shared:
            are = "texts are" if len(shared) != 1 else "text is"
            problem = f"{len(shared)} {are} in the test split too: {shorten([repr(text[:40]) for text in shared], 3)}."
            faults.append(warning(split, problem, "They are left out of training."))
    return faults
