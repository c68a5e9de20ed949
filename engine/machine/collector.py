"""The garbage collector, out of the way while libraries are loaded."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Import within this what makes objects that stay: the collector would look through all of them again and again.

    That is a quarter of the time in which vLLM is imported. What is wanted within, `gc.collect` does as always.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
