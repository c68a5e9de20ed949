"""`predict`: texts in, labels out, from an adapter or a student here, or from a service that has it."""

import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import msgspec

from fourshot.cli.console import Terminal
from fourshot.cli.declare import Options, argument, command, flag
from fourshot.cli.given import refuse
from fourshot.engine.errors import InputError, RequestError
from fourshot.pipeline.events import Event, ignore
from fourshot.pipeline.rows.fields import as_given, as_texts
from fourshot.pipeline.selective import Refusal
from fourshot.printable import one_line

if TYPE_CHECKING:
    from fourshot.pipeline.task import Task
    from fourshot.serving.clients.explain import Explanation

NO_LABEL = ""  # as in tables; any word may be the name of a class
FOR_LABELS = ("abstain_below", "coverage", "none_of_these")
FEW = 50  # texts that a threshold comes from
REASONS = {"unsure": "too unsure", "none_of_these": "unlike the task's texts"}


@command(
    "predict",
    argument("adapter", "ADAPTER", "folder of an adapter, a student or a finished run; with --url a task's name"),
    argument(
        "texts",
        "TEXT",
        "texts, or objects of fields as JSON; without any, or as -, standard input, one per line",
        nargs="*",
    ),
    argument("--model", "MODEL", "the base model, if it has moved since training"),
    argument("--engine", None, "default: transformers for little text, else vllm", choices=["vllm", "transformers"]),
    argument("--url", "ADDRESS", "ask a service (`fourshot serve`), as http://127.0.0.1:8000"),
    argument("--key", "KEY", "of the service; better as FOURSHOT_API_KEY in the environment, in no process list"),
    argument("--method", None, "how the service answers (default: its choice)", choices=["adapter", "student", "icl"]),
    argument("--abstain-below", "P", "no label where the likeliest one is less probable than P, 0 to 1", type=float),
    argument("--coverage", "C", "label the surest share C of texts, by the curve on the adapter's card", type=float),
    flag("--none-of-these", "no label for texts unlike those of the task"),
    flag("--explain", "show the most similar texts of the training, and what other wordings of the prompt answer"),
)
def predict(options: Options, terminal: Terminal) -> None:
    """Classify texts with a trained adapter or a student; or write, with a student of a text generation task."""
    refusal = Refusal(**{name: getattr(options, name) for name in Refusal.__struct_fields__})
    refusing = msgspec.structs.asdict(refusal)
    explanations: list[Explanation] = []
    task: Task | None = None
    if options.url:
        from fourshot.serving.api import WRITES
        from fourshot.serving.clients.client import Client

        refuse(options, "an adapter on this machine; a service (--url) has its own", "model", "engine")
        refuse(options, "an adapter on this machine; a service (--url) explains nothing", "explain")
        with Client(options.url, options.key) as client:
            texts = read_texts(options.texts, terminal)
            try:
                predictions = client.predict(options.adapter, texts, options.method, **refusing)
            except RequestError as error:
                if error.kind != WRITES:
                    raise
                from fourshot.cli.text_students import show

                refuse(options, "tasks with labels; this one writes texts", "method", *FOR_LABELS)
                written = client.generate(options.adapter, texts)
                show(texts, written, terminal, {"url": client.url, "task": options.adapter})
                return
        source: dict[str, object] = {"url": client.url, "task": options.adapter}
    else:
        from fourshot.pipeline.card import load_card
        from fourshot.pipeline.student_card import find_student, is_text_student, load_student_card
        from fourshot.serving.adapter_lookup import find_adapter
        from fourshot.serving.clients.local import LocalClassifier, engine_for

        refuse(options, "a service (--url)", "key", "method")
        if re.match("https?://", options.adapter):
            raise InputError(
                f"{options.adapter} is an address. To ask a service: --url {options.adapter} TASK [TEXT ...]"
            )
        student = find_student(options.adapter)
        if student and is_text_student(student):
            from fourshot.cli.text_students import write

            refuse(options, "tasks with labels; this student writes texts", "model", "explain", *FOR_LABELS)
            write(student, read_texts(options.texts, terminal), options, terminal)
            return
        if student:
            refuse(options, "an adapter; a student has no language model", "model", "engine", "explain")
        folder = student or find_adapter(options.adapter)
        card = load_student_card(student) if student else load_card(folder)
        task, curve = card.task, card.coverage
        if options.coverage is not None and curve and curve.num_texts < FEW:
            texts_of = "texts of the test split" if curve.source == "test split" else "held-out texts"
            terminal.warn(
                f"the threshold for a coverage of {options.coverage} comes from {curve.num_texts} {texts_of}, which is "
                "few: another share may get a label. --abstain-below P takes a probability instead."
            )
        texts = as_texts(task, read_texts(options.texts, terminal))
        if options.explain and options.engine == "vllm":
            raise InputError("--explain reads hidden states, which --engine vllm does not give. Leave --engine out.")
        kind = "transformers" if options.explain else options.engine or engine_for(texts)
        opened = {} if student else {"model": options.model, "kind": kind}
        # Of what explains, the progress is shown: it reads all that the adapter was trained on.
        with terminal.progress() if options.explain else nullcontext(ignore) as on_event:
            on_event(Event(stage="explain", message="opening the model"))
            with terminal.hushed():
                classifier = LocalClassifier(folder, **opened)
            with nullcontext() if options.explain else terminal.hushed(), classifier:
                predictions = classifier.predict(texts, **refusing)
                explanations = classifier.explain(texts, on_event) if options.explain else []
        source = {"student" if student else "adapter": folder}
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
    """For people, indented below the prediction."""
    lines = [
        f"{neighbour.similarity:.2f}\t{neighbour.kind}\t{one_line(neighbour.label)}\t{one_line(neighbour.text)}"
        for neighbour in explained.nearest
    ]
    for wording, reading in explained.wordings.items():
        lines.append(f"wording {wording}\t{one_line(reading.label)}\t{reading.probability:.3f}")
    return "\n".join(f"\t{line}" for line in lines)


