"""Build `RunSettings` from a preset, a settings file, ``--set key=value``, and options, in this order.

Options carry no defaults of their own: types, choices, defaults and help are taken from `RunSettings`.
Importing this module loads neither torch nor vllm.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fourshot.cli.declare import Argument, Options, argument, setting
from fourshot.engine.errors import InputError
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
from fourshot.setting_values import nested, with_values


class Option(NamedTuple):
    """A setting that has an option of its own on the command line."""

    flag: str
    key: str  # of the setting, dotted
    metavar: str = "N"
    spelled: Mapping[str, str] = {}  # the option's value -> the setting's, where they differ


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
    """Return --preset, --settings, --set, and an option for every entry of `OPTIONS` except those in ``without``.

    ``preset``: the default of --preset.
    """
    listed = [
        argument("--preset", None, "the starting point of all settings", choices=list(PRESETS), default=preset),
        argument("--settings", "FILE", "TOML file with settings, which override the preset"),
        argument("--set", "KEY=VALUE", "any setting: --set train.r=16", dest="sets", action="append", default=[]),
    ]
    for flag, key, metavar, spelled in OPTIONS:
        if flag not in without:
            listed.append(setting(PRESETS[preset], key, metavar, flag, spelled))
    return [option._replace(heading="settings") for option in listed]


def settings_of(options: Options) -> RunSettings:
    """Return the settings of parsed ``options``. Raises `InputError`, which names the file or option at fault."""
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
    """Return ``settings`` changed by a TOML file. Raises `InputError`."""
    try:
        document = tomllib.loads(file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    except OSError as error:
        raise InputError(f"the settings file {file} cannot be read: {error.strerror}. Name a TOML file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the settings file {file} is not UTF-8: {error}. Save it as UTF-8.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"the settings file {file} is not valid TOML: {error}.") from error
    return with_values(settings, document, str(file))


def _toml_value(text: str) -> Any:
    """Return ``text`` as a TOML value; a bare word is a string, as on any command line."""
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text  # a second line would be another setting
