"""Global state of the process, which opening an engine must leave unchanged for the program around it.

vLLM, torch and Ray seed the global random generators, put their rank before every traceback, and fix the start method
of `multiprocessing`. They also preload libraries in children, set environment variables, and import their own copies of
packages before the installed ones. A notebook or a service has its own use of all these.
"""

import multiprocessing
import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

KEPT = ("LD_PRELOAD", "VLLM_CPU_KVCACHE_SPACE")  # environment variables that are restored after opening
# Prefixes of the environment variables that an engine's libraries set, or we for them: about 20 on the CPU.
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
_saved_variables: dict[
    str, tuple[str | None, str | None]
] = {}  # while engines are open: name -> (program's, libraries')
_library_values: dict[str, str] = {}  # the libraries' last values: some are set only when a library is imported


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Restore the state of the random generators after the block.

    They are those of Python, of numpy, and of torch on the CPU; the latter two only if already imported.
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
    """Restore global state after the block: `random_numbers_kept`, and everything listed here.

    It restores the hook for uncaught exceptions, and the start method of `multiprocessing` if it was not set. It also
    restores the variables `KEPT`: preloaded libraries, and the cache size of the program's own engines. In `sys.path`,
    entries added within the block are moved to the end.
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
def library_variables_recorded() -> Iterator[None]:
    """Record the environment variables that an engine's libraries set within the block, in which it is opened.

    They stay set until `restore_variables`, because the libraries read some of them later. If the block fails and no
    other engine is open, they are restored immediately.
    """
    is_first, before = not _saved_variables, _of_libraries()
    os.environ.update({name: value for name, value in _library_values.items() if name not in before})
    try:
        yield
    except BaseException:
        _record_changes(before)
        if is_first:
            restore_variables()
        raise
    _record_changes(before)


def _record_changes(before: Mapping[str, str]) -> None:
    after = _of_libraries()
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            programs, _ = _saved_variables.get(name, (before.get(name), None))
            _saved_variables[name] = programs, after.get(name)


def restore_variables() -> None:
    """Restore the program's variables after the last engine, except those that it has changed in the meantime."""
    for name, (programs, theirs) in _saved_variables.items():
        if os.environ.get(name) == theirs:
            _set(name, programs)
            if theirs is not None:
                _library_values[name] = theirs
    _saved_variables.clear()


def _of_libraries() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(OF_LIBRARIES)}


def _set(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