def not_read(num_cut: int, texts: int, words: int) -> str:
    """For people: how much of what was asked about is longer than the classifier reads."""
    return (
        f"{num_cut:,} of {texts:,} texts {'are' if num_cut > 1 else 'is'} longer than the classifier reads: {words:,} "
        f"{'words' if words > 1 else 'word'} of {'them' if num_cut > 1 else 'it'} did not count."
    )


def doubts_of(arguments: Sequence[str], texts: Sequence[str]) -> list[str]:
    """For people: what was given as a text, and may be a file of texts or a table."""
    from fourshot.pipeline.tables.types import TEXT_NAMES

    doubts = []
    for text in arguments:
        if len(text) < 256 and "\0" not in text and PurePath(text).suffix and Path(text).is_file():
            file = shlex.quote(text)
            doubts.append(
                f"{text} is a file, and its name was taken for a text. For the lines in it: `fourshot predict ... < "
                f"{file}`; for a table: `fourshot annotate ... --unlabelled {file} --out FILE`."
            )
    first = [cell.strip(' "').casefold() for cell in re.split("[,;\t]", texts[0])] if texts and not arguments else []
    if len(first) > 1 and TEXT_NAMES & {*first}:
        doubts.append(
            f"the first line, {one_line(texts[0])[:60]!r}, looks like the names of a table's columns; each line was "
            "taken for a text. For a table: `fourshot annotate ... --unlabelled FILE --out FILE`."
        )
    if texts and not arguments and _is_row(texts[0]):
        doubts.append(
            "each line was taken for a text, and the first is an object with a text in it, as in JSON Lines. For such "
            "a file: `fourshot annotate ... --unlabelled FILE --out FILE`."
        )
    return doubts


def _is_row(line: str) -> bool:
    """Whether a line is one of JSON Lines with texts; inputs of fields are objects, too, and seldom have such a one."""
    try:
        return "text" in msgspec.json.decode(line.strip(), type=dict[str, object])
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False


def read_texts(arguments: Sequence[str], terminal: Terminal) -> list[str]:
    """The texts of the command line, else standard input, one per line. Raises `InputError` where there is none.

    Blank ones are left out, and counted.
    """
    if list(arguments) == ["-"]:
        arguments = []
    if "-" in arguments:
        raise InputError("- stands for standard input, and texts are given beside it. Leave one of the two out.")
    texts = list(arguments)
    if not texts:
        if sys.stdin.isatty():
            raise InputError("there is nothing to classify. Give texts as arguments, or on standard input, one a line.")
        try:
            lines = sys.stdin.buffer.read().decode("utf-8-sig").replace("\r\n", "\n")
            if "\n" not in lines:
                lines = lines.replace("\r", "\n")  # as some editors on a Mac end them
            texts = lines.removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"standard input is not UTF-8: {error}. Convert it first.") from error
    for doubt in doubts_of(arguments, texts):
        terminal.warn(doubt)
    usable = [text.strip() for text in texts if text.strip()]
    if not usable:
        raise InputError("there is nothing to classify: all texts are blank.")
    if blank := len(texts) - len(usable):
        terminal.warn(f"{blank} blank {'texts are' if blank > 1 else 'text is'} left out.")
    return usable
