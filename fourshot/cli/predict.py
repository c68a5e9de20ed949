"""`predict`: texts in, labels out, from an adapter or a student here, or from a service that has it."""

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fourshot.cli.console import Terminal
from fourshot.cli.declare import Options, argument, command, flag
from fourshot.cli.given import refuse
from fourshot.engine.errors import FourshotError, InputError, RequestError
from fourshot.pipeline.events import Event
from fourshot.pipeline.rows.fields import as_given, as_texts
from fourshot.pipeline.rows.text_lists import VISIBLE
from fourshot.pipeline.selective import Refusal
from fourshot.printable import one_line

if TYPE_CHECKING:
    from fourshot.pipeline.card import AdapterCard
    from fourshot.pipeline.student_card import StudentCard
    from fourshot.pipeline.task import Task
    from fourshot.serving.clients.explain import Explanation
    from fourshot.serving.clients.local import Prediction

NO_LABEL = ""  # as in tables; any word may be the name of a class
FOR_LABELS = ("abstain_below", "coverage", "none_of_these")
ARGUMENTS = "abstain_below|none_of_these(?= is not)|coverage(?= both| is a share)"  # as messages name the options
FEW = 50  # texts: with fewer, the threshold for a coverage is uncertain
REASONS = {"unsure": "too unsure", "none_of_these": "unlike the task's texts"}


class Answers(NamedTuple):
    """Predictions for texts, and their source."""

    source: dict[str, object]
    texts: Sequence[str]
    predictions: Sequence["Prediction"]
    task: "Task | None" = None  # None if it is known to the service alone
    explanations: Sequence["Explanation"] = ()  # as many as texts, or none


@command(
    "predict",
    argument("adapter", "ADAPTER", "folder of an adapter, a student or a finished run; with --url a task's name"),
    argument(
        "texts",
        "TEXT",
        "texts, or objects of fields as JSON; without any, or with -, standard input, one per line",
        nargs="*",
    ),
    argument("--model", "MODEL", "the base model, if it has moved since training"),
    argument("--engine", None, "default: transformers for little text, else vllm", choices=["vllm", "transformers"]),
    argument("--url", "ADDRESS", "use a service (`fourshot serve`), such as http://127.0.0.1:8000"),
    argument("--key", "KEY", "of the service; better in FOURSHOT_API_KEY, which no process list shows"),
    argument("--method", None, "how the service answers (default: its choice)", choices=["adapter", "student", "icl"]),
    argument("--abstain-below", "P", "no label if the likeliest one has a probability below P, 0 to 1", type=float),
    argument("--coverage", "C", "label the surest share C of texts, by the curve on the adapter's card", type=float),
    flag("--none-of-these", "no label for texts unlike those of the task"),
    flag("--explain", "show the most similar training texts, and the answers with other wordings of the prompt"),
)
def predict(options: Options, terminal: Terminal) -> None:
    """Classify texts with a trained adapter or a student; or write, with a student of a text generation task."""
    try:
        refusing = msgspec.structs.asdict(Refusal(**{name: getattr(options, name) for name in FOR_LABELS}))
        answers = _ask_service(options, refusing, terminal) if options.url else _ask_here(options, refusing, terminal)
    except FourshotError as error:  # it names arguments of Python, or the fields of a request
        error.args = (re.sub(ARGUMENTS, lambda name: f"--{name[0].replace('_', '-')}", str(error)),)
        raise
    if answers:
        _show(answers, terminal)


def _ask_service(options: Options, refusing: dict[str, Any], terminal: Terminal) -> Answers | None:
    """Query a service. None for a text generation task, of which the written texts are printed here."""
    from fourshot.serving.api import WRITES
    from fourshot.serving.clients.address import without_password
    from fourshot.serving.clients.client import Client

    refuse(options, "an adapter on this machine; a service (--url) has its own", "model", "engine")
    refuse(options, "an adapter on this machine; a service (--url) explains nothing", "explain")
    source = {"url": without_password(options.url), "task": options.adapter}
    with Client(options.url, options.key) as client:
        texts = read_texts(options.texts, terminal)
        try:
            return Answers(source, texts, client.predict(options.adapter, texts, options.method, **refusing))
        except RequestError as error:
            if error.kind != WRITES:
                raise
            from fourshot.cli.text_students import show

            refuse(options, "tasks with labels; this one generates texts", "method", *FOR_LABELS)
            show(texts, client.generate(options.adapter, texts), terminal, source)
            return None


