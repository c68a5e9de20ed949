"""Errors come out of another process as they were raised there."""

import copy
import pickle
from collections.abc import Callable

import pytest

from fourshot.engine import errors
from fourshot.engine.errors import FourshotError, RequestError, TaskFileError

CLASSES = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, FourshotError)]
SPECIAL = [
    TaskFileError("a.toml", ["line 2: no label", "line 3: no name"]),
    RequestError("a service", code=404, kind="unknown_task"),
]
RAISED = [*SPECIAL, *(found("why") for found in CLASSES if found is not TaskFileError)]


def pickled(error: FourshotError) -> object:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("error", RAISED, ids=repr)
@pytest.mark.parametrize("way", [copy.copy, pickled])
def test_an_error_survives_the_way_between_processes(
    error: FourshotError, way: Callable[[FourshotError], object]
) -> None:
    arrived = way(error)
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))
