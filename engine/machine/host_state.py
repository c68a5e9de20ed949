"""What belongs to the process as a whole, and to the program that opens an engine in it: left as it was.

vLLM, torch and Ray seed the global generators of random numbers, put their rank before every traceback, settle how
`multiprocessing` starts processes, preload libraries in children, and have their own copies of packages imported before
the installed ones. A notebook or a service has its own use of these.
"""

import multiprocessing
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

KEPT = ("LD_PRELOAD", "VLLM_CPU_KVCACHE_SPACE")  # variables


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """What is drawn within the block, or seeded there, changes no number that is drawn after it.

    Of Python, of numpy, and of torch on the CPU; the latter two where they are imported already.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    state = random.getstate()
    of_numpy = numpy.random.get_state() if numpy else None
    of_torch = torch.get_rng_state() if torch else None
    try:
        yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(of_numpy)
        if torch:
            torch.set_rng_state(of_torch)


@contextmanager
def host_state_kept() -> Iterator[None]:
    """`random_numbers_kept`, and with them the hook of uncaught errors, the start method, what is preloaded, how much
    the engines of others may keep, and which places are searched first for a module.
    """
    hook, variables, places = sys.excepthook, {name: os.environ.get(name) for name in KEPT}, [*sys.path]
    is_settled = bool(multiprocessing.get_start_method(allow_none=True))
    with random_numbers_kept():
        try:
            yield
        finally:
            sys.excepthook = hook
            sys.path[:] = [*places, *(place for place in sys.path if place not in places)]
            if not is_settled:
                multiprocessing.set_start_method(None, force=True)
            for name, value in variables.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