def _ask_here(options: Options, refusing: dict[str, Any], terminal: Terminal) -> Answers | None:
    """Predict on this machine. None for a student of a text generation task, whose texts are printed here."""
    from fourshot.pipeline.student_card import find_student, is_text_student

    refuse(options, "a service (--url)", "key", "method")
    if re.match("https?://", options.adapter):
        raise InputError(f"{options.adapter} is an address. To use a service: --url {options.adapter} TASK [TEXT ...]")
    student = find_student(options.adapter)
    if student is None:
        return _ask_adapter(options, refusing, terminal)
    if not is_text_student(student):
        return _ask_student(student, options, refusing, terminal)
    from fourshot.cli.text_students import write

    refuse(options, "tasks with labels; this student generates texts", "model", "explain", *FOR_LABELS)
    write(student, read_texts(options.texts, terminal), options, terminal)
    return None


def _ask_student(student: Path, options: Options, refusing: dict[str, Any], terminal: Terminal) -> Answers:
    from fourshot.pipeline.student_card import load_student_card
    from fourshot.serving.clients.local import LocalClassifier

    refuse(options, "an adapter; a student has no language model", "model", "engine", "explain")
    card = load_student_card(student)
    texts = _texts_for(card, options, terminal)
    with terminal.hushed(), LocalClassifier(student) as classifier:
        predictions = classifier.predict(texts, **refusing)
    return Answers({"student": student}, texts, predictions, card.task)


def _ask_adapter(options: Options, refusing: dict[str, Any], terminal: Terminal) -> Answers:
    from fourshot.pipeline.card import load_card
    from fourshot.serving.adapter_lookup import find_adapter
    from fourshot.serving.clients.local import LocalClassifier, engine_for

    folder = find_adapter(options.adapter)
    card = load_card(folder)
    texts = _texts_for(card, options, terminal)
    if not options.explain:
        kind = options.engine or engine_for(texts)
        with terminal.hushed(), LocalClassifier(folder, model=options.model, kind=kind) as classifier:
            return Answers({"adapter": folder}, texts, classifier.predict(texts, **refusing), card.task)
    if options.engine == "vllm":
        raise InputError("--explain needs hidden states, which --engine vllm does not provide. Leave --engine out.")
    with terminal.progress() as on_event:  # all training texts are processed
        on_event(Event(stage="explain", message="opening the model"))
        with terminal.hushed():
            classifier = LocalClassifier(folder, model=options.model, kind="transformers")
        with classifier:
            predictions = classifier.predict(texts, **refusing)
            explanations = classifier.explain(texts, on_event)
    return Answers({"adapter": folder}, texts, predictions, card.task, explanations)


def _texts_for(card: "AdapterCard | StudentCard", options: Options, terminal: Terminal) -> list[str]:
    """Return the texts to classify. Warns first where the threshold for a coverage is based on few texts."""
    curve = card.coverage
    if options.coverage is not None and curve and curve.num_texts < FEW:
        texts_of = "texts of the test split" if curve.source == "test split" else "held-out texts"
        terminal.warn(
            f"the threshold for a coverage of {options.coverage} is based on only {curve.num_texts} "
            f"{texts_of}, so the share with a label may differ. --abstain-below P takes a probability instead."
        )
    return as_texts(card.task, read_texts(options.texts, terminal))


def _show(answers: Answers, terminal: Terminal) -> None:
    """Print a line for each text, and for people how many were cut or have no label."""
    source, texts, predictions, task, explanations = answers
    if cut_words := [prediction.cut_words for prediction in predictions if prediction.cut_words]:
        terminal.warn(not_read(len(cut_words), len(texts), sum(cut_words)))
    for text, prediction, explained in zip_longest(texts, predictions, explanations):
        document = {"text": as_given(task, text) if task else text, **msgspec.to_builtins(prediction)}
        terminal.result("prediction", document | ({"explanation": explained} if explained else {}))
        label = NO_LABEL if prediction.label is None else one_line(prediction.label)
        terminal.say(f"{label}\t{prediction.probability:.3f}\t{one_line(text)}")
        if explained:
            terminal.say(_explanation_text(explained))
    abstained = Counter(prediction.abstained for prediction in predictions if prediction.abstained)
    terminal.result("result", {**source, "texts": len(texts), **({"abstained": abstained} if abstained else {})})
    if abstained:
        counted = ", ".join(f"{count} {REASONS[reason]}" for reason, count in abstained.items())
        print(f"fourshot: {abstained.total()} of {len(texts)} texts have no label: {counted}", file=sys.stderr)


