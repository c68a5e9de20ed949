"""`serve`: every adapter in a folder, over HTTP."""

import argparse
import os
import sys
from pathlib import Path

from fourshot.cli.console import Terminal
from fourshot.cli.declare import Options, argument, command, names_in, overrides, setting, some_names_in
from fourshot.serving.settings import Limits, ServeSettings

LOCAL = ("127.0.0.1", "localhost", "::1")
DEFAULTS = ServeSettings(adapters="")
NUMBERS = (
    *("port", "max_loras", "max_cpu_loras", "max_lora_rank", "max_model_len", "max_num_seqs", "poll_s", "drain_s"),
)
# Options of the engine, which students do not need.
OF_ENGINE = ("max_loras", "max_cpu_loras", "max_lora_rank", "kv_cache_bytes", "max_model_len", "max_num_seqs", "hot")
ORIGINS_HELP = "comma-separated: sites whose pages have access, as https://app.example; '*' for all (default: none)"
HOSTS_HELP = "comma-separated: host names that clients may use, in addition to localhost; '*' for any (docs/serving.md)"
VLLM_HELP = "what follows is for vLLM's server: --vllm --ssl-keyfile KEY --ssl-certfile CERT"


def mebibytes(text: str) -> int:  # argparse puts this name into the error about an invalid value
    return int(text) << 20


@command(
    "serve",
    argument("--adapters", "FOLDER", "adapters' folders, or those of runs", required=True),
    argument("--base", "MODEL", "a Hugging Face id, a folder or a GGUF file (default: the bundled one)"),
    setting(DEFAULTS, "host", "HOST"),
    *(setting(DEFAULTS, name) for name in NUMBERS),
    argument(
        "--kv-cache-mib",
        "N",
        "memory of the KV cache (default: computed)",
        dest="kv_cache_bytes",
        type=mebibytes,
    ),
    *(setting(DEFAULTS.limits, name) for name in Limits.__struct_fields__),
    argument(
        "--hot",
        "TASKS",
        "comma-separated: tasks whose adapters keep their slot, except for a step that needs all slots",
        type=names_in,
    ),
    setting(DEFAULTS, "keys", "FILE"),
    argument("--cors-origin", "ORIGINS", ORIGINS_HELP, type=some_names_in, dest="cors_origins"),
    argument("--allowed-hosts", "HOSTS", HOSTS_HELP, type=some_names_in),
    argument("--replicas", "N", "servers that share the work", type=int, default=1),
    argument("--ray", "WHERE", "replicas over Ray: 'local', 'auto' or an address", default=""),
    argument("--log", "FILE", "for the output of the server's processes (default: in the cache)"),
    argument("--vllm", "OPTION", VLLM_HELP, dest="vllm_arguments", nargs=argparse.REMAINDER, default=()),
)
def serve(options: Options, terminal: Terminal) -> None:
    """Serve every adapter in a folder over HTTP."""
    import asyncio

    from fourshot.engine.machine.home import home
    from fourshot.serving.app.logs import json_line
    from fourshot.serving.fleet.launch import prepare

    options.vllm_arguments = tuple(options.vllm_arguments)
    settings = ServeSettings(**overrides(options, ServeSettings), limits=Limits(**overrides(options, Limits)))
    launch = prepare(settings, options.replicas, options.ray)
    if launch.settings.host not in LOCAL and not settings.keys:
        terminal.warn(
            f"anyone who can reach {launch.settings.host} has access: there is no key. Add one: `fourshot keys add`."
        )
    unused = [name for name in OF_ENGINE if name in overrides(options, ServeSettings)]
    if launch.settings.students_only and unused:
        names = ", ".join("--" + name.replace("_", "-").replace("bytes", "mib") for name in unused)
        terminal.warn(f"{names}: without effect here, because there are only students, which need no engine.")
    log = Path(options.log) if options.log else home() / "logs" / f"serve-{launch.settings.port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal.say(f"Starting; log: {log}")
    contents = launch.contents
    refused = f", {len(contents.refused)} refused (fourshot adapters list says why)" if contents.refused else ""
    served = sorted({*contents.tasks, *contents.in_context})
    number = len(served)
    if not number:
        terminal.warn(
            f"there is nothing to serve in {launch.settings.adapters} yet{refused}. Adapters added there are served "
            "without a restart. If a run was interrupted, repeat its command."
        )

    if unknown := sorted({*launch.settings.hot}.difference(served)):
        names = ", ".join(served) or "none yet"
        terminal.warn(f"--hot names {', '.join(unknown)}, which is not there. Tasks are: {names}.")

    def say(line: str) -> None:
        print(line if line.startswith("{") else json_line("warning", line), file=sys.stderr, flush=True)

    def on_ready() -> None:
        terminal.result("ready", {"address": launch.address, "tasks": served, "pid": os.getpid()})
        tasks = f"{number} task{'s' if number != 1 else ''}{refused}"
        terminal.say(f"Serving {tasks} at {launch.address} (Ctrl-C ends it)")
        sys.stdout.flush()

    asyncio.run(launch.run(log, say, on_ready))
