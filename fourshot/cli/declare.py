"""Declare commands next to their actions: the words of the command, its help and its arguments.

Importing this module loads the standard library and msgspec alone.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

import msgspec

from fourshot.cli.console import Terminal
from fourshot.cli.given import wrong_dash, wrong_start
from fourshot.printable import harmless

Options = argparse.Namespace
Action = Callable[[Options, Terminal], int | None]  # returns the exit code; None is 0, done
GROUPS = {  # first word of the commands that have two -> what they are about
    "tasks": "List, make and check tasks.",
    "adapters": "Manage the adapters' folder of a server.",
    "keys": "Manage the API keys of a server.",
}


class Argument(NamedTuple):
    """The parameters of `ArgumentParser.add_argument`, and the heading above it in the help."""

    name: str
    settings: dict[str, Any]
    heading: str = ""


class Command(NamedTuple):
    """One command; its name is the last of ``words``."""

    words: str
    about: str
    arguments: tuple[Argument, ...]
    defaults: dict[str, Any]  # options that the action gets without an argument of the user
    parser: Mapping[str, Any]  # further parameters of `add_parser`


KINDS = {  # name of an option's type -> what is allowed
    "int": "a whole number, such as 4",
    "float": "a number, such as 0.5",
    "mebibytes": "a whole number of MiB, such as 512",
}
COMMANDS: list[Command] = []  # in the order of the help


def argument(name: str, metavar: str | None, help_text: str, **settings: Any) -> Argument:
    """Return an argument for argparse, whose help states a default."""
    default_note = " (default: %(default)s)" if settings.get("default") else ""
    return Argument(name, {"metavar": metavar, "help": help_text + default_note, **settings})


def flag(name: str, help_text: str) -> Argument:
    """Return an option without a value."""
    return Argument(name, {"action": "store_true", "help": help_text})


PLAN = flag("--plan", "measure this machine and print a forecast, without doing the work")
MODEL = argument(
    "--model", "MODEL", "base: a Hugging Face id, also ID@REVISION, a folder or a GGUF file (default: the bundled one)"
)


def command(
    words: str, *arguments: Argument, about: str = "", parser: Mapping[str, Any] | None = None, **defaults: Any
) -> Callable[[Action], Action]:
    """Return a decorator that makes a function a command, with the options of all commands; usable several times.

    ``about`` defaults to the first line of the function's docstring. ``parser``: further parameters of `add_parser`.
    ``defaults``: options that the function gets without an argument of the user.
    """
    common = (flag("--json", "print JSON Lines, and nothing else, on standard output"), flag("--quiet", "no progress"))

    def add(action: Action) -> Action:
        text = about or (action.__doc__ or "").partition("\n")[0]
        COMMANDS.append(Command(words, text, (*common, *arguments), defaults | {"action": action}, parser or {}))
        return action

    return add


def setting(
    defaults: msgspec.Struct,
    key: str,
    metavar: str = "N",
    option: str = "",
    spelled: Mapping[str, str] = MappingProxyType({}),
) -> Argument:
    """Return an option for a field of ``defaults``: its type, its default, and the comment behind it as the help.

    ``key`` is dotted where the field is in a nested struct. The parsed option has it as its name, and the value None
    where it is not given. ``spelled``: value on the command line -> value of the field, where they differ.
    """
    *path, name = key.split(".")
    for step in path:
        defaults = getattr(defaults, step)
    default, kind = getattr(defaults, name), get_type_hints(type(defaults))[name]
    settings = {"dest": key, "help": _comments(type(defaults))[name]}
    option = option or f"--{name.replace('_', '-')}"
    if kind is bool:
        return Argument(option, {"action": "store_const", "const": True, **settings})
    words = {value: word for word, value in spelled.items()}
    if default != "":
        settings["help"] += f" (default: {words.get(default, default)})"
    if get_origin(kind) is Literal:
        choices = [words.get(value, value) for value in get_args(kind)]
        return Argument(option, {"type": type(choices[0]), "choices": choices, **settings})
    return Argument(option, {"type": kind, "metavar": metavar, **settings})


@cache
def _comments(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return the comments behind the fields of ``struct`` in its source file, by field."""
    source = Path(str(sys.modules[struct.__module__].__file__)).read_text(encoding="utf-8")
    body = source.partition(f"\nclass {struct.__name__}(")[2].partition("\n\n\n")[0]
    return dict(re.findall(r"^    (\w+): .*?  # (.+)$", body, re.MULTILINE))


