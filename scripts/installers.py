"""Installs packages into the environment with uv, and with pip if uv cannot replace it.

uv needs a third of pip's time here. It does not read pip's configuration, so every option of that is translated. If an
option has no equivalent, or uv fails, pip installs instead. Standard library only: see `setup_env.py`.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from pathlib import Path

UV = "uv>=0.8"
OPTIONS = {  # pip's option -> uv's; each value needs its own option
    "find-links": "--find-links",
    "constraint": "--constraints",
    "trusted-host": "--allow-insecure-host",
}
VARIABLES = {  # pip's option -> uv's variable; arguments would be visible to all users, and URLs may have passwords
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
}
DEFAULT_TIMEOUT = "default-timeout"  # the name under which pip lists PIP_DEFAULT_TIMEOUT
TRUE, FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")
WITHOUT_EFFECT = {  # pip's options that do not change what is installed
    *(
        "cache-dir",
        "config-file",
        "disable-pip-version-check",
        "log",
        "no-color",
        "no-input",
        "no-python-version-warning",
    ),
    *("no-warn-script-location", "progress-bar", "quiet", "retries", "root-user-action"),
    *("require-virtualenv", "break-system-packages", "compile", "no-compile", "verbose"),
}


def pip(python: Path, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    return subprocess.run(command, capture_output=capture, text=True, check=False)


def configured(listing: str) -> dict[str, str] | None:
    """Parse the output of `pip config list` into option -> value.

    Environment variables override files, and `install` overrides `global`. Returns None if an option occurs twice at
    one level, because the output does not show which value takes effect.
    """
    found: dict[tuple[str, int], str] = {}
    for line in listing.splitlines():
        name, is_option, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if is_option and section in (":env:", "install", "global"):
            key = option, ("global", "install", ":env:").index(section)
            if key in found:
                return None
            found[key] = str(ast.literal_eval(value))
    return {option: found[option, rank] for option, rank in sorted(found)}


def as_uv(options: dict[str, str]) -> tuple[list[str], dict[str, str]] | None:
    """Translate pip's ``options`` into arguments and environment variables of uv; None if one has no equivalent."""
    arguments: list[str] = []
    variables: dict[str, str] = {}
    for option, value in options.items():
        option = "timeout" if option == DEFAULT_TIMEOUT else option
        if option in OPTIONS:
            arguments += [word for each in value.split() for word in (OPTIONS[option], each)]
        elif option in VARIABLES:
            variables[VARIABLES[option]] = " ".join(value.split())
        elif option == "no-index" and value.lower() in (*TRUE, *FALSE):
            arguments += ["--no-index"] if value.lower() in TRUE else []
        elif option not in WITHOUT_EFFECT:
            return None
    return arguments, variables


def drop_unfinished(python: Path) -> None:
    """Remove the metadata of packages whose installation was killed; uv and pip would consider them installed.

    Both write INSTALLER into a package's metadata folder last, after all its files.
    """
    for metadata in python.parent.parent.glob("lib/python*/site-packages/*.dist-info"):
        if not (metadata / "INSTALLER").exists():
            print(f"[env] {metadata.name[: -len('.dist-info')]} was only half installed: trying again", flush=True)
            shutil.rmtree(metadata)


def install(python: Path, *arguments: str, extra_index: str = "") -> bool:
    """Install ``arguments`` as `pip install` would. Return whether it succeeded.

    pip takes the newest version of all indexes. By default, uv takes that of the first index with the package; here it
    is set to do as pip.
    """
    drop_unfinished(python)
    options = configured(pip(python, "config", "list", capture=True).stdout)
    told = as_uv(options) if options is not None else None
    if told is not None and pip(python, "install", "--quiet", UV, capture=True).returncode == 0:
        variables = {**os.environ, **told[1]}
        if extra_index:  # in the variable, because `--index` would replace the indexes that it names
            variables["UV_INDEX"] = f"{extra_index} {variables.get('UV_INDEX', '')}".strip()
        command = [str(python), "-m", "uv", "pip", "install", "--python", str(python), *told[0]]
        command += ["--index-strategy", "unsafe-best-match", *arguments]
        if subprocess.run(command, env=variables, check=False).returncode == 0:
            return True
        print("[env] uv could not install it; trying pip", flush=True)
        drop_unfinished(python)
    indexes = ["--extra-index-url", extra_index] if extra_index else []
    return pip(python, "install", "--no-compile", *indexes, *arguments).returncode == 0
