"""vLLM's OpenAI server, started from Python with our own socket and HTTP settings.

Relies on: ``run_server_worker``, which ``vllm serve`` runs; the parser of its command line; and the models of the
OpenAI routes in the application's state. All were moved between 0.26 and 0.32. Nothing is replaced.
Without it, there is no server.
"""

import socket
from importlib import import_module
from typing import Any

from fourshot.engine.machine.collector import collector_paused
from fourshot.engine.vllm_seams import client
from fourshot.engine.vllm_seams.contract import Seam, vllm_version

_MOVED = not vllm_version().startswith("0.26.")
_ARGUMENTS = "vllm.entrypoints.launchers.cli_args" if _MOVED else "vllm.entrypoints.openai.cli_args"
_WORKER = "vllm.entrypoints.launchers.api_server.entry" if _MOVED else "vllm.entrypoints.openai.api_server"
_STATE = "vllm.entrypoints.launchers.api_server.app_state" if _MOVED else "vllm.entrypoints.openai.api_server"
SEAM = Seam(
    name="vLLM's server",
    written_for=("0.26", "0.32"),
    relies_on=(
        f"{_WORKER}:run_server_worker(listen_address, sock, args, client_config, uvicorn_kwargs)",
        "vllm.utils.argparse_utils:FlexibleArgumentParser",
        f"{_ARGUMENTS}:make_arg_parser(parser)",
        f"{_ARGUMENTS}:validate_parsed_serve_args(args)",
        f"{_STATE}:init_app_state sets openai_serving_models",
    ),
    without="Nothing can be served.",
)


async def run(arguments: list[str], address: str, listening: socket.socket, **uvicorn: Any) -> None:
    """Serve on the socket ``listening`` until a signal requests the end.

    ``arguments`` are those of ``vllm serve``, and ``uvicorn`` those of uvicorn's ``Config``. Raises FourshotError if
    this vLLM cannot be used.
    """
    SEAM.require()
    client.SEAM.require()
    with collector_paused():
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        command_line, worker = import_module(_ARGUMENTS), import_module(_WORKER)
    parsed = command_line.make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    command_line.validate_parsed_serve_args(parsed)
    await worker.run_server_worker(address, listening, parsed, **uvicorn)


def models_of(state: Any) -> Any:
    """Return the server's ``OpenAIServingModels`` from the ``state`` that vLLM passes to an endpoint plugin."""
    return state.openai_serving_models


def on_cpu() -> bool:
    """Whether this is vLLM's CPU build."""
    with collector_paused():
        from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
