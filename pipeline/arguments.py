"""Check the arguments of the public functions against their annotations.

An argument of another type is thus reported at once, not by an error from inside the library. Importing this module
loads no heavy library.
"""

import collections.abc
import functools
import inspect
import math
import numbers
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, Literal, ParamSpec, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

import msgspec

from fourshot.engine.errors import FourshotError, InputError
from fourshot.pipeline.faults import nearest

P = ParamSpec("P")
R = TypeVar("R")
MOST_CHARS = 60  # of what was given, in a message
# Command-line options -> argument or setting in Python, where the names differ.
OTHERWISE = {
    "--out": "folder",
    "--data": "data_folder",
    "--teacher": "by",
    "--engine": "kind",
    "--shots": "k",
    "--candidates-per-draw": "generate.keep_likelier_of",
    "--loss": "train.loss",
}
IN_PYTHON = "In Python:"
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "True or False", Path: "a path"}
WORDS |= {type(None): "None", dict: "a dictionary"}


def checked_but(*exempt: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: the function raises InputError for arguments of undeclared types, unknown or missing ones.

    NumPy's numbers and strings are passed on as Python's own, sequences of them as lists. The function itself checks
    the parameters ``exempt``. If its errors name command-line options, they get a note with the names in Python.
    """

    def check(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        rest = next(
            (parameter.name for parameter in signature.parameters.values() if parameter.kind is parameter.VAR_KEYWORD),
            "",
        )
        name = function.__qualname__.removesuffix(".__init__").removesuffix(".__new__").removeprefix("Local")

        @functools.lru_cache(maxsize=1)
        def hints() -> tuple[dict[str, Any], bool]:
            """Return the annotations of all parameters and keys of an unpacked TypedDict, and whether these are all."""
            known = {name: hint for name, hint in get_type_hints(function).items() if name != "return"}
            others = known.pop(rest, None)
            is_typed = get_origin(others) is Unpack
            return known | (get_type_hints(get_args(others)[0]) if is_typed else {}), is_typed or not rest

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            known, is_all = hints()
            strange = next((key for key in kwargs if key not in known), "") if is_all else ""
            try:
                if strange:
                    raise TypeError(f"got an unexpected keyword argument {strange!r}")
                given = signature.bind(*args, **kwargs)
            except TypeError as error:
                remedy = nearest(strange, known, f"It takes {', '.join(known)}.")
                raise InputError(f"{name}: {error}. {remedy}") from None
            for arguments in (given.arguments, given.arguments.get(rest, {})):
                for key in arguments.keys() & known.keys() - {*exempt}:
                    arguments[key] = fitting(f"{name}: {key}", arguments[key], known[key])
            try:
                return function(*given.args, **given.kwargs)
            except FourshotError as error:
                if words := in_python(str(error), known):  # the note of the outermost function replaces others
                    inner = [note for note in getattr(error, "__notes__", ()) if not note.startswith(IN_PYTHON)]
                    error.__notes__ = [*inner, words]
                raise

        return wrapped

    return check


checked = checked_but()


def in_python(message: str, parameters: Iterable[str]) -> str:
    """Return a line with the Python names of the options that occur in ``message``; "" where none does.

    Messages are written for the command line, where most people see them.
    """
    words = []
    for flag in dict.fromkeys(_FLAG.findall(message)):
        name = flag.removeprefix("--").replace("-", "_")
        name = name if name in parameters else OTHERWISE.get(flag, name)
        if name in parameters:
            words.append(f"{flag} is the argument {name}")
        elif setting := next((key for key in setting_names() if name in (key, key.rpartition(".")[2])), ""):
            words.append(f"{flag} is settings.{setting}")
    return f"{IN_PYTHON} {', '.join(words)}." if words else ""


@functools.cache
def setting_names() -> list[str]:
    """Return the dotted names of all settings in `RunSettings`."""
    from fourshot.pipeline.synthesis.settings import RunSettings

    def names(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for key, value in fields.items():
            yield from names(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]

    return [*names(msgspec.to_builtins(RunSettings()))]


def fitting(what: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the type that ``hint`` declares. Raises InputError, which calls it ``what``, if it is none.

    A blank string is not accepted as a path.
    """
    fitted = _fitted(value, hint)
    if Path in get_args(hint) and isinstance(fitted, str) and not fitted.strip():  # it would be the current folder
        raise InputError(f"{what} is blank. Give {allowed(hint)} that is not blank.")
    if fitted is _NOTHING:
        put = " Put it in a list." if isinstance(value, str) and _fitted([value], hint) is not _NOTHING else ""
        shown = " ".join(f"{value!r:.{MOST_CHARS}}".split())
        raise InputError(f"{what} is {shown}, of the type {type(value).__name__}. Give {allowed(hint)}.{put}")
    return fitted


_NOTHING = object()  # marks a value that does not fit: None may be valid


def _fitted(value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if hint in (Any, object) or isinstance(hint, TypeVar):
        return value
    if origin in (Union, types.UnionType):
        return next((fitted for kind in get_args(hint) if (fitted := _fitted(value, kind)) is not _NOTHING), _NOTHING)
    if origin is Literal:
        return str(value) if isinstance(value, str) and value in get_args(hint) else _NOTHING
    if origin is collections.abc.Callable:
        return value if callable(value) else _NOTHING
    if origin in (collections.abc.Sequence, collections.abc.Iterable, list, tuple):
        return _list_of(value, get_args(hint)[0])
    if hint is bool:
        return bool(value) if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool") else _NOTHING
    if hint is int:
        return int(value) if _is(value, numbers.Integral) else _NOTHING
    if hint is float:
        return _number(value) if _is(value, numbers.Real) and not math.isnan(value) else _NOTHING
    if hint is str:
        return (value if type(value) is str else str(value)) if isinstance(value, str) else _NOTHING
    if hint is Path and isinstance(value, os.PathLike):
        return value if isinstance(value, PurePath) else Path(value)
    kind = origin or hint
    return value if not isinstance(kind, type) or isinstance(value, kind) else _NOTHING


def _is(value: Any, kind: type) -> bool:
    """Whether ``value`` is a number of that kind, and not a bool, which is one for Python."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _number(value: Any) -> Any:
    """Return a Python number unchanged, since 1 and 1.0 are written differently; any other as a float."""
    return value if type(value) in (int, float) else float(value)


def _list_of(value: Any, hint: Any) -> Any:
    is_one = isinstance(value, str | bytes | Mapping) or getattr(value, "ndim", 1) != 1  # a table yields names
    if is_one or not isinstance(value, Iterable):
        return _NOTHING
    items = [_fitted(item, hint) for item in value]
    return _NOTHING if any(item is _NOTHING for item in items) else items


def allowed(hint: Any) -> str:
    """Describe what an annotation allows, for messages."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        words = [allowed(kind) for kind in sorted(get_args(hint), key=lambda kind: kind is type(None))]
        return f"{', '.join(words[:-1])} or {words[-1]}"
    if origin is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if origin is collections.abc.Callable:
        return "a function"
    if origin in (collections.abc.Sequence, collections.abc.Iterable, list, tuple):
        return f"a list, of which each is {allowed(get_args(hint)[0])}"
    kind = origin or hint
    return WORDS.get(kind) or f"a {getattr(kind, '__name__', kind)}"
