"""`keys add`, `remove` and `list`: who has access to a server."""

import sys
from pathlib import Path

from fourshot.cli.console import Terminal
from fourshot.cli.declare import Options, argument, command, some_names_in

FILE = argument("file", "FILE", "the key file", type=Path)
NAME = argument("--name", "NAME", "of the key's owner", required=True)
USUAL = "as serve --max-concurrent"  # of a key without a limit of its own
TASKS_HELP = "comma-separated: the only ones it has access to (default: all, and vLLM's routes)"


@command(
    "keys add",
    argument("file", "FILE", "the key file; created if it does not exist", type=Path),
    NAME,
    argument("--tasks", "TASKS", TASKS_HELP, type=some_names_in, default=()),
    argument("--max-concurrent", "N", f"requests at a time (default, or 0: {USUAL})", type=int, default=0),
)
def add(options: Options, terminal: Terminal) -> None:
    """Create a key; it is shown only once."""
    from fourshot.serving.app.keys import add_key

    def show(secret: str) -> None:
        terminal.result("result", {"name": options.name, "key": secret})
        terminal.say(secret)
        sys.stdout.flush()

    add_key(options.file, options.name, options.tasks, options.max_concurrent, show)
    terminal.say(f"This is the only time it is shown; {options.file} holds its hash.")


@command("keys remove", FILE, NAME)
def remove(options: Options, terminal: Terminal) -> None:
    """Remove a key; a running server notices."""
    from fourshot.serving.app.keys import remove_key

    remove_key(options.file, options.name)
    terminal.result("result", {"name": options.name})
    terminal.say(f"The key {options.name!r} was removed.")


@command("keys list", FILE)
def list_keys(options: Options, terminal: Terminal) -> None:
    """List the names of the keys and what they may do."""
    from fourshot.serving.app.keys import read_keys

    keys = read_keys(options.file)
    documents = [
        {"name": key.name, "tasks": key.tasks or None, "max_concurrent": key.max_concurrent or None} for key in keys
    ]
    terminal.result("result", {"keys": documents})
    if keys:
        terminal.table(
            [
                {"name": key.name, "tasks": ", ".join(key.tasks) or "all", "at a time": key.max_concurrent or USUAL}
                for key in keys
            ]
        )
    else:
        terminal.say(f"{options.file} {'contains no key' if options.file.exists() else 'does not exist'}.")
