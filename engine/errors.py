"""The exceptions of fourshot, the complete tree.

    FourshotError               any error that fourshot raises deliberately
    ├── InputError              the user's input is wrong: exit code 2     (also a ValueError)
    │   ├── TaskFileError       a task file with faults, all of them listed
    │   ├── ModelNotFoundError  no such base model, or no network to fetch it
    │   ├── RunFolderError      a run folder that belongs to another configuration
    │   └── RequestError        a request that a service rejects, and would reject again     (also a ServiceError)
    ├── ShortRunError           a class stalled below N and --allow-short was not given
    ├── SpendingLimitError      the budget of a remote teacher is spent; its answers are kept
    ├── AdapterError            an adapter or student that is damaged, or was made for another base: exit code 2
    └── ServiceError            a service that cannot be reached, or answers with an error

Every message says what was received, what is allowed, and what to do next. Exit codes: 0 done, 1 failed, 2 bad input.
"""

from typing import Any


class FourshotError(Exception):
    """Base of all errors that fourshot raises deliberately."""

    exit_code = 1


class InputError(FourshotError, ValueError):
    """The user's input is wrong. Nothing was changed."""

    exit_code = 2


class TaskFileError(InputError):
    """A task file has faults; ``faults`` lists all of them, each with its line or key."""

    def __init__(self, path: str, faults: list[str]) -> None:
        self.path = path
        self.faults = faults
        lines = "\n".join(f"  - {fault}" for fault in faults)
        super().__init__(f"{path} has {len(faults)} fault{'s' if len(faults) != 1 else ''}:\n{lines}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle from path and faults: the default would pass only the message to the constructor."""
        return type(self), (self.path, self.faults)


class ModelNotFoundError(InputError):
    """The base model is neither a folder nor in the cache, and cannot be fetched."""


class RunFolderError(InputError):
    """The run folder belongs to another configuration."""


class ShortRunError(FourshotError):
    """At least one class stalled below the requested number; everything generated so far is on disk."""


class SpendingLimitError(FourshotError):
    """A limit on requests or costs is reached; every answer that was paid for is on disk."""


class AdapterError(FourshotError):
    """The adapter or student cannot be loaded, or was made for another base model."""

    exit_code = 2


class ServiceError(FourshotError):
    """A service cannot be reached, or answers with an error that persisted through retries."""

    def __init__(self, message: str, code: int = 0, kind: str = "") -> None:
        """``code`` is the HTTP status, 0 without a response; ``kind`` is the service's error code ("unknown_task")."""
        super().__init__(message)
        self.code, self.kind = code, kind


class RequestError(ServiceError, InputError):
    """The service rejects the request, and would again: no such task, a text too long, a key without permission."""


def from_name(kind: str, message: str) -> FourshotError:
    """Rebuild an error raised in another process from its class name; a FourshotError if fourshot has no such class."""
    error = error_class(kind)
    if error is TaskFileError:  # its constructor takes a path and a list, which the message already contains
        error = InputError
    return error(message)


def error_class(kind: str) -> type[FourshotError]:
    """Return the error class of that name; FourshotError if fourshot has no such class."""
    found_class = globals().get(kind)
    return found_class if isinstance(found_class, type) and issubclass(found_class, FourshotError) else FourshotError
