"""`demo` and `doctor`: check that fourshot works on this machine, and what is missing."""

import shlex
from pathlib import Path

from fourshot.cli.console import Terminal, program
from fourshot.cli.declare import MODEL, Options, argument, command, flag
from fourshot.cli.given import refuse
from fourshot.pipeline.faults import as_word

DEMO_TASK = "support_tickets"
DEMO_FOLDER = f"runs/{DEMO_TASK}/default-seed0"  # also the folder of `fourshot run support_tickets`
DEMO_TEXT = "I paid for the same photo book twice, can I have my money back?"


@command("demo", MODEL, argument("--out", "FOLDER", "the run's", default=DEMO_FOLDER))
def demo(options: Options, terminal: Terminal) -> None:
    """Train a classifier on a built-in task of support tickets, then classify one text."""
    from fourshot import api
    from fourshot.serving.clients.local import LocalClassifier

    with terminal.progress() as on_event:
        summary = api.run(
            DEMO_TASK, model=options.model, folder=options.out, on_event=on_event, forecast=not options.quiet
        )
    with terminal.hushed(), LocalClassifier(summary.adapter_path, options.model, kind="transformers") as classifier:
        (answer,) = classifier.predict([DEMO_TEXT])
    terminal.result("result", {"run": summary, "text": DEMO_TEXT, "answer": answer})
    terminal.scores(summary.table)
    terminal.say(f"Report: {Path(summary.report_path).resolve()}")
    terminal.say(f"Try the new classifier: {program()} predict {as_word(options.out)} {shlex.quote(DEMO_TEXT)}")
    terminal.say(f"{answer.label}\t{answer.probability:.3f}\t{DEMO_TEXT}")


@command(
    "doctor",
    MODEL,
    flag("--deep", "also load torch and vLLM, and query the model"),
    argument("--serve", "FOLDER", "what a server of this adapters' folder needs, and what fits"),
)
def doctor(options: Options, terminal: Terminal) -> int:
    """Check this machine for everything that fourshot needs."""
    if options.serve:
        refuse(options, "this machine by itself; --serve loads no model", "deep")
        return _fit(options, terminal)
    from fourshot.engine.doctor import examine

    count = failed = 0
    for finding in examine(options.model, options.deep):
        count, failed = count + 1, failed + (finding.state == "fail")
        terminal.result("finding", finding)
        terminal.say(f"{finding.state:<5} {finding.name:<18} {finding.found} {finding.remedy}".rstrip())
    terminal.result("result", {"findings": count, "failed": failed})
    return 1 if failed else 0


def _fit(options: Options, terminal: Terminal) -> int:
    """Print the settings with which a server of a folder would start, and why; return the exit code."""
    from fourshot.engine.machine.memory import free_bytes
    from fourshot.serving.fleet.launch import complete
    from fourshot.serving.models.slots import MIB, bytes_of_student, student_bytes
    from fourshot.serving.settings import ServeSettings

    _, fit, contents = complete(ServeSettings(adapters=options.serve, base=options.model))
    student_sizes = [(student.name, bytes_of_student(student)) for student in contents.adapters if student.is_student]
    needed, free = student_bytes(contents), free_bytes()
    terminal.result("fit", fit or {"student_bytes": needed, "free_bytes": free})
    students = [{"name": name, "bytes": size} for name, size in student_sizes]
    terminal.result("result", {"folder": options.serve, "students": students, "refused": contents.refused})
    lines = fit.lines() if fit else _alone(needed, free)
    lines += [("student", f"{name}, {size / MIB:.0f} MiB of memory") for name, size in student_sizes]
    lines += [("refused", f"{fault.path}: {fault.reason}") for fault in contents.refused]
    for heading, text in lines:
        terminal.say(f"{heading:<24}{text}")
    return 0


def _alone(needed: int, free: int) -> list[tuple[str, str]]:
    """Return the lines, (heading, text), for a service of students alone; ``needed`` and ``free`` are in bytes."""
    from fourshot.serving.models.slots import GIB

    return [
        ("base model", "none is loaded: there are only students"),
        ("memory", f"{needed / GIB:.1f} GiB needed for students in addition to torch, {free / GIB:.1f} GiB free"),
    ]
