"""`predict`: texts in, labels out, from an adapter here or from a service that has it."""

import sys
from collections.abc import Sequence

import msgspec

from fourshot.cli.console import Terminal
from fourshot.cli.declare import Options, argument, command
from fourshot.engine.errors import InputError


@command(
    "predict",
    argument("adapter", "ADAPTER", "an adapter's folder, or that of a finished run; with --url a task's name"),
    argument("texts", "TEXT", "texts; without any, standard input, one per line", nargs="*"),
    argument("--model", "MODEL", "the base model, where it is not where it was in training"),
    argument("--engine", None, "default: transformers for few texts, vllm for many", choices=["vllm", "transformers"]),
    argument("--url", "ADDRESS", "ask a service (`fourshot serve`), as http://127.0.0.1:8000"),
    argument("--key", "KEY", "of the service; better as FOURSHOT_API_KEY in the environment, in no process list"),
    argument("--method", None, "how the service answers (default: its choice)", choices=["adapter", "icl"]),
)
def predict(options: Options, terminal: Terminal) -> None:
    """Classify texts with a trained adapter."""
    if options.url:
        from fourshot.serving.clients.client import Client

        _refuse(options, "an adapter on this machine; a service (--url) has its own", "model", "engine")
        with Client(options.url, options.key) as client:
            texts = read_texts(options.texts)
            predictions = client.predict(options.adapter, texts, options.method)
        source: dict[str, object] = {"url": client.url, "task": options.adapter}
    else:
        from fourshot.serving.adapter_lookup import find_adapter
        from fourshot.serving.clients.local import LocalClassifier, engine_for

        _refuse(options, "a service (--url)", "key", "method")
        folder = find_adapter(options.adapter)
        texts = read_texts(options.texts)
        kind = options.engine or engine_for(len(texts))
        with terminal.hushed(), LocalClassifier(folder, options.model, kind=kind) as classifier:
            predictions = classifier.predict(texts)
        source = {"adapter": folder}
    for text, prediction in zip(texts, predictions, strict=True):
        terminal.result("prediction", {"text": text, **msgspec.structs.asdict(prediction)})
        shown = " ".join(text.replace("\t", " ").splitlines())  # one line, three columns
        terminal.say(f"{prediction.label}\t{prediction.probability:.3f}\t{shown}")
    terminal.result("result", {**source, "texts": len(texts)})


def _refuse(options: Options, what_for: str, *names: str) -> None:
    if given := [f"--{name}" for name in names if getattr(options, name) is not None]:
        raise InputError(f"{' and '.join(given)} {'are' if len(given) > 1 else 'is'} for {what_for}. Leave it out.")


def read_texts(given: Sequence[str]) -> list[str]:
    """The texts of the command line, else standard input, one per line. Raises `InputError` where there is none."""
    texts = list(given)
    if not texts:
        if sys.stdin.isatty():
            raise InputError("there is nothing to classify. Give texts as arguments, or on standard input, one a line.")
        try:
            texts = sys.stdin.buffer.read().decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"standard input is not UTF-8: {error}. Convert it first.") from error
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise InputError("there is nothing to classify: all texts are blank.")
    return texts
