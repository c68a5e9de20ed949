"""What `predict` and the serving commands do. `fourshot` hands them their options and the terminal."""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fourshot.cli.pipeline_parsers import read_texts
from fourshot.cli.serving_parsers import settings_of
from fourshot.engine.errors import AdapterError, InputError
from fourshot.engine.home import home
from fourshot.engine.memory import free_bytes
from fourshot.engine.models import resolve_model
from fourshot.pipeline.card import load_card
from fourshot.serving.adapter_lookup import find_adapter
from fourshot.serving.app import keys
from fourshot.serving.app.admission import check_hash
from fourshot.serving.app.logs import json_line
from fourshot.serving.app.registry import IN_CONTEXT, FolderContents, Registry, StoredAdapter, read_pins, write_pins
from fourshot.serving.app.slots import Fit, fit
from fourshot.serving.clients.local import LocalClassifier, Prediction, engine_for
from fourshot.serving.settings import ServeSettings

if TYPE_CHECKING:
    from fourshot.cli.console import Terminal
    from fourshot.serving.fleet.supervisor import Supervisor

LOCAL = ("127.0.0.1", "localhost", "::1")


def predict(options: argparse.Namespace, terminal: "Terminal") -> int:
    """Classify texts with an adapter here, or ask a service that has it."""
    asked = _ask_service if options.url else _ask_adapter
    texts, predictions, told = asked(options, terminal)
    for text, prediction in zip(texts, predictions, strict=True):
        terminal.result("prediction", {"text": text, **msgspec.structs.asdict(prediction)})
        terminal.say(f"{prediction.label}\t{prediction.probability:.3f}\t{text}")
    terminal.result("result", {**told, "texts": len(texts)})
    return 0


Predicted = tuple[list[str], list[Prediction], dict[str, object]]  # texts, answers, and who gave them


def _ask_adapter(options: argparse.Namespace, terminal: "Terminal") -> Predicted:
    _not_with(options, "a service (--url)", "key", "method")
    folder = find_adapter(options.adapter)
    texts = read_texts(options.texts)
    kind = options.engine or engine_for(len(texts))
    with terminal.hushed(), LocalClassifier(folder, options.model, kind=kind) as classifier:
        return texts, classifier.predict(texts), {"adapter": folder}


def _ask_service(options: argparse.Namespace, terminal: "Terminal") -> Predicted:
    from fourshot.serving.clients.client import Client

    _not_with(options, "an adapter on this machine; a service (--url) has its own", "model", "engine")
    task = options.adapter
    with Client(options.url, options.key) as client:
        texts = read_texts(options.texts)
        return texts, client.predict(task, texts, options.method), {"url": client.url, "task": task}


def _not_with(options: argparse.Namespace, those: str, *names: str) -> None:
    if given := [f"--{name}" for name in names if getattr(options, name) is not None]:
        raise InputError(f"{' and '.join(given)} {'are' if len(given) > 1 else 'is'} for {those}. Leave it out.")


def serve(options: argparse.Namespace, terminal: "Terminal") -> int:
    """Serve until a signal."""
    from fourshot.serving.fleet.supervisor import Supervisor, listen

    settings = settings_of(options)
    if settings.keys:
        keys.Keys(settings.keys)  # a fault in it is told before a model is loaded
    if options.replicas < 1:
        raise InputError(f"--replicas {options.replicas}: give at least 1.")
    settings, _, contents = ready_settings(settings, 1 if options.ray else options.replicas)
    if len(settings.hot) >= settings.max_loras:
        raise InputError(
            f"--hot names {len(settings.hot)} tasks and there are {settings.max_loras} slots; the other tasks, and new "
            "versions, need at least one. Raise --max-loras."
        )
    listening = listen(settings.host, settings.port)
    port = listening.getsockname()[1]
    settings = msgspec.structs.replace(settings, port=port)
    address = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{port}"
    if settings.host not in LOCAL and not settings.keys:
        terminal.warn(
            f"anybody who reaches {settings.host} may ask: there is no key. Make one with `fourshot keys add`."
        )
    log = Path(options.log) if options.log else home() / "logs" / f"serve-{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal.say(f"Starting; log: {log}")

    def say(line: str) -> None:
        print(line if line.startswith("{") else json_line("warning", line), file=sys.stderr, flush=True)

    refused = f", {len(contents.refused)} refused (fourshot adapters list says why)" if contents.refused else ""
    number = len({*contents.tasks, *contents.in_context})
    what = f"{number} task{'s' if number != 1 else ''}{refused}"

    def told_ready() -> None:
        terminal.result("ready", {"address": address, "tasks": contents.tasks, "pid": os.getpid()})
        terminal.say(f"Serving {what} at {address} (Ctrl-C ends it)")
        sys.stdout.flush()

    async def run() -> None:
        ready, stopping = asyncio.Event(), asyncio.Event()
        if options.replicas > 1 or options.ray:
            from fourshot.serving.fleet.replicas import serve_replicas

            work = serve_replicas(settings, listening, options.replicas, options.ray, log, say, ready, stopping)
        else:
            work = _serve_one(Supervisor(settings, listening, log, say), ready, stopping)
        running, waiting = asyncio.create_task(work), asyncio.create_task(ready.wait())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            told_ready()
        waiting.cancel()
        await running

    asyncio.run(run())
    return 0