def overrides(options: Options, struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the fields of ``struct`` to which ``options`` give values; the others keep their defaults."""
    values = vars(options)
    return {name: values[name] for name in struct.__struct_fields__ if values.get(name) is not None}


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def some_names_in(text: str) -> tuple[str, ...]:
    """Return `names_in`; raise ArgumentTypeError for none: an unset variable of a script must not lift a limit."""
    names = names_in(text)
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} contains no name. Give one or more, or leave the option out.")
    return names


def read_command(words: Sequence[str], version: str) -> Options:
    """Return the parsed command line, whose ``action`` executes the command.

    Raises SystemExit for help and usage errors; the latter are printed, with --json also as a line of JSON.
    Raises OSError where help cannot be written.
    """
    try:
        return _read(words, version)
    except UsageError as error:
        print(harmless(error.shown), file=sys.stderr)
        own_words = takewhile(lambda word: word != "--", words[1:])  # after --, words are texts
        with Terminal(json="--json" in own_words) as terminal, suppress(OSError):  # its reader may be gone
            terminal.result("error", {"error": "InputError", "message": str(error), "exit_code": 2})
        raise SystemExit(2) from None


def _read(words: Sequence[str], version: str) -> Options:
    """As `read_command`; raises UsageError for usage errors."""
    parser = _parser(version)
    flags = {argument.name for declared in COMMANDS for argument in declared.arguments}
    if wrong := wrong_dash(words, flags) or wrong_start(words, flags):
        parser.error(wrong)
    options, extra = parser.parse_known_args(words or ["--help"])
    options.words = words
    if hasattr(options, "texts"):  # argparse takes no more positional arguments after an option
        end = [*extra, "--"].index("--")
        options.texts += [*(word for word in extra[:end] if not word.startswith("-")), *extra[end + 1 :]]
        extra = [word for word in extra[:end] if word.startswith("-")]
    if extra:
        options.parser.error(f"unrecognized arguments: {' '.join(extra)}")
    return options


def _parser(version: str) -> argparse.ArgumentParser:
    parser = SuggestingParser(
        prog="fourshot", description="Four labelled examples per class in, a LoRA text classifier out."
    )
    parser.add_argument("--version", action="version", version=f"fourshot {version}")
    places = {"": parser.add_subparsers(metavar="COMMAND", required=True)}
    for declared in COMMANDS:
        group, _, name = declared.words.rpartition(" ")
        if group not in places:
            parent = places[""].add_parser(group, help=_clause(GROUPS[group]), description=GROUPS[group])
            places[group] = parent.add_subparsers(metavar="COMMAND", required=True)
        about = declared.about
        added = places[group].add_parser(name, help=_clause(about), description=about, **declared.parser)
        headings: dict[str, Any] = {"": added}
        for name, settings, heading in declared.arguments:
            if heading not in headings:
                headings[heading] = added.add_argument_group(heading)
            headings[heading].add_argument(name, **settings)
        added.set_defaults(parser=added, **declared.defaults)
    return parser


def _clause(sentence: str) -> str:
    first = sentence[0] if sentence[1].isupper() else sentence[0].lower()  # "API" stays as it is
    return (first + sentence[1:]).removesuffix(".")


class UsageError(Exception):
    """A fault in a command line. ``shown``: the message for people, with the command and a reference to its help."""

    def __init__(self, message: str, shown: str) -> None:
        super().__init__(message)
        self.shown = shown


class SuggestingParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors suggest what was meant. Python 3.14 has the similar ``suggest_on_error``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        # Every occurrence of an argument on the command line, with its values.
        self.occurrences: list[tuple[argparse.Action, list[str]]] = []

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Record the occurrence. Called by argparse for each."""
        self.occurrences.append((action, arg_strings))
        return super()._get_values(action, arg_strings)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or the version. Called by argparse, whose own method would ignore that they cannot be written."""
        print(message, end="", file=file or sys.stderr, flush=True)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the message, what is allowed, and near matches."""
        options = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        suggestions = [
            match
            for word in re.findall(r"(?<![\w-])--?[\w-]+", message.partition("unrecognized arguments: ")[2])
            for match in difflib.get_close_matches(word, options, n=2)
        ]
        if wrong := re.match(r"argument ([^:]+): invalid choice: '([^']*)'", message):
            at = [action for action in self._actions if wrong[1] in (action.metavar, "/".join(action.option_strings))]
            choices = [str(choice) for action in at for choice in action.choices or ()]
            suggestions += difflib.get_close_matches(wrong[2], choices, n=2, cutoff=0.5)
        hint = f". Did you mean {' or '.join(dict.fromkeys(suggestions))}?" if suggestions else ""
        if (wrong := re.search(r": invalid (\w+) value: ", message)) and (kind := KINDS.get(wrong[1])):
            hint = f". Give {kind}."
        raise UsageError(f"{message}{hint}", f"{self.prog}: {message}{hint}\nSee {self.prog} --help.")
