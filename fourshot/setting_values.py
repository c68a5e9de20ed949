"""Build settings from values that a user gives in a file, as options or in Python. Errors suggest what was meant."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.arguments import OTHERWISE, setting_names
from fourshot.pipeline.settings.earlier_names import EARLIER_NAMES
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.training.lora.settings import TargetModules

SPELLED: dict[Any, str] = {  # type -> how its values are written
    bool: ". Allowed are true and false.",
    int: ". Allowed are whole numbers such as 16.",
    float: ". Allowed are numbers such as 0.5 or 1e-4.",
}


def with_values(settings: RunSettings, values: Mapping[str, Any], source: str) -> RunSettings:
    """Return ``settings`` changed by nested ``values``. Raises `InputError`, which names ``source``."""
    current = msgspec.to_builtins(settings)
    _check_keys(values, current, source)
    try:
        return msgspec.convert(_merged(current, values), RunSettings)
    except msgspec.ValidationError as error:
        message, _, place = str(error).removesuffix(" - at `$`").partition(" - at `$.")
        place = place.rstrip("`")
        named = message.endswith(".") or place in source  # our own messages are sentences, and name the setting
        raise InputError(f"{source}: {message if named else f'{place}: {message}'}{_allowed(place)}") from error


def _check_keys(values: Mapping[str, Any], allowed: Mapping[str, Any], source: str, prefix: str = "") -> None:
    for key, value in values.items():
        if key not in allowed:
            name = prefix + key
            hint = EARLIER_NAMES[name] if name in EARLIER_NAMES else _suggestion(name)
            raise InputError(f"{source}: there is no setting {name!r}. {hint}")
        if isinstance(value, Mapping) and isinstance(allowed[key], Mapping):
            _check_keys(value, allowed[key], source, f"{prefix}{key}.")


def _allowed(place: str) -> str:
    """Return a sentence on the values allowed at ``place``, if these are choices, lists or numbers; else ""."""
    kind = _type_of(place.partition("[")[0]) if place else None
    if kind == TargetModules:
        return """. Allowed are all, and a list of names: '["q_proj", "v_proj"]'."""
    written = ""
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
        written = f""" A list is written '["{get_args(kind)[0]}"]'.""" if get_origin(kind) is Literal else ""
    if get_origin(kind) is Literal:
        return f". Allowed are {', '.join(map(str, get_args(kind)))}.{written}"
    return SPELLED.get(kind, "")


def _suggestion(key: str) -> str:
    last_of = {name: name.rpartition(".")[2] for name in setting_names()}
    if key in last_of:  # in a file, as one key with a dot in it
        return f"Write {key} without quotes around it."
    if (called := OTHERWISE.get(f"--{key.replace('_', '-')}")) in last_of:
        return f"It is called {called!r} in settings."
    groups = {name.partition(".")[0]: name.partition(".")[0] for name in last_of if "." in name}
    last_of |= {} if "." in key else groups
    group, _, setting = key.lower().rpartition(".")
    matches = [name for name in last_of.values() if setting in (name, _initials(name))]
    group_names = [name.rpartition(".")[2] for name in last_of if group and name.startswith(f"{group}.")]
    matches = [name for name in matches if name in group_names] or matches
    for names in (group_names, last_of.values()):  # a name of one letter is near any short word
        matches = matches or difflib.get_close_matches(setting, [name for name in names if len(name) > 1], n=1)
    if matches:
        return f"Did you mean {' or '.join(repr(name) for name, last in last_of.items() if last == matches[0])}?"
    return f"Settings are {', '.join(name for name in last_of if name not in groups)}."


def _initials(name: str) -> str:
    """Return the usual short form of a name of several words, such as lr for learning_rate; "" for one word."""
    words = name.split("_")
    return "".join(word[0] for word in words) if len(words) > 1 else ""


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        are_mappings = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if are_mappings else value
    return merged


def warn_repeated(options: Mapping[str, Any], warn: Callable[[str], object]) -> None:
    """Warn of settings with several values, from `--set` or from `--set` and their own option, and say which counts."""
    values: dict[str, str] = {}
    for assignment in options.get("sets", ()):
        key, _, value = (part.strip() for part in assignment.partition("="))
        if (earlier := values.setdefault(key, value)) != value:
            warn(f"--set {key} is given twice, {earlier!r} and {value!r}: the last counts.")
            values[key] = value
    for key, value in values.items():
        own = options.get(key)
        if own is not None and str(own).casefold() != value.strip("\"'").casefold():
            warn(f"--set {key}={value} is ignored: the setting's own option is {own}.")


def plain(value: Any) -> Any:
    """Return ``value`` with NumPy's numbers as Python's own, also inside lists and dictionaries."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value.item() if getattr(value, "ndim", None) == 0 else value


def nested(key: str, value: Any) -> dict[str, Any]:
    first, dot, rest = key.partition(".")
    return {first: nested(rest, value) if dot else value}


def _type_of(key: str) -> Any:
    kind: Any = RunSettings
    for name in key.split("."):
        kind = get_type_hints(kind)[name]
    return kind
