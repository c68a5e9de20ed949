"""`adapters list`, `add`, `remove`, `pin` and `unpin`: the folder that a server watches."""

from datetime import UTC, datetime
from pathlib import Path

from fourshot.cli.console import Terminal
from fourshot.cli.declare import Options, argument, command, flag
from fourshot.cli.given import refuse
from fourshot.pipeline.faults import as_word

ADAPTERS = argument("--adapters", "FOLDER", "the folder that a server watches", type=Path, required=True)
FOLDER = (ADAPTERS, argument("--base", "MODEL", "its base model (default: the bundled one)"))
ADAPTER_CONFIG = "adapter_config.json"
FOREIGN = "was made by another trainer: it has no card with its task, labels and prompt, so it cannot be served."
ADD_ONE = "Add one: fourshot adapters add ADAPTER --adapters FOLDER"
SHOTS = 4  # of each class, unless the user says otherwise
PIN_IT = "fourshot adapters pin {name} --adapters {root}"
HEADINGS = ("task", "adapter", "answers", "accuracy", "made", "folder")


@command("adapters list", *FOLDER)
def list_adapters(options: Options, terminal: Terminal) -> None:
    """List the adapters: which of them answer, which are refused, and why."""
    from fourshot.pipeline.scores import Scores
    from fourshot.pipeline.text_metrics import TextScores
    from fourshot.serving.models.in_context import IN_CONTEXT
    from fourshot.serving.models.registry import Registry, base_named

    contents = Registry(options.adapters, base_named(options.base)).read()
    rows, documents = [], []
    for task in contents.tasks:
        for place, adapter in enumerate(contents.versions(task)):
            answers = "pinned" if contents.pins.get(task) == adapter.name else "" if place else "yes"
            scores = adapter.card.scores
            accuracy = f"{100 * scores.accuracy:.1f}" if isinstance(scores, Scores) else ""
            accuracy = f"chrF {scores.chrf:.1f}" if isinstance(scores, TextScores) else accuracy
            made = datetime.fromtimestamp(adapter.written_at, UTC)
            folder = str(adapter.folder)
            rows.append((task, adapter.name, answers, accuracy, f"{made.astimezone():%Y-%m-%d %H:%M}", folder))
            documents.append(
                {
                    "task": task,
                    "adapter": adapter.name,
                    "answers": answers,
                    "accuracy": scores.accuracy if isinstance(scores, Scores) else None,
                    "chrf": scores.chrf if isinstance(scores, TextScores) else None,
                    "made": made.isoformat(timespec="seconds"),
                    "folder": folder,
                }
            )
    for task in (name for name in contents.in_context if name not in contents.tasks):
        rows.append((task, "", "in context", "", "", f"{task}{IN_CONTEXT}"))
        of_adapters = dict.fromkeys(("adapter", "accuracy", "chrf", "made"))
        documents.append({"task": task, "answers": "in context", "folder": f"{task}{IN_CONTEXT}", **of_adapters})
    terminal.result("result", {"adapters": documents, "refused": contents.refused})
    if rows:
        terminal.table([dict(zip(HEADINGS, row, strict=True)) for row in rows], whole="adapter")
    for fault in contents.refused:
        terminal.say(f"refused: {fault.path}: {fault.reason}")
    if not rows and not contents.refused:
        is_foreign = (options.adapters / ADAPTER_CONFIG).is_file()
        terminal.say(f"{options.adapters} {FOREIGN if is_foreign else f'contains no adapter. {ADD_ONE}'}")


@command(
    "adapters add",
    argument("source", "ADAPTER", "an adapter's or a student's folder, or that of a finished run or distillation"),
    ADAPTERS,
    argument("--base", "MODEL", "its base model: adapters of other models are refused (default: not checked)"),
    flag("--in-context", "ADAPTER names a task: answer in context with its examples until it has an adapter"),
    argument("--data", "FOLDER", "with --in-context: the task's train and test files"),
    argument("--shots", "K", f"with --in-context: examples per class (default: {SHOTS})", type=int),
    flag("--allow-fewer-shots", "with --in-context: continue if a class has fewer than K examples"),
    argument("--seed", "SEED", "with --in-context: draws the examples (default: 0)", type=int),
)
def add(options: Options, terminal: Terminal) -> None:
    """Copy an adapter into the folder, completely or not at all."""
    from fourshot.pipeline.synthesis.settings import RunSettings
    from fourshot.pipeline.tasks.task_file import load_task
    from fourshot.serving.models.adapters_folder import add_adapter, add_in_context, preferred_to, warnings_about

    root = options.adapters
    if options.in_context:
        refuse(options, "adapters; a task that is answered in context has no base yet", "base")
        task = load_task(options.source, options.data)
        with terminal.progress() as on_event:
            shots = SHOTS if options.shots is None else options.shots
            settings = RunSettings(k=shots, seed=options.seed or 0, allow_fewer_shots=options.allow_fewer_shots)
            file = add_in_context(root, task, settings, on_event)
        terminal.result("result", {"task": task.name, "file": file})
        terminal.say(f"{task.name}: servers of {root} answer in context until it has an adapter.")
        return
    refuse(options, "a task that is answered in context (--in-context)", "data", "shots", "allow_fewer_shots", "seed")
    card, is_new = add_adapter(root, options.source, options.base)
    for warning in warnings_about(root, card):
        terminal.warn(warning)
    if not is_new:
        terminal.say(f"{card.name} is already there.")
    terminal.result("result", {"adapter": card.name, "task": card.task.name, "folder": root / card.name})
    is_there = f"{card.task.name}: {card.name} is in {root}."
    if reason := preferred_to(root, card):
        terminal.warn(f"{is_there} {reason} To use it: {PIN_IT.format(name=card.name, root=as_word(root))}")
    else:
        terminal.say(f"{is_there} A running server uses it within seconds.")


@command("adapters remove", argument("name", "NAME", "of the adapter, as `list` shows it"), *FOLDER)
def remove(options: Options, terminal: Terminal) -> None:
    """Remove an adapter."""
    from fourshot.serving.models import adapters_folder

    folders = adapters_folder.remove(options.adapters, options.name, options.base)
    terminal.result("result", {"removed": options.name, "folders": folders})
    terminal.say(f"{options.name} was removed.")


@command("adapters pin", argument("name", "NAME", "of the adapter"), *FOLDER)
def pin(options: Options, terminal: Terminal) -> None:
    """Always answer for a task with this version, even if newer ones are added."""
    from fourshot.serving.models import adapters_folder

    task = adapters_folder.pin(options.adapters, options.name, options.base)
    terminal.result("result", {"task": task, "adapter": options.name})
    terminal.say(f"{task} is answered by {options.name} until it is unpinned.")


@command("adapters unpin", argument("task", "TASK", "that was pinned"), ADAPTERS)
def unpin(options: Options, terminal: Terminal) -> None:
    """Let the newest version answer for a task again."""
    from fourshot.serving.models import adapters_folder

    adapters_folder.unpin(options.adapters, options.task)
    terminal.result("result", {"task": options.task})
    terminal.say(f"{options.task} is answered by its newest version.")
