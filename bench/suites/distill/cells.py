"""One teacher for each task, amount of real data and seed, and students trained on parts of its texts.

Real data is a number per class, a share of the train split, or all of it.
"""

import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from fourshot.bench.core.options import Model, Out, Positive, TaskFolders
from fourshot.bench.core.results import path_beside, show_end
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import append_lines, read_json, settle, staged_folder
from fourshot.pipeline.cells.measuring import Evaluation
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.distillation import taught as texts_of
from fourshot.pipeline.distillation.annotators import Annotation, Parts
from fourshot.pipeline.distillation.distill import distill
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.rows.examples import limited
from fourshot.pipeline.rows.fields import values_of
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.runs.stage_driver import LOG_FILE
from fourshot.pipeline.runs.stage_process import run_stage
from fourshot.pipeline.runs.stages.student import StudentItem, StudentStage
from fourshot.pipeline.student_card import file_hashes
from fourshot.pipeline.students.jobs import student_jobs
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import DataSource, Example, Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.tasks.shots import real_examples
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.students.encoders import ResolvedEncoder, resolve_encoder
from fourshot.training.students.settings import StudentSettings

Strategy = Literal["annotate", "generate", "both"]
TEACHER, NONE = "teacher", "none"  # strategies of rows: the teacher itself, a student trained on real examples only
UNLABELLED = "unlabelled.jsonl"
DISTILLED = "distilled"  # subfolder of a group's folder: the distillation with its teacher
QUICK = StudentSettings(strategy="head")  # for the student that `distill` itself trains, which is not a cell


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: TaskFolders
    out: Out
    tasks: Annotated[tuple[str, ...], "measured"] = ("sst2", "trec", "ag_news")
    real: Annotated[tuple[str, ...], "real data: examples per class, a share such as 5%, or all"] = (
        *("4", "5%", "20%", "all"),
    )
    strategies: Annotated[tuple[Strategy, ...], "where texts come from; both: half each"] = (
        *("annotate", "generate", "both"),
    )
    amounts: Annotated[tuple[int, ...], "texts beside the real ones; 0 is always measured"] = (100, 300, 1000, 3000)
    seeds: Annotated[Positive, "draws of the real data"] = 3
    test_limit: Annotated[int, "test texts that are measured on; 0: all"] = 500
    model: Model = None
    student: Annotated[str | None, "encoder; the embedded one if left out"] = None


class TeacherGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The cells that share a teacher."""

    task: str
    real: str
    seed: int

    def piece(self, cell: "StudentCell") -> str:
        return f"{self.task}/{self.real}/{self.seed}/{cell.strategy}/{cell.amount}"


class StudentCell(msgspec.Struct, frozen=True, kw_only=True):
    """A student: the source and number of its texts."""

    strategy: str
    amount: int = 0


class TeacherOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A teacher's annotated and generated texts, in the order in which cells take them."""

    folder: Path
    task: Task
    encoder: ResolvedEncoder
    seed: int
    shots: tuple[Example, ...]
    test: tuple[Example, ...]
    annotated: texts_of.Annotated
    pairs: list[Any]  # candidates with verdicts
    teacher_accuracy: float | None

    def texts(self, cell: StudentCell) -> tuple[texts_of.Annotated, texts_of.Annotated]:
        """Return the annotated and the generated texts of a cell; fewer than its amount if not enough exist."""
        share = cell.amount // 2 if cell.strategy == "both" else cell.amount
        annotated = self.annotated[:share] if cell.strategy in ("annotate", "both") else []
        written: texts_of.Annotated = []
        if cell.strategy in ("generate", "both"):
            per_class = math.ceil((cell.amount - len(annotated)) / len(self.task.labels))
            written = texts_of.written_texts(self.pairs, self.task, per_class)[: cell.amount - len(annotated)]
        return annotated, written

    def clear(self) -> None:
        """Delete the students' checkpoints, which take 90 MB each."""
        for folder in (self.folder, self.folder / DISTILLED):
            shutil.rmtree(folder / "students", ignore_errors=True)


