"""The serving commands as words: `serve`, `adapters`, `keys`. What they do is in `fourshot.cli.serving_commands`."""

import argparse
from collections.abc import Callable
from typing import Any

import msgspec

from fourshot.serving.settings import Limits, ServeSettings

MIB = 1 << 20
Command = Callable[..., Any]  # `fourshot.cli.pipeline_parsers.add_command`
TOLD = {  # options of `serve` beside those named below; 0: computed, `fourshot doctor --serve` shows what to
    "max_loras": "adapters that may share a batch (default: computed)",
    "max_cpu_loras": "adapters kept in memory (default: computed)",
    "max_lora_rank": "largest rank that is accepted (default: that of the adapters there are)",
    "max_model_len": "tokens of the longest prompt (default: %(default)s)",
    "max_num_seqs": "texts in one batch (default: %(default)s)",
    "poll_s": "seconds between two looks at the adapters' folder (default: %(default)s)",
    "drain_s": "seconds that a shutdown waits for requests on their way (default: %(default)s)",
}
LIMITS_TOLD = {
    "max_body_bytes": "of a request (default: %(default)s)",
    "max_texts": "in one request (default: %(default)s)",
    "max_queue_s": "work waiting, in seconds, above which the answer is 429 (default: %(default)s)",
    "max_concurrent": "requests of one key at a time (default: %(default)s)",
    "max_connections": "of all clients (default: %(default)s)",
    "timeout_s": "from a request's arrival to its answer (default: %(default)s)",
    "header_timeout_s": "for a client to send its headers (default: %(default)s)",
    "body_timeout_s": "for a client to send its body (default: %(default)s)",
    "max_wait_ms": "how long a text may be passed over for texts whose adapter is loaded (default: %(default)s)",
}


def add_commands(commands: Any, add: Command) -> None:
    """Add the commands of this room to the parser's."""
    serve = add(commands, "serve", "serve", "answer for every adapter in a folder, over HTTP")
    serve_options(serve)
    serve.add_argument("--host", default="127.0.0.1", help="default: %(default)s; another address opens it to others")
    serve.add_argument("--port", type=int, default=8000, help="0: a free one (default: %(default)s)")
    serve.add_argument("--replicas", type=int, default=1, metavar="N", help="servers that share the work (default: 1)")
    serve.add_argument("--ray", metavar="WHERE", default="", help="replicas over Ray: 'local', 'auto' or an address")
    serve.add_argument(
        "--hot", metavar="TASKS", default="", help="comma-separated: tasks whose adapters never leave their slot"
    )
    serve.add_argument("--keys", metavar="FILE", default="", help="API keys, made with `fourshot keys add`")
    serve.add_argument("--log", metavar="FILE", help="what the server's processes print (default: in the cache)")
    serve.add_argument(
        "--vllm", metavar="OPTION", dest="vllm_arguments", nargs=argparse.REMAINDER, default=[],
        help="what follows is for vLLM's server: --vllm --ssl-keyfile KEY --ssl-certfile CERT",
    )  # fmt: skip
    adapters = commands.add_parser("adapters", help="what a server answers with", description="The adapters' folder.")
    _add_adapters(adapters.add_subparsers(metavar="COMMAND", required=True), add)
    keys = commands.add_parser("keys", help="API keys of a server", description="API keys of a server.")
    _add_keys(keys.add_subparsers(metavar="COMMAND", required=True), add)


def serve_options(added: Any) -> None:
    """What decides how much a server needs: `serve` and `doctor --serve` have it."""
    added.add_argument("--adapters", metavar="FOLDER", required=True, help="adapters' folders, or those of runs")
    added.add_argument("--base", metavar="MODEL", help="a Hugging Face id or a folder (default: the embedded one)")
    added.add_argument("--kv-cache-mib", type=int, default=0, metavar="N", help="default: computed")
    for struct, told in ((ServeSettings, TOLD), (Limits, LIMITS_TOLD)):
        defaults = {field.name: field for field in msgspec.structs.fields(struct)}
        for name, help_text in told.items():
            field = defaults[name]
            added.add_argument(
                f"--{name.replace('_', '-')}",
                type=type(field.default),
                default=field.default,
                metavar="N",
                help=help_text,
            )


def _add_adapters(commands: Any, add: Command) -> None:
    def folder(added: Any) -> None:
        added.add_argument("--adapters", metavar="FOLDER", required=True, help="the folder that a server watches")
        added.add_argument("--base", metavar="MODEL", help="its base model (default: the embedded one)")

    folder(add(commands, "list", "adapters_list", "what is there, what answers, what is refused and why"))
    added = add(commands, "add", "adapters_add", "copy an adapter there, whole or not at all")
    added.add_argument("source", metavar="ADAPTER", help="an adapter's folder, or that of a finished run")
    folder(added)
    told = "ADAPTER is a task without one: answer in context with its examples until it has one"
    added.add_argument("--in-context", action="store_true", help=told)
    added.add_argument("--data", metavar="FOLDER", help="with --in-context: the task's train and test files")
    added.add_argument("--shots", type=int, default=4, metavar="K", help="with --in-context (default: %(default)s)")
    added.add_argument("--seed", type=int, default=0, help="with --in-context: draws the examples")
    added = add(commands, "remove", "adapters_remove", "take an adapter away")
    added.add_argument("name", metavar="NAME", help="of the adapter, as `list` shows it")
    folder(added)
    added = add(commands, "pin", "adapters_pin", "have a task answered by one version, whatever else comes")
    added.add_argument("name", metavar="NAME", help="of the adapter")
    folder(added)
    added = add(commands, "unpin", "adapters_unpin", "have a task answered by its newest version again")
    added.add_argument("task", metavar="TASK")
    folder(added)


def _add_keys(commands: Any, add: Command) -> None:
    added = add(commands, "add", "keys_add", "make a key; it is shown once")
    added.add_argument("file", metavar="FILE", help="the key file; made where there is none")
    added.add_argument("--name", required=True, help="whose it is")
    added.add_argument(
        "--tasks", default="", help="comma-separated: the only ones it may ask (default: all, and vLLM's routes)"
    )
    added.add_argument("--max-concurrent", type=int, default=0, metavar="N", help="requests at a time")
    added = add(commands, "remove", "keys_remove", "take a key away; a running server notices")
    added.add_argument("file", metavar="FILE")
    added.add_argument("--name", required=True)
    added = add(commands, "list", "keys_list", "the names of the keys and what they may do")
    added.add_argument("file", metavar="FILE")


def settings_of(options: argparse.Namespace) -> ServeSettings:
    """The settings that the options of `serve` say, nothing computed yet."""
    limits = Limits(**{name: getattr(options, name) for name in LIMITS_TOLD})
    more = {name: getattr(options, name) for name in ("host", "port", "keys") if hasattr(options, name)}
    return ServeSettings(
        adapters=options.adapters,
        base=options.base,
        kv_cache_bytes=options.kv_cache_mib * MIB,
        limits=limits,
        hot=tuple(task.strip() for task in getattr(options, "hot", "").split(",") if task.strip()),
        vllm_arguments=tuple(getattr(options, "vllm_arguments", ())),
        **{name: getattr(options, name) for name in TOLD},
        **more,
    )
