"""A suite's options, declared once as a struct and parsed from the command line.

    class Options(msgspec.Struct, frozen=True, kw_only=True):
        data: Annotated[Path, "a folder with trec/"]          # --data DATA, required: it has no default
        repeats: Annotated[Positive, "of every cell"] = 3     # --repeats N, at least 1
        tasks: Annotated[tuple[str, ...], "which"] = ("trec",)  # --tasks trec sst2, or --tasks trec,sst2
        no_http: Annotated[bool, "in process only"] = False   # --no-http

A string in the annotation is the option's help. `POSITIONAL` makes the option a positional argument. `REPEATED` lets it
be given several times. `HIDDEN` omits it from the help.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from fourshot.bench.core.roofline import SHAPES
from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import nearest

POSITIONAL, REPEATED, HIDDEN = object(), object(), object()  # REPEATED: values may contain commas
T = TypeVar("T")

Positive = Annotated[int, msgspec.Meta(ge=1)]
Out = Annotated[Path, "where the result goes; .rows.jsonl and, where there is one, a page beside it"]
JsonOut = Annotated[Path | None, "where the JSON goes; without it, standard output"]
Model = Annotated[str | None, "base model; the bundled one if left out"]
Shape = Annotated[str | None, f"a real architecture with random weights, in place of a model: {', '.join(SHAPES)}"]
THREE_TASKS = "a folder with sst2/, trec/ and ag_news/"
ThreeTasks = Annotated[Path, THREE_TASKS]
TaskFolders = Annotated[Path, "a folder with a folder for each task"]


def read_options(kind: type[T], words: Sequence[str], program: str, description: str = "") -> T:
    """Parse ``words`` into the struct ``kind``. Raises InputError for unknown, missing or invalid options."""
    parser = _Parser(prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    hints = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):  # type: ignore[arg-type]
        _add(parser, field, hints[field.name])
    values = {name: value for name, value in vars(parser.parse_args(words)).items() if value is not None}
    if empty := [name for name, value in values.items() if value == "" and _plain(hints[name]) is Path]:
        raise InputError(f"--{empty[0].replace('_', '-')} is empty. Give a path, or leave it out.")
    try:
        return msgspec.convert(values, kind, strict=False, dec_hook=lambda target_type, value: target_type(value))
    except msgspec.ValidationError as error:
        fault, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`").partition("[")[0]
        if choices := _choices(hints.get(name)):
            wrong = next(value for value in values[name] if value not in choices)
            fault = " ".join([f"got {wrong!r}; allowed are {', '.join(choices)}.", nearest(wrong, choices)]).strip()
            raise InputError(f"--{name.replace('_', '-')}: {fault}") from error
        raise InputError(f"--{name.replace('_', '-')} {_as_text(values.get(name))}: {fault.lower()}.") from error


def _add(parser: argparse.ArgumentParser, field: Any, hint: Any) -> None:
    marks = getattr(hint, "__metadata__", ())
    default = None if field.default is msgspec.NODEFAULT else field.default
    text = next((mark for mark in marks if isinstance(mark, str)), "")
    if default not in (None, False, "", ()):
        text += f" (default: {_as_text(default)})"
    arguments: dict[str, Any] = {"help": argparse.SUPPRESS if HIDDEN in marks else text.replace("%", "%%")}
    plain = _plain(hint)
    if plain is bool:
        arguments |= {"action": "store_true", "default": None}
    elif REPEATED in marks:
        arguments["action"] = "append"
    elif get_origin(plain) is tuple:
        arguments |= {"nargs": "+", "action": _ListAction}
    elif get_origin(plain) is Literal:
        arguments["choices"] = get_args(plain)
    name = field.encode_name
    if POSITIONAL in marks:
        parser.add_argument(name, nargs="?" if field.default is not msgspec.NODEFAULT else None, **arguments)
    else:
        required = field.default is msgspec.NODEFAULT
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, required=required, **arguments)


def _plain(hint: Any) -> Any:
    """Return the type ``hint`` without annotations and without None."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
        return _plain(hint)
    return hint


def _choices(hint: Any) -> tuple[str, ...]:
    """Return the allowed items of a tuple of literals, () for other types. argparse checks only single literals."""
    plain = _plain(hint)
    item = get_args(plain)[0] if get_origin(plain) is tuple else None
    return get_args(item) if get_origin(item) is Literal else ()


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


class _ListAction(argparse.Action):
    """Parse values separated by blanks or commas. The option may be given once."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if getattr(namespace, self.dest, None) is not None:
            parser.error(f"{option_string} is given twice. Give all of its values after one")
        setattr(namespace, self.dest, [part.strip() for value in values for part in value.split(",")])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. `{self.prog} --help` shows the options.")


def as_settings(options: Any, *names: str) -> dict[str, Any]:
    """Return the options ``names`` as JSON values, for the settings of a result."""
    return {name: msgspec.to_builtins(getattr(options, name), enc_hook=str) for name in names}