async def _serve_one(supervisor: "Supervisor", ready: asyncio.Event, stopping: asyncio.Event) -> None:
    async def pass_on() -> None:
        await supervisor.ready.wait()
        ready.set()

    async def stop() -> None:
        await stopping.wait()
        supervisor.stop()

    beside = [asyncio.create_task(pass_on()), asyncio.create_task(stop())]
    try:
        await supervisor.run()
    finally:
        for one in beside:
            one.cancel()


def ready_settings(settings: ServeSettings, replicas: int = 1) -> tuple[ServeSettings, Fit, FolderContents]:
    """``settings`` with everything computed, for each of ``replicas`` that share this machine.

    Raises InputError for a folder that is not there, or what cannot fit.
    """
    base = resolve_model(settings.base)
    contents = Registry(settings.adapters, base).read()
    found = fit(settings, base, contents, free_bytes() // replicas)
    filled = msgspec.structs.replace(
        settings,
        max_loras=found.max_loras,
        max_cpu_loras=found.max_cpu_loras,
        max_lora_rank=found.max_lora_rank,
        kv_cache_bytes=found.kv_cache_bytes,
    )
    return filled, found, contents


def doctor(options: argparse.Namespace, terminal: "Terminal") -> int:
    """What a server of a folder would be started with, and why."""
    _, found, contents = ready_settings(ServeSettings(adapters=options.serve, base=options.model))
    terminal.result("fit", found)
    for what, why in found.lines():
        terminal.say(f"{what:<24}{why}")
    for one in contents.refused:
        terminal.say(f"{'refused':<24}{one.path}: {one.reason}")
    return 0


def adapters_list(options: argparse.Namespace, terminal: "Terminal") -> int:
    """Every adapter in the folder, and what is refused by its card or its place; weights are looked at in serving."""
    contents = Registry(options.adapters, resolve_model(options.base)).read()
    rows = [
        {
            "task": task,
            "adapter": one.name,
            "answers": "pinned" if contents.pins.get(task) == one.name else "yes" if first else "",
            "accuracy": f"{100 * one.card.scores.accuracy:.1f}" if one.card.scores else "",
            "made": time.strftime("%Y-%m-%d %H:%M", time.localtime(one.written_at)),
            "folder": str(one.folder),
        }
        for task in contents.tasks
        for first, one in zip([True] + [False] * len(contents.adapters), contents.versions(task), strict=False)
    ]
    rows += [
        {
            "task": task,
            "adapter": "",
            "answers": "in context",
            "accuracy": "",
            "made": "",
            "folder": f"{task}{IN_CONTEXT}",
        }
        for task in contents.in_context
        if task not in contents.tasks
    ]
    terminal.result("result", {"adapters": rows, "refused": contents.refused})
    if rows:
        terminal.table(rows)
    for fault in contents.refused:
        terminal.say(f"refused: {fault.path}: {fault.reason}")
    if not rows and not contents.refused:
        terminal.say(f"{options.adapters} holds no adapter. Add one: fourshot adapters add ADAPTER --adapters FOLDER")
    return 0


def adapters_add(options: argparse.Namespace, terminal: "Terminal") -> int:
    """Copy an adapter into the folder under its content-hashed name; of a task without one, its examples."""
    root = Path(options.adapters)
    if options.in_context:
        return _add_in_context(options, terminal, root)
    source = find_adapter(options.source)
    card = load_card(source)
    try:
        check_hash(source, card)
    except AdapterError as error:
        raise InputError(f"{source} is not added: {error}") from error
    root.mkdir(parents=True, exist_ok=True)
    final = root / card.name
    if final.exists():
        check_hash(final, card)
        terminal.say(f"{card.name} is there already.")
    else:
        making = Path(tempfile.mkdtemp(dir=root, prefix=".making-"))
        try:
            shutil.copytree(source, making, dirs_exist_ok=True, symlinks=False)
            os.chmod(making, 0o755)
            os.utime(making / "card.json")  # it is the newest now
            os.rename(making, final)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    terminal.result("result", {"adapter": card.name, "task": card.task.name, "folder": final})
    terminal.say(f"{card.task.name}: {card.name} is in {root}. A running server answers with it within seconds.")
    return 0


def _add_in_context(options: argparse.Namespace, terminal: "Terminal", root: Path) -> int:
    from fourshot.pipeline.runs.run import train_pool
    from fourshot.pipeline.tasks.shots import take_shots
    from fourshot.pipeline.tasks.task_file import load_task
    from fourshot.serving.app.registry import InContext, write_in_context

    task = load_task(options.source, options.data)
    shots = take_shots(task, options.shots, options.seed, train=train_pool(task))
    file = write_in_context(root, InContext(task=task, shots=tuple(shots)))
    terminal.result("result", {"task": task.name, "file": file})
    terminal.say(f"{task.name}: answered in context by whoever serves {root}, until it has an adapter.")
    return 0


def adapters_remove(options: argparse.Namespace, terminal: "Terminal") -> int:
    """Take an adapter out of the folder: all copies of it; or what is refused, or answered in context."""
    root = Path(options.adapters)
    contents = Registry(root, resolve_model(options.base)).read()
    folders = [one.folder for one in contents.adapters if one.name == options.name]
    folders += [root / one.path for one in contents.refused if one.path == options.name]
    if options.name in contents.in_context:
        folders.append(root / f"{options.name}{IN_CONTEXT}")
    if not folders:
        names = [
            *(one.name for one in contents.adapters),
            *(one.path for one in contents.refused),
            *contents.in_context,
        ]
        raise InputError(f"there is no {options.name!r} in {root}. There are: {', '.join(names) or 'none'}.")
    for folder in folders:
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
            continue
        going = folder.with_name(f".going-{folder.name}")
        os.rename(folder, going)  # at once for a server that looks at this moment
        shutil.rmtree(going)
    terminal.result("result", {"removed": options.name, "folders": folders})
    terminal.say(f"{options.name} is gone.")
    return 0


def adapters_pin(options: argparse.Namespace, terminal: "Terminal") -> int:
    """Keep a task to one version."""
    one, root = _named(options), Path(options.adapters)
    write_pins(root, {**read_pins(root), one.card.task.name: one.name})
    terminal.result("result", {"task": one.card.task.name, "adapter": one.name})
    terminal.say(f"{one.card.task.name} is answered by {one.name} until it is unpinned.")
    return 0


def adapters_unpin(options: argparse.Namespace, terminal: "Terminal") -> int:
    """Let the newest version of a task answer again."""
    root = Path(options.adapters)
    pins = read_pins(root)
    if options.task not in pins:
        raise InputError(f"{options.task!r} is not pinned. Pinned are: {', '.join(pins) or 'none'}.")
    write_pins(root, {task: name for task, name in pins.items() if task != options.task})
    terminal.result("result", {"task": options.task})
    terminal.say(f"{options.task} is answered by its newest version.")
    return 0


def _named(options: argparse.Namespace) -> StoredAdapter:
    found = {one.name: one for one in Registry(options.adapters, resolve_model(options.base)).read().adapters}
    if options.name not in found:
        known = ", ".join(found) or "none"
        raise InputError(f"there is no adapter {options.name!r} in {options.adapters}. There are: {known}.")
    return found[options.name]


def keys_add(options: argparse.Namespace, terminal: "Terminal") -> int:
    """Make a key and show it, once."""
    tasks = tuple(task.strip() for task in options.tasks.split(",") if task.strip())
    secret = keys.add_key(Path(options.file), options.name, tasks, options.max_concurrent)
    terminal.result("result", {"name": options.name, "key": secret})
    terminal.say(f"{secret}\nThis is the only time it is shown; {options.file} holds its hash.")
    return 0


def keys_remove(options: argparse.Namespace, terminal: "Terminal") -> int:
    """Take a key away."""
    keys.remove_key(Path(options.file), options.name)
    terminal.result("result", {"name": options.name})
    terminal.say(f"The key {options.name!r} is gone.")
    return 0


def keys_list(options: argparse.Namespace, terminal: "Terminal") -> int:
    """The keys of a file, by name."""
    known = keys.read_keys(Path(options.file))
    rows = [
        {"name": key.name, "tasks": ", ".join(key.tasks) or "all", "at a time": key.max_concurrent or "the limit"}
        for key in known
    ]
    terminal.result("result", {"keys": rows})
    if rows:
        terminal.table(rows)
    else:
        terminal.say(f"{options.file} holds no key.")
    return 0


COMMANDS = {
    "predict": predict,
    "serve": serve,
    "adapters_list": adapters_list,
    "adapters_add": adapters_add,
    "adapters_remove": adapters_remove,
    "adapters_pin": adapters_pin,
    "adapters_unpin": adapters_unpin,
    "keys_add": keys_add,
    "keys_remove": keys_remove,
    "keys_list": keys_list,
}
