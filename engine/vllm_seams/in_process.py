"""vLLM in our own process: all cores compute, and its end leaves the process as it was.

Relies on: ``torch.set_num_threads`` as vLLM's CPU worker replaces it (with a function that does nothing), ``shutdown``
of the engine's core, ``cleanup_dist_env_and_memory``, which vLLM's own tests call, and the context of use by which
vLLM chooses how much a step holds.
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
from fourshot.engine.machine.host_state import give_variables_back
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
    without="Memory of an engine that was closed may stay taken until the process ends, and a large GPU takes fewer "
    "requests a step.",
)
RENDEZVOUS = "VLLM_DIST_IDENT"
_set_num_threads: dict[str, Any] = {}  # torch's own function, while a vLLM engine has it replaced
_open_engines = [0]  # how many; what vLLM keeps for the whole process is given back after the last


def compute_on_all_cores() -> None:
    """Before an engine is opened on the CPU: vLLM's own start in a process of its own idles one core."""
    import torch

    _set_num_threads.setdefault("torch", torch.set_num_threads)
    torch.set_num_threads(available_cores())


def opened(kind: "type[LLMEngine]", arguments: "EngineArgs") -> "LLMEngine":
    """An engine for work in bulk: by default a large GPU takes 1,024 requests and 16,384 tokens a step.

    Raises InputError where vLLM has no model for the base, or takes none of its architecture started like this.
    """
    options = {}
    if SEAM.holds():
        from vllm.usage.usage_lib import UsageContext

        options["usage_context"] = UsageContext.LLM_CLASS
    try:
        engine = kind.from_engine_args(arguments, **options)
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"vLLM {vllm_version()} does not open the base model {arguments.model}: {_reason(error)} Take another one; "
            "docs/models.md lists which are tested. If the reason is a size, change the setting that is named."
        ) from error
    _open_engines[0] += 1
    _forget_rendezvous()
    _forget_importers()
    return engine


def _reason(error: Exception) -> str:
    """What vLLM says in one sentence: without the values that were checked, which are pages."""
    faults = error.errors() if hasattr(error, "errors") else []  # of pydantic
    words = " ".join(str(faults[0]["msg"] if faults else error).split()) or type(error).__name__
    return words if words.endswith(".") else f"{words}."


def _forget_importers() -> None:
    """An error that a module of vLLM met at its import and keeps has the frames of whoever was importing it.

    They hold the first engine of the process, and all else that is known where it was opened.
    """
    for name in [name for name in sys.modules if name.startswith("vllm.")]:
        for value in [*vars(sys.modules[name]).values()]:
            if issubclass(type(value), BaseException):
                value.__traceback__ = None


def _forget_rendezvous() -> None:
    """Remove the file by which the processes of an engine find each other, of which there is one: nobody else does."""
    name = os.environ.get(RENDEZVOUS, "")  # of the CPU's worker alone
    if name.startswith("vllm_dist_"):
        (Path(tempfile.gettempdir()) / name).unlink(missing_ok=True)


@contextmanager
def _kept_for_others() -> Iterator[None]:
    """vLLM's process groups outlast the end of an engine, because another one computes in them too."""
    from vllm.v1.engine import core

    given_back = core.cleanup_dist_env_and_memory
    core.cleanup_dist_env_and_memory = wraps(given_back)(lambda *_, **__: None)
    try:
        yield
    finally:
        core.cleanup_dist_env_and_memory = given_back


def stop(engines: "list[LLMEngine]") -> None:
    """Stop vLLM and give its memory back, so that a trainer or another engine can follow.

    Takes the engine out of a list, because as an argument its caller would keep it, and its weights, alive.
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
        # vLLM forbids it for the rest of the process; a trainer that follows here needs it.
        torch.set_num_threads = _set_num_threads.pop("torch", torch.set_num_threads)
        if SEAM.holds():
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()
    _forget_rendezvous()  # the end of the groups writes it again
    gc.collect()
    if not has_others:
        give_variables_back()
