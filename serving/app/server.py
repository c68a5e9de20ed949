"""The server process: vLLM's own API server with our plugin, on a socket that its parent has opened.

If there are only students, it runs `serving.app.students_server` instead, and nothing of vLLM is loaded.

The supervisor starts it, and restarts it when it ends. The arguments are the file descriptor of the socket, the number
of earlier starts, and an empty folder; the settings are in `serving.settings.ENVIRONMENT`. A line on standard input, or
its end, asks to stop.
"""

import json
import os
import socket
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from fourshot.engine.core import EngineSettings
from fourshot.engine.machine.parent import die_with_parent
from fourshot.engine.machine.processes import TOGETHER, take_stdout
from fourshot.engine.machine.threads import ENGINE_SPINS, available_cores, waiting_briefly
from fourshot.engine.vllm_seams import api_server
from fourshot.engine.vllm_start import engine_arguments, keep_to_sizes
from fourshot.serving.app.logs import log_to
from fourshot.serving.settings import ENVIRONMENT, NEAR_PROXIES, PROXIES, ServeSettings, from_json

READY = "fourshot: ready"  # on standard output, once the server accepts connections
CPU_BATCH = 128  # texts
MOST_PATH = 107 - len("/") - 36  # of the folder for vLLM's sockets: a path has 107 characters, a name is a UUID
ON_BY_DEFAULT = ("enable_chunked_prefill",)  # vLLM's switches that are turned off by their --no- form


def environment(inherited: dict[str, str], settings_json: str) -> dict[str, str]:
    """Return the variables to set for vLLM's processes: our plugin, all cores for the engine, no usage statistics."""
    other_plugins = [name for name in inherited.get("VLLM_PLUGINS", "").split(",") if name and name != "fourshot"]
    return {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "OMP_NUM_THREADS": str(available_cores()),
        **waiting_briefly(inherited, ENGINE_SPINS),
        "VLLM_PLUGINS": ",".join(["fourshot", *other_plugins]),
        # One process for engine and worker: on a CPU, vLLM would start two, and reserve a core for the first.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0",  # it would load any path that a request names
        PROXIES: inherited.get(PROXIES, NEAR_PROXIES),
        TOGETHER: "1",  # an engine without its server is useless
        ENVIRONMENT: settings_json,
    }


def vllm_arguments(settings: ServeSettings, engine: EngineSettings, base_name: str, on_cpu: bool) -> list[str]:
    """Return the arguments of ``vllm serve``; the user's own come last and take precedence."""
    options: dict[str, Any] = {
        **engine_arguments(engine, on_cpu),
        "max_cpu_loras": settings.max_cpu_loras,
        "disable_log_stats": False,  # the metrics page needs these
        "host": settings.host,
        "port": settings.port,
        "served_model_name": base_name,
        "middleware": "fourshot.serving.app.guard.Guard",
        "uvicorn_log_level": "warning",
        "disable_uvicorn_access_log": True,  # paths contain task names; texts are in bodies, which are never logged
        "shutdown_timeout": int(settings.drain_s),
    }
    del options["use_tqdm_on_load"]
    arguments = []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            arguments += [f"--{option}"] if value else [f"--no-{option}"] if name in ON_BY_DEFAULT else []
        else:
            arguments += [f"--{option}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return [*arguments, *settings.vllm_arguments]


async def serve(settings: ServeSettings, listening: socket.socket) -> None:
    """Serve until a signal asks to stop."""
    from fourshot.engine.context import within_context
    from fourshot.serving.app.protocol import bounded_protocol

    base, on_cpu = settings.find_base(), api_server.on_cpu()
    engine = within_context(
        EngineSettings(
            model=base.path,
            max_model_len=settings.max_model_len,
            max_loras=settings.max_loras,
            max_lora_rank=settings.max_lora_rank,
            kv_cache_bytes=settings.kv_cache_bytes,
            gpu_kv_cache_bytes=settings.kv_cache_bytes,
            max_num_seqs=settings.max_num_seqs or CPU_BATCH,
            gpu_max_num_seqs=settings.max_num_seqs,
            compile=not on_cpu,  # worthwhile for a long-lived server
        )
    )
    await api_server.run(
        vllm_arguments(settings, engine, base.name, on_cpu),
        settings.authority,
        listening,
        http=bounded_protocol(settings.limits),
        backlog=settings.limits.max_connections,
    )


def main() -> None:
    die_with_parent()
    out = TextIOWrapper(take_stdout(), encoding="utf-8", write_through=True)
    log_to(out)
    settings = from_json(os.environ[ENVIRONMENT])
    keep_to_sizes()
    if len(sys.argv[3]) <= MOST_PATH:  # else vLLM's sockets are outside this folder, and are not removed with it
        os.environ.setdefault("VLLM_RPC_BASE_PATH", sys.argv[3])
    listening = socket.socket(fileno=int(sys.argv[1]))
    import uvloop

    from fourshot.serving.app.lifecycle import process_state

    process_state.restarts, process_state.staging = int(sys.argv[2]), Path(sys.argv[3])
    process_state.supervised = True
    process_state.ready = lambda: print(READY, file=out)
    if settings.students_only:
        from fourshot.serving.app import students_server

        uvloop.run(students_server.serve(settings, listening))
    else:
        uvloop.run(serve(settings, listening))


if __name__ == "__main__":
    main()