def teach(group: TeacherGroup, options: Options) -> TeacherOutput:
    """Train the teacher, and let it annotate and generate the texts of the largest cell; continues after a kill."""
    most, strategies, data, root = max(options.amounts, default=0), {*options.strategies}, options.data, options.out
    folder = path_beside(root, "") / group.task / group.real.replace("%", "pc") / f"seed{group.seed}"
    source_task = load_task(group.task, data / group.task)
    splits = TaskData(source_task)
    shots = real_examples(splits.train, source_task.label_names, group.real, group.seed)
    test = limited(splits.test, options.test_limit or None)
    group_task = msgspec.structs.replace(source_task, data=DataSource(folder=str(folder / "data")))
    shown = {*shots}
    remaining = [example.text for example in splits.train if example not in shown]
    random.Random(f"{group.seed}/unlabelled").shuffle(remaining)
    unlabelled = remaining[:most] if {"annotate", "both"} & strategies else []
    _write_data(folder / "data", group_task, shots, test, unlabelled)
    table = open_texts(folder / "data" / UNLABELLED, task=group_task) if unlabelled else None
    per_class = math.ceil(most / len(source_task.labels)) if {"generate", "both"} & strategies else 0
    accuracy, annotated, pairs = None, list[Any](), list[Any]()
    if table or per_class:
        settings = RunSettings(seed=group.seed, k=len(shots), allow_fewer_shots=True, allow_short=per_class > 0)
        request = LabelDistillation(
            task=group_task,
            folder=folder / DISTILLED,
            unlabelled=table,
            generate=per_class,
            student=options.student,
            student_settings=QUICK,
            model=options.model,
            settings=settings,
            on_event=show_end,
        )
        summary = distill(request)
        accuracy = next(row["accuracy"] for row in summary.table if row["method"] == TEACHER)
        annotations, _ = texts_of.annotated_texts(request, "", _no_annotator)
        annotated, _ = texts_of.learnable(annotations, shots, test)
        pairs = finished_pairs(RunFolder(request.teacher_folder)) if per_class else []
    return TeacherOutput(
        folder=folder,
        task=group_task,
        encoder=resolve_encoder(options.student),
        seed=group.seed,
        shots=tuple(shots),
        test=tuple(test),
        annotated=annotated,
        pairs=pairs,
        teacher_accuracy=accuracy,
    )


def measure_cell(taught: TeacherOutput, cell: StudentCell) -> dict[str, Any]:
    """Train and evaluate the student of ``cell``. Return its row, without the fields of its group.

    In place of an accuracy, a cell without texts has the reason as ``left_out``, as has a teacher that was not needed.
    """
    row: dict[str, Any] = {**msgspec.to_builtins(cell), "real_texts": len(taught.shots), "test_texts": len(taught.test)}
    if cell.strategy == TEACHER:
        if taught.teacher_accuracy is None:
            return {**row, "left_out": "no teacher was needed"}
        return {**row, "texts": 0, "accuracy": taught.teacher_accuracy}
    annotated, written = taught.texts(cell)
    if cell.amount and not annotated and not written:
        return {**row, "left_out": "there are no such texts"}
    settings = StudentSettings()
    job = student_jobs(taught.task, taught.encoder, taught.shots, annotated, written, settings, taught.seed)[0]
    out = taught.folder / "scores" / f"cell-{job.key}.json"
    store = taught.folder / "students"
    if not out.exists():
        item = StudentItem(job=job, task=taught.task, test=taught.test, out=str(out))
        log = str(taught.folder / LOG_FILE)
        run_stage(StudentStage(model_path=taught.encoder.path, items=(item,), store=str(store), log=log), show_end)
        shutil.rmtree(store / job.key, ignore_errors=True)
    texts = {"texts": len(annotated) + len(written), "annotated": len(annotated), "written": len(written)}
    return {**row, **texts, "accuracy": read_json(out, Evaluation).scores.accuracy}


def _write_data(folder: Path, task: Task, shots: list[Example], test: list[Example], unlabelled: list[str]) -> None:
    """Write one group's data: the real examples as chosen shots, the test texts, and the texts without labels.

    Raises InputError if an earlier call wrote other data, because its teacher was trained on that.
    """
    fields = bool(task.input_fields)

    def row(text: str, **label: str) -> dict[str, str]:
        return {**(values_of(task, text) if fields else {"text": text}), **label}

    with staged_folder(folder.parent) as staged:
        append_lines(staged / "shots.jsonl", [row(shot.text, label=shot.label) for shot in shots])
        append_lines(staged / "test.jsonl", [row(example.text, label=example.label) for example in test])
        append_lines(staged / UNLABELLED, [row(text) for text in unlabelled])
        if not folder.exists():
            settle(staged, folder)
        elif file_hashes(staged) != file_hashes(folder):
            raise InputError(
                f"{folder.parent} has a teacher of other data. Delete that folder, put the data back, or name another "
                "--out."
            )


def _no_annotator(parts: Parts) -> Iterator[list[Annotation]]:
    raise AssertionError("all texts were annotated")
