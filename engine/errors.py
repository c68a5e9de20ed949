"""The exceptions of fourshot, the whole tree.

    FourshotError               anything fourshot raises on purpose
    ├── InputError              what the user gave is wrong: exit code 2     (also a ValueError)
    │   ├── TaskFileError       a task file with faults, all of them listed
    │   ├── ModelNotFoundError  no such base model, or no network to fetch it
    │   ├── RunFolderError      a run folder that belongs to another configuration
    │   └── RequestError        a request that a service refuses, whoever sends it again     (also a ServiceError)
    ├── ShortRunError           a class stalled below N and --allow-short was not given
    ├── SpendingLimitError      what a remote teacher may cost is spent; what it answered is kept
    ├── AdapterError            an adapter or student that is damaged, or was made for another base: exit code 2
    └── ServiceError            a service that is not there, or answers with an error

Every message says what was got, what is allowed, and what to do next. Exit codes: 0 done, 1 failed, 2 bad input.
"""

from typing import Any


class FourshotError(Exception):
    """Base of all errors that fourshot raises on purpose."""

    exit_code = 1


class InputError(FourshotError, ValueError):
    """The user's input is wrong. Nothing was changed."""

    exit_code = 2


class TaskFileError(InputError):
    """A task file has faults; ``faults`` lists every one of them, each with its line or key."""

    def __init__(self, path: str, faults: list[str]) -> None:
        self.path = path
        self.faults = faults
        lines = "\n".join(f"  - {fault}" for fault in faults)
        super().__init__(f"{path} has {len(faults)} fault{'s' if len(faults) != 1 else ''}:\n{lines}")

    def __reduce__(self) -> tuple[Any, ...]:
        """How it comes out of another process: by default it would be made from its message."""
        return type(self), (self.path, self.faults)


class ModelNotFoundError(InputError):
    """The base model is neither a folder, nor in the cache, nor to be fetched."""


class RunFolderError(InputError):
    """The run folder belongs to another configuration."""


class ShortRunError(FourshotError):
    """At least one class stalled below the wanted number; everything generated so far is on disk."""


class SpendingLimitError(FourshotError):
    """A limit on requests or costs is reached; every answer that was paid for is on disk."""


class AdapterError(FourshotError):
    """The adapter or student cannot be loaded, or was made for another base model."""

    exit_code = 2


class ServiceError(FourshotError):
    """A service is not there, or answers with an error that trying again has not mended."""

    def __init__(self, message: str, code: int = 0, kind: str = "") -> None:
        """``code`` is HTTP's, 0 where nothing came; ``kind`` is the service's word for machines ("unknown_task")."""
        super().__init__(message)
        self.code, self.kind = code, kind


class RequestError(ServiceError, InputError):
    """The service refuses the request, and would again: no such task, a text too long, a key that may not."""


def from_name(kind: str, message: str) -> FourshotError:
    """The error that another process raised, from its class's name; a FourshotError where the name is none of ours."""
    error = error_class(kind)
    if error is TaskFileError:  # it is made from a path and a list, which the message has already
        error = InputError
    return error(message)


def error_class(kind: str) -> type[FourshotError]:
    """The class of that name; FourshotError where it is none of ours."""
    found_class = globals().get(kind)
    return found_class if isinstance(found_class, type) and issubclass(found_class, FourshotError) else FourshotError
