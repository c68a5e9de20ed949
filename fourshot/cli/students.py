"""`annotate` and `distill`: label a user's texts with a teacher, and train a small classifier on its labels."""

from pathlib import Path
from typing import TYPE_CHECKING

from fourshot.cli.console import Terminal, program
from fourshot.cli.declare import MODEL, PLAN, Options, argument, command, flag, overrides, setting
from fourshot.cli.options import settings_of, settings_options
from fourshot.cli.predict import not_read
from fourshot.cli.remote import REMOTE_OPTIONS, first_of, teacher_line, teacher_of
from fourshot.cli.runs import DATA, ENCODING, TASK
from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import as_word, counted
from fourshot.pipeline.tables.types import check_of_unlabelled
from fourshot.training.students.settings import StudentSettings

if TYPE_CHECKING:
    from fourshot.pipeline.distillation.distilled import DistillSummary

DEFAULTS = StudentSettings()
BY = "the annotator: a finished run, an adapter, a student, or the address of a service"
TEXT_COLUMN = argument("--text-column", "NAME", "of the table (default: the task's, otherwise detected)")
RAY = argument("--ray", "WHERE", "annotate and train over Ray: 'local', 'auto' or a cluster's address", default="")
TABLE_HELP = "a table of texts, in any format that `tasks new` reads; its other columns are kept"
SHOWN = ("strategy", "temperature", "hard_share", "weights", "min_confidence", "balance", "held_out", "num_epochs")
STUDENT_OPTIONS = tuple(
    setting(DEFAULTS, name)._replace(heading="student")
    for name in (*SHOWN, "learning_rate", "batch_size", "max_tokens", "few_texts", "real_weight")
)


@command(
    "annotate",
    argument(
        "task",
        "TASK",
        "a finished run, a student, an adapter, or a task: its run in runs/ annotates unless --by names another; of a "
        "text generation task, its student in runs/",
    ),
    DATA,
    argument("--unlabelled", "FILE", TABLE_HELP, required=True),
    TEXT_COLUMN,
    ENCODING,
    argument("--by", "WHO", BY),
    argument("--key", "KEY", "of a service; better as FOURSHOT_API_KEY in the environment"),
    argument("--out", "FILE", "the table with labels; its suffix determines the format", required=True, type=Path),
    argument("--abstain-below", "P", "no label with a probability below P", type=float, default=0.0),
    argument("--model", "MODEL", "the base model, if it has moved since training"),
    RAY,
    PLAN,
    *REMOTE_OPTIONS,
)
def annotate(options: Options, terminal: Terminal) -> None:
    """Label each text of a table, with probabilities and the annotator's name; or write a target for each input."""
    from fourshot import teaching
    from fourshot.text_api import writes_texts

    arguments = {name: getattr(options, name) for name in ("unlabelled", "data", "text_column", "key")}
    arguments["encoding"] = options.encoding or ""
    if writes_texts(options.task, options.data):
        from fourshot.cli.text_students import annotate_text

        annotate_text(options, arguments, terminal)
        return
    arguments |= {**teacher_of(options), "model": options.model, "ray": options.ray, "out": options.out}
    arguments["abstain_below"] = options.abstain_below
    with terminal.progress() as on_event:
        if options.plan:
            terminal.forecast(teaching.plan_annotation(options.task, on_event=on_event, **arguments))
            return
        forecast = not (options.quiet or options.ray)
        summary = teaching.annotate(options.task, on_event=on_event, forecast=forecast, **arguments)
    for warning in summary.warnings:
        terminal.warn(warning)
    if summary.cut:
        terminal.warn(not_read(summary.cut, summary.rows, summary.cut_words))
    terminal.result("result", summary)
    terminal.table([{"label": label, "rows": count} for label, count in summary.labelled.items()])
    for count, outcome in (
        (summary.abstained, "without a label: the annotators were not sure enough"),
        (summary.blank, "without a text"),
        (summary.unreadable, f"could not be annotated{first_of(summary.why_unreadable)}"),
    ):
        if count:
            terminal.say(f"{counted(count, 'row')} {outcome}.")
    if summary.agreement is not None:
        terminal.say(f"On average, {summary.agreement:.0%} of the annotators predict the assigned label.")
    terminal.verdict(summary.forecast)
    if summary.remote_teacher:
        terminal.say(teacher_line(summary.remote_teacher))
    terminal.say(f"{counted(summary.rows, 'row')} in {summary.out}, annotated by {summary.by}.")
    classifier = Path(options.task) / "adapter"
    if not options.by and classifier.exists():
        terminal.say(f"It annotated the run's texts, too. For the run's classifier alone: `annotate {classifier} ...`.")


