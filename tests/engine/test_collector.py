"""The garbage collector is out of the way within a block, and as it was after it."""

import gc
from collections.abc import Iterator

import pytest

from fourshot.engine.machine.collector import collector_paused


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.parametrize("was_on", [True, False])
def test_it_is_as_it_was_also_after_an_error(was_on: bool) -> None:
    gc.enable() if was_on else gc.disable()
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled() == was_on
    with pytest.raises(KeyError), collector_paused():
        raise KeyError
    assert gc.isenabled() == was_on
