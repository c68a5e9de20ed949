"""What belongs to the process as a whole, and to the program that opens an engine in it: left as it was.

vLLM, torch and Ray seed the global generators of random numbers, put their rank before every traceback, settle how
`multiprocessing` starts processes, preload libraries in children, set variables, and have their own copies of packages
imported before the installed ones. A notebook or a service has its own use of these.
"""

import multiprocessing
import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

KEPT = ("LD_PRELOAD", "VLLM_CPU_KVCACHE_SPACE")  # variables
# Beginnings of the names of the variables that an engine's libraries set, and we for them: some 20 on the CPU.
OF_LIBRARIES = (
    "AITER_",
    "LOCAL_WORLD_SIZE",
    "NCCL_",
    "NUMEXPR_",
    "PYTORCH_",
    "RAY_",
    "TILELANG_",
    "TORCH",
    "TRITON_",
    "VLLM_",
)
_lent: dict[str, tuple[str | None, str | None]] = {}  # while engines are open: name -> the program's value, theirs
_own: dict[str, str] = {}  # what they had last: some is set when a library is imported, and not again


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
                _set(name, value)


@contextmanager
def variables_lent() -> Iterator[None]:
    """Around the opening of an engine: the variables that its libraries set there are noted.

    They stay until `give_variables_back`, because the libraries read some of them while they answer.
    """
    is_first, before = not _lent, _of_libraries()
    os.environ.update({name: value for name, value in _own.items() if name not in before})
    try:
        yield
    except BaseException:
        _note(before)
        if is_first:
            give_variables_back()
        raise
    _note(before)


def _note(before: Mapping[str, str]) -> None:
    after = _of_libraries()
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            programs, _ = _lent.get(name, (before.get(name), None))
            _lent[name] = programs, after.get(name)


def give_variables_back() -> None:
    """After the last engine: the variables are the program's again, but for what it has set itself meanwhile."""
    for name, (programs, theirs) in _lent.items():
        if os.environ.get(name) == theirs:
            _set(name, programs)
            if theirs is not None:
                _own[name] = theirs
    _lent.clear()


def _of_libraries() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(OF_LIBRARIES)}


def _set(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
