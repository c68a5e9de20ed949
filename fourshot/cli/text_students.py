"""`distill`, `annotate` and `predict` for text generation tasks, whose students write texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.cli.console import Terminal, program
from fourshot.cli.declare import Options, overrides
from fourshot.cli.options import settings_of
from fourshot.cli.remote import first_of, teacher_line, teacher_of
from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import as_word, counted
from fourshot.printable import one_line
from fourshot.training.students.settings import StudentSettings, TextStudentSettings

if TYPE_CHECKING:
    from fourshot.pipeline.tasks.generation import GenerationTask
    from fourshot.pipeline.text_student import TextWritten

LABELS_ONLY = ("onnx", "votes")  # options of distill
OF_READING = ("abstain_below", "model", "ray", "votes")  # options of annotate, where there are labels
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


def distill_text(task: "GenerationTask", options: Options, arguments: dict[str, Any], terminal: Terminal) -> None:
    """Train a student of a text generation task; ``arguments``: those that a classifier's distillation has, too.

    Raises InputError for an option that has no meaning for such a task.
    """
    from fourshot import text_api

    student_settings = overrides(options, StudentSettings)
    of_labels = [name for name in student_settings if name not in TextStudentSettings.__struct_fields__]
    _refuse([*of_labels, *(name for name in LABELS_ONLY if getattr(options, name))])
    arguments |= {
        "real": _real(options.real),
        "student": options.student,
        "student_settings": TextStudentSettings(**student_settings),
    }
    arguments["settings"] = settings_of(options)
    with terminal.progress() as on_event:
        if options.plan:
            terminal.forecast(text_api.plan_text_distillation(task, ray=options.ray, on_event=on_event, **arguments))
            return
        summary = text_api.distill_text(
            task, ray=options.ray, on_event=on_event, forecast=not options.quiet, **arguments
        )
    terminal.result("result", summary)
    for note in summary.notes:
        terminal.say(f"{note.removesuffix('.')}.")
    if summary.table:
        terminal.table(summary.table, SCORES)
    else:
        terminal.say("Nothing was evaluated: the task has no test file.")
    if summary.remote_teacher:
        terminal.say(teacher_line(summary.remote_teacher))
    size = f"{summary.architecture}, {summary.parameters / 1e6:.0f} million parameters, {summary.megabytes:.0f} MB"
    terminal.say(f"Student: {summary.student_path} ({size})\nReport: {summary.report_path}")
    terminal.say(f"Try it: {program()} predict {as_word(arguments['folder'])} 'An input of your own'")


def annotate_text(options: Options, arguments: dict[str, Any], terminal: Terminal) -> None:
    """Write a target for each input of a table; ``arguments``: those that annotation with labels has, too."""
    from fourshot import text_api

    _refuse([name for name in OF_READING if getattr(options, name)])
    arguments |= {**teacher_of(options), "out": options.out}
    with terminal.progress() as on_event:
        if options.plan:
            terminal.forecast(text_api.plan_text_annotation(options.task, on_event=on_event, **arguments))
            return
        summary = text_api.annotate_text(options.task, on_event=on_event, forecast=not options.quiet, **arguments)
    for warning in summary.warnings:
        terminal.warn(warning)
    terminal.result("result", summary)
    for count, outcome in (
        (summary.blank, "without an input"),
        (summary.unfinished, "without a target: it was not finished"),
        (
            summary.unreadable,
            f"without a target: the input was refused, or nothing was written{first_of(summary.why_unreadable)}",
        ),
        (summary.cut, "too long: the end of the input was ignored"),
    ):
        if count:
            terminal.say(f"{counted(count, 'row')} {outcome}.")
    if summary.remote_teacher:
        terminal.say(teacher_line(summary.remote_teacher))
    rows = f"{summary.written} of {counted(summary.rows, 'row')} in {summary.out}"
    terminal.say(f"{rows} with a target, written by {summary.by}.")


def _refuse(names: Sequence[str]) -> None:
    """Raise InputError for options of tasks with labels."""
    if names:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise InputError(f"{given}: only for tasks with labels, but this is a text generation task. Leave it out.")


def _real(text: str | None) -> int | None:
    """Return the number that `--real` gives, 0 for all; None where it is not given. Raises InputError for others."""
    if text is None:
        return None
    if text != "all" and not (text.isdecimal() and int(text)):
        raise InputError(f"--real is a number of pairs, at least 1, or 'all'; got {text!r}.")
    return 0 if text == "all" else int(text)


def write(folder: Path, texts: list[str], options: Options, terminal: Terminal) -> None:
    """Have a student write for each text, and print what it wrote, a line each."""
    from fourshot.pipeline.text_student import FEW, Generator

    kind = options.engine or ("vllm" if len(texts) > FEW else "transformers")
    with terminal.hushed(), Generator(folder, many=kind == "vllm") as generator:
        written = generator.generate(texts)
    show(texts, written, terminal, {"student": str(folder)})


def show(texts: Sequence[str], written: "Sequence[TextWritten]", terminal: Terminal, source: dict[str, object]) -> None:
    """Print a line for each text, then warnings on texts that were cut."""
    for text, result in zip(texts, written, strict=True):
        terminal.result("prediction", {"text": text, "written": result.text, "is_whole": result.is_whole})
        terminal.say(one_line(result.text))
    if unfinished := sum(not result.is_whole for result in written):
        terminal.warn(f"{unfinished} of {len(texts)} outputs were cut before their end.")
    if num_cut := sum(result.is_cut for result in written):
        terminal.warn(f"{num_cut} of {len(texts)} inputs are too long for the student: their end was ignored.")
    terminal.result("result", {**source, "texts": len(texts)})