def _explanation_text(explained: "Explanation") -> str:
    """Return an explanation for people, indented below its prediction."""
    lines = [
        f"{neighbour.similarity:.2f}\t{neighbour.kind}\t{one_line(neighbour.label)}\t{one_line(neighbour.text)}"
        for neighbour in explained.nearest
    ]
    for wording, reading in explained.wordings.items():
        lines.append(f"wording {wording}\t{one_line(reading.label)}\t{reading.probability:.3f}")
    return "\n".join(f"\t{line}" for line in lines)


def not_read(num_cut: int, texts: int, words: int) -> str:
    """Return a warning on how many texts are longer than the classifier reads, and by how many words."""
    return (
        f"{num_cut:,} of {texts:,} texts {'are' if num_cut > 1 else 'is'} too long for the classifier; "
        f"ignored: {words:,} {'words' if words > 1 else 'word'}."
    )


def doubts_of(arguments: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return warnings on texts that may have been meant as a file of texts or a table."""
    from fourshot.pipeline.tables.types import TEXT_NAMES

    doubts = []
    for text in arguments:
        if PurePath(text).suffix and os.path.isfile(text):  # unlike `Path.is_file`, of any text
            file = shlex.quote(text)
            doubts.append(
                f"{text} is a file, but its name was used as a text. For the lines in it: `fourshot predict ... < "
                f"{file}`; for a table: `fourshot annotate ... --unlabelled {file} --out FILE`."
            )
    first = [cell.strip(' "').casefold() for cell in re.split("[,;\t]", texts[0])] if texts and not arguments else []
    if len(first) > 1 and TEXT_NAMES & {*first}:
        doubts.append(
            f"the first line, {one_line(texts[0])[:60]!r}, looks like the header of a table; each line was "
            "used as a text. For a table: `fourshot annotate ... --unlabelled FILE --out FILE`."
        )
    if texts and not arguments and _is_row(texts[0]):
        doubts.append(
            "each line was used as a text, but the first is an object with a text in it, as in JSON Lines. For such "
            "a file: `fourshot annotate ... --unlabelled FILE --out FILE`."
        )
    return doubts


def _is_row(line: str) -> bool:
    """Whether a line is an object with a key "text", as in JSON Lines; inputs with fields rarely have this key."""
    try:
        return "text" in msgspec.json.decode(line.strip(), type=dict[str, object])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False


def read_texts(arguments: Sequence[str], terminal: Terminal) -> list[str]:
    """Return the texts of the command line, else of standard input, one per line. Raises `InputError` for none.

    Blank ones are left out, and a warning says how many.
    """
    arguments = [] if list(arguments) == ["-"] else arguments
    if "-" in arguments:
        raise InputError("- stands for standard input, but texts are given as well. Leave one of the two out.")
    texts = list(arguments)
    if not texts:
        if sys.stdin.isatty():
            raise InputError(
                "there is nothing to classify. Give texts as arguments or, one per line, on standard input."
            )
        try:
            lines = sys.stdin.buffer.read().decode("utf-8-sig").replace("\r\n", "\n")
            if "\n" not in lines:
                lines = lines.replace("\r", "\n")  # as some editors on a Mac end them
            texts = lines.removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"standard input is not UTF-8: {error}. Convert it first.") from error
    for doubt in doubts_of(arguments, texts):
        terminal.warn(doubt)
    usable = [text.strip() for text in texts if re.search(VISIBLE, text)]
    if not usable:
        raise InputError("there is nothing to classify: all texts are blank.")
    if blank := len(texts) - len(usable):
        terminal.warn(f"{blank} blank {'texts are' if blank > 1 else 'text is'} left out.")
    return usable
