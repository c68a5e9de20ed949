"""`distill` and `predict` of text generation tasks: a teacher writes, a student learns to, and then does."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fourshot.cli.console import Terminal, program
from fourshot.cli.declare import Options, given
from fourshot.cli.options import settings_of
from fourshot.engine.errors import InputError
from fourshot.training.students.settings import StudentSettings, TextStudentSettings

if TYPE_CHECKING:
    from fourshot.pipeline.tasks.generation import GenerationTask

LABELS_ONLY = ("by", "key", "onnx", "plan", "teacher", "teacher_model")  # options
SCORES = {  # key of a row of `TextDistillSummary` -> heading
    "display_name": "method",
    "chrf": "chrF",
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "exact": "exact",
    "real_pairs": "real",
    "annotated_pairs": "annotated",
    "synthetic_pairs": "written",
}


def distill_text(task: "GenerationTask", folder: Path, options: Options, terminal: Terminal) -> None:
    """Make a student of a text generation task. Raises InputError for an option that says nothing of such a task."""
    from fourshot import text_api

    own = given(options, StudentSettings)
    not_here = [f"--{name.replace('_', '-')}" for name in own if name not in TextStudentSettings.__struct_fields__]
    not_here += [f"--{name.replace('_', '-')}" for name in LABELS_ONLY if getattr(options, name)]
    if not_here:
        raise InputError(
            f"{', '.join(not_here)}: that is for tasks with labels, and {task.name} is a text generation task. Leave "
            "it out."
        )
    with terminal.progress() as on_event:
        summary = text_api.distill_text(
            task,
            unlabelled=options.unlabelled,
            generate=options.generate,
            real=_real(options.real),
            student=options.student,
            student_settings=TextStudentSettings(**own),
            folder=folder,
            text_column=options.text_column,
            encoding=options.encoding or "",
            model=options.model,
            settings=settings_of(options),
            ray=options.ray,
            on_event=on_event,
        )
    terminal.result("result", summary)
    for note in summary.notes:
        terminal.say(f"{note.removesuffix('.')}.")
    if summary.table:
        terminal.table(summary.table, SCORES)
    else:
        terminal.say("Nothing was measured: the task has no test file.")
    size = f"{summary.architecture}, {summary.parameters / 1e6:.0f} million parameters, {summary.megabytes:.0f} MB"
    terminal.say(f"Student: {summary.student_path} ({size})\nReport: {summary.report_path}")
    terminal.say(f"Try it: {program()} predict {shlex.quote(str(folder))} 'An input of your own'")


def _real(text: str | None) -> int | None:
    """The number that `--real` says, 0 for all; None where it is not given."""
    if text is None:
        return None
    if text != "all" and not (text.isdecimal() and int(text)):
        raise InputError(f"--real is a number of pairs, at least 1, or 'all'; got {text!r}.")
    return 0 if text == "all" else int(text)


def write(folder: Path, texts: list[str], options: Options, terminal: Terminal) -> None:
    """What a student writes for each text, a line each."""
    from fourshot.pipeline.text_student import FEW, TextStudent

    kind = options.engine or ("vllm" if len(texts) > FEW else "transformers")
    with terminal.hushed(), TextStudent(folder, many=kind == "vllm") as student:
        written = student.write(texts)
    for text, said in zip(texts, written, strict=True):
        terminal.result("prediction", {"text": text, "written": said.text, "is_whole": said.is_whole})
        terminal.say(" ".join(said.text.split()))
    if unfinished := sum(not said.is_whole for said in written):
        terminal.warn(f"{unfinished} of {len(texts)} did not come to an end, and were cut.")
    terminal.result("result", {"student": str(folder), "texts": len(texts)})
