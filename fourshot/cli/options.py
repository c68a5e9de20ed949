"""`RunSettings` from what a user gives: a preset, a settings file, ``--set key=value``, and options, in this order.

Options carry no defaults of their own: types, choices, defaults and help are read off `RunSettings`.
Importing this module loads neither torch nor vllm.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from fourshot.cli.declare import Argument, Options, argument, setting
from fourshot.engine.errors import InputError
from fourshot.pipeline.earlier_names import EARLIER_NAMES
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
from fourshot.training.lora.settings import TargetModules

SPELLED: dict[Any, str] = {  # of a type: how its values are written
    bool: ". Allowed are true and false.",
    int: ". Allowed are whole numbers such as 16.",
    float: ". Allowed are numbers such as 0.5 or 1e-4.",
}


class Option(NamedTuple):
    """A setting that has an option of its own on the command line."""

    flag: str
    key: str  # of the setting, dotted
    metavar: str = "N"
    spelled: Mapping[str, str] = {}  # what the option says -> the setting's value, where they differ


OPTIONS = (
    Option("--shots", "k", "K"),
    Option("--seed", "seed", "S"),
    Option("--prompt-style", "prompt_style"),
    Option("--long-texts", "long_texts"),
    Option("--per-class", "generate.per_class"),
    Option("--candidates-per-draw", "generate.keep_likelier_of"),
    Option("--annotator", "annotate.annotator"),
    Option("--confidence", "annotate.confidence", "P"),
    Option("--loss", "train.loss", spelled={"full": "text"}),
    Option("--allow-short", "allow_short"),
    Option("--allow-fewer-shots", "allow_fewer_shots"),
    Option("--test-limit", "test_limit"),
)


def settings_options(without: Sequence[str] = (), preset: str = "default") -> list[Argument]:
    """An option for every entry of `OPTIONS` but those named in ``without``, and the ways to set the rest.

    ``preset``: what settings start from unless the user says otherwise.
    """
    listed = [
        argument("--preset", None, "what all settings start from", choices=list(PRESETS), default=preset),
        argument("--settings", "FILE", "TOML file with settings, over the preset"),
        argument("--set", "KEY=VALUE", "any setting: --set train.r=16", dest="sets", action="append", default=[]),
    ]
    for flag, key, metavar, spelled in OPTIONS:
        if flag not in without:
            listed.append(setting(PRESETS[preset], key, metavar, flag, spelled))
    return [option._replace(heading="settings") for option in listed]


def settings_of(options: Options) -> RunSettings:
    """The settings that parsed ``options`` say. Raises `InputError` that names the file or option at fault."""
    settings = PRESETS[options.preset]
    if options.settings:
        settings = with_file(settings, Path(options.settings))
    for assignment in options.sets:
        key, sign, value = assignment.partition("=")
        if not sign:
            raise InputError(f"--set {assignment}: expected KEY=VALUE, such as train.r=16.")
        settings = with_values(settings, nested(key.strip(), _toml_value(value.strip())), f"--set {assignment}")
    for flag, key, _, spelled in OPTIONS:
        if (value := getattr(options, key, None)) is not None:
            settings = with_values(settings, nested(key, spelled.get(value, value)), f"{flag} {value}")
    return settings


def with_file(settings: RunSettings, file: Path) -> RunSettings:
    """``settings`` with those of a TOML file put over them. Raises `InputError`."""
    try:
        document = tomllib.loads(file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    except OSError as error:
        raise InputError(f"the settings file {file} cannot be read: {error.strerror}. Name a TOML file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the settings file {file} is not UTF-8: {error}. Save it as UTF-8.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"the settings file {file} is not valid TOML: {error}.") from error
    return with_values(settings, document, str(file))


def with_values(settings: RunSettings, values: Mapping[str, Any], source: str) -> RunSettings:
    """``settings`` with nested ``values`` put over them; ``source`` is what an error names. Raises `InputError`."""
    current = msgspec.to_builtins(settings)
    _check_keys(values, current, source)
    try:
        return msgspec.convert(_merged(current, values), RunSettings)
    except msgspec.ValidationError as error:
        message, _, place = str(error).removesuffix(" - at `$`").partition(" - at `$.")
        place = place.rstrip("`")
        named = message.endswith(".") or place in source  # sentences of ours name the setting
        raise InputError(f"{source}: {message if named else f'{place}: {message}'}{_allowed(place)}") from error


def flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every setting in a nested document."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_keys(values: Mapping[str, Any], allowed: Mapping[str, Any], source: str, prefix: str = "") -> None:
    for key, value in values.items():
        if key not in allowed:
            name = prefix + key
            hint = EARLIER_NAMES[name] if name in EARLIER_NAMES else _suggestion(name)
            raise InputError(f"{source}: there is no setting {name!r}. {hint}")
        if isinstance(value, Mapping) and isinstance(allowed[key], Mapping):
            _check_keys(value, allowed[key], source, f"{prefix}{key}.")


def _allowed(place: str) -> str:
    """What may stand at ``place``, where that is one of a few words, a list or a number; "" elsewhere."""
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
    last_of = {name: name.rpartition(".")[2] for name, _ in flat(msgspec.to_builtins(PRESETS["default"]))}
    if key in last_of:  # in a file, as one key with a dot in it
        return f"Write {key} without quotes around it."
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
    """As people shorten names of several words: lr for learning_rate; "" of one word."""
    words = name.split("_")
    return "".join(word[0] for word in words) if len(words) > 1 else ""


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        are_mappings = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if are_mappings else value
    return merged


def nested(key: str, value: Any) -> dict[str, Any]:
    first, dot, rest = key.partition(".")
    return {first: nested(rest, value) if dot else value}


def _toml_value(text: str) -> Any:
    """``text`` as TOML reads it; a bare word is a string, as on any command line."""
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text  # a second line would be another setting


def _type_of(key: str) -> Any:
    kind: Any = RunSettings
    for name in key.split("."):
        kind = get_type_hints(kind)[name]
    return kind
