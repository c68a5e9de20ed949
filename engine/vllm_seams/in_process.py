"""vLLM in our own process: all cores compute, and stopping it restores the state of the process.

Relies on: ``shutdown`` of the engine's core, ``cleanup_dist_env_and_memory``, which vLLM's own tests call, and the
usage context, by which vLLM chooses the size of a step. It also relies on vLLM's CPU worker replacing
``torch.set_num_threads`` with a function that does nothing.
"""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.engine.errors import InputError
from fourshot.engine.machine.host_state import restore_variables
from fourshot.engine.machine.threads import available_cores
from fourshot.engine.vllm_seams.contract import Seam, vllm_version

if TYPE_CHECKING:
    from vllm import EngineArgs, LLMEngine

SEAM = Seam(
    name="giving back what an engine took",
    written_for=("0.26", "0.32"),
    relies_on=(
        "vllm.distributed.parallel_state:cleanup_dist_env_and_memory(shutdown_ray)",
        "vllm.v1.engine.llm_engine:LLMEngine.__init__ sets engine_core",
        "vllm.v1.engine.core_client:EngineCoreClient.shutdown",
        "vllm.v1.engine.core:cleanup_dist_env_and_memory",
        "vllm.v1.engine.llm_engine:LLMEngine.from_engine_args(engine_args, usage_context, stat_loggers, "
        "enable_multiprocessing)",
        "vllm.usage.usage_lib:UsageContext",
    ),
    without="Memory of a closed engine may stay allocated until the process ends, and a large GPU takes fewer requests "
    "per step.",
)
RENDEZVOUS = "VLLM_DIST_IDENT"
_set_num_threads: dict[str, Any] = {}  # torch's own function, while vLLM has replaced it
_open_engines = [0]  # their number; vLLM's global state of the process is released after the last one


def compute_on_all_cores() -> None:
    """Set torch's threads to all available cores. Called before an engine is opened on the CPU.

    vLLM's own start, in a separate process, leaves one core idle.
    """
    import torch

    _set_num_threads.setdefault("torch", torch.set_num_threads)
    torch.set_num_threads(available_cores())


def opened(kind: "type[LLMEngine]", arguments: "EngineArgs") -> "LLMEngine":
    """Open an engine for offline batches: by default, a step on a large GPU has up to 1,024 requests and 16,384 tokens.

    Raises InputError if vLLM has no model for the base, or rejects it with these arguments.
    """
    options = {}
    if SEAM.holds():
        from vllm.usage.usage_lib import UsageContext

        options["usage_context"] = UsageContext.LLM_CLASS
    try:
        engine = kind.from_engine_args(arguments, **options)
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"vLLM {vllm_version()} cannot load the base model {arguments.model}: {_reason(error)} Use another one; "
            "docs/models.md lists those that were tested. If the reason is a size, change the setting that it names."
        ) from error
    _open_engines[0] += 1
    _forget_rendezvous()
    _forget_importers()
    return engine


def _reason(error: Exception) -> str:
    """Return vLLM's error message as one sentence, without the validated values, which would fill pages."""
    faults = error.errors() if hasattr(error, "errors") else []  # of pydantic
    words = " ".join(str(faults[0]["msg"] if faults else error).split()) or type(error).__name__
    return words if words.endswith(".") else f"{words}."


def _forget_importers() -> None:
    """Remove the tracebacks of exceptions that vLLM's modules stored when they were imported.

    Their frames include those of the importing code, and so would keep the first engine of the process alive, with all
    objects visible where it was opened.
    """
    for name in [name for name in sys.modules if name.startswith("vllm.")]:
        for value in [*vars(sys.modules[name]).values()]:
            if issubclass(type(value), BaseException):
                value.__traceback__ = None


def _forget_rendezvous() -> None:
    """Remove the rendezvous file of the engine's processes: there is only one process, and vLLM does not remove it."""
    name = os.environ.get(RENDEZVOUS, "")  # set by the CPU worker only
    if name.startswith("vllm_dist_"):
        (Path(tempfile.gettempdir()) / name).unlink(missing_ok=True)


@contextmanager
def _kept_for_others() -> Iterator[None]:
    """Keep vLLM's process groups when an engine is stopped within the block, because another engine uses them too."""
    from vllm.v1.engine import core

    given_back = core.cleanup_dist_env_and_memory
    core.cleanup_dist_env_and_memory = wraps(given_back)(lambda *_, **__: None)
    try:
        yield
    finally:
        core.cleanup_dist_env_and_memory = given_back


def stop(engines: "list[LLMEngine]") -> None:
    """Stop vLLM and release its memory, so that a trainer or another engine can follow.

    The engine is taken out of a list. If it were an argument, the caller would keep it, and its weights, alive.
    """
    import torch

    llm = engines.pop()
    _open_engines[0] -= 1
    has_others = _open_engines[0] > 0
    if SEAM.holds():
        with _kept_for_others() if has_others else nullcontext():
            llm.engine_core.shutdown()
    del llm
    if not has_others:
        # vLLM disables this function for the rest of the process, but a trainer that follows needs it.
        torch.set_num_threads = _set_num_threads.pop("torch", torch.set_num_threads)
        if SEAM.holds():
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()
    _forget_rendezvous()  # destroying the process groups creates the file again
    gc.collect()
    if not has_others:
        restore_variables()