@command(
    "distill",
    *TASK,
    argument("--unlabelled", "FILE", f"{TABLE_HELP}; the teacher annotates them"),
    TEXT_COLUMN,
    ENCODING,
    argument("--generate", "N", "texts per class, or pairs in all, that the teacher writes", type=int, default=0),
    argument("--real", "N", "real examples learnt: N per class, 5%%, or all; of pairs, N (default: 100) or all"),
    argument("--by", "WHO", f"{BY} (default: a teacher that is trained on the shots)"),
    argument("--key", "KEY", "of a service; better as FOURSHOT_API_KEY in the environment"),
    flag("--onnx", "also export the student to ONNX, in float and int8, with a comparison of the predictions"),
    argument(
        "--student",
        "MODEL",
        "an encoder, or for text generation a causal or sequence-to-sequence model: a Hugging Face id or a folder "
        "(default: the bundled one)",
    ),
    MODEL,
    argument("--out", "FOLDER", "of the distillation (default: in runs/TASK/); an existing one is continued"),
    RAY,
    PLAN,
    *REMOTE_OPTIONS,
    *STUDENT_OPTIONS,
    *settings_options(without=["--per-class"]),
)
def distill(options: Options, terminal: Terminal) -> None:
    """Train a small classifier, which needs no language model, on a teacher's labels."""
    from fourshot import teaching
    from fourshot.api import default_student_folder
    from fourshot.pipeline.rows.fields import sample_argument
    from fourshot.pipeline.tasks.generation import GenerationTask
    from fourshot.pipeline.tasks.task_file import load_any_task

    check_of_unlabelled(options.unlabelled, options.text_column, options.encoding)
    if options.generate < 0:
        raise InputError(f"--generate is a number of texts per class, at least 1; got {options.generate}.")
    teacher = teacher_of(options)
    task = load_any_task(options.task, options.data)
    folder = Path(options.out or default_student_folder(task))
    arguments = {name: getattr(options, name) for name in ("unlabelled", "generate", "text_column", "model", "key")}
    arguments |= {**teacher, "folder": folder, "encoding": options.encoding or ""}
    if isinstance(task, GenerationTask):
        from fourshot.cli.text_students import distill_text

        distill_text(task, options, arguments, terminal)
        return
    if options.real and options.k is not None:
        raise InputError(f"--real {options.real} and --shots {options.k} set the same number. Leave one out.")
    arguments |= {name: getattr(options, name) for name in ("real", "student", "ray", "onnx")}
    arguments["student_settings"] = StudentSettings(**overrides(options, StudentSettings))
    arguments["settings"] = settings_of(options)
    with terminal.progress() as on_event:
        if options.plan:
            terminal.forecast(teaching.plan_distillation(task, on_event=on_event, **arguments))
            return
        forecast = not (options.quiet or options.ray)
        summary = teaching.distill(task, on_event=on_event, forecast=forecast, **arguments)
    _tell_student(summary, terminal)
    terminal.say(f"Try it: {program()} predict {as_word(folder)} {sample_argument(task)}")


def _tell_student(summary: "DistillSummary", terminal: Terminal) -> None:
    """Print how accurate a student is, how large, and where it is stored."""
    terminal.result("result", summary)
    for note in summary.notes:
        terminal.say(f"{note.removesuffix('.')}.")
    if summary.table:
        terminal.scores(summary.table)
    else:
        terminal.say("Nothing was evaluated: the task has no test file.")
    if summary.remote_teacher:
        terminal.say(teacher_line(summary.remote_teacher))
    if summary.held_out_agreement is not None:
        terminal.say(
            f"On {summary.held_out} texts that it did not learn, the student agrees with the teacher in "
            f"{summary.held_out_agreement:.0%}."
        )
    size = f"{summary.parameters / 1e6:.0f} million parameters, {summary.megabytes:.0f} MB"
    for parity in summary.onnx:
        lost = "" if parity.points_lost is None else f"; {parity.points_lost:.2f} points less on {parity.tested} tests"
        terminal.say(
            f"{parity.file} ({parity.megabytes:.0f} MB): a different label for {parity.other_labels} of {parity.texts} "
            f"texts; probabilities differ by up to {parity.largest_difference:.4f}{lost}."
        )
    terminal.verdict(summary.forecast)
    terminal.say(f"Student: {summary.student_path} ({size})\nReport: {summary.report_path}")
