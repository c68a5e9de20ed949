"""Settings of a service: one struct, used by the command, the server's process and the plugin inside vLLM."""

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from fourshot.engine.adapters import slot_rank
from fourshot.engine.checkpoints.models import ResolvedModel, resolve_model
from fourshot.engine.errors import InputError
from fourshot.engine.vllm_seams.adapter_check import LARGEST_RANK

STAGING = "fourshot-serving-"  # prefix of the folders that hold copies of adapters
ENVIRONMENT = "FOURSHOT_SERVE"  # holds a `ServeSettings` as JSON for vLLM's processes
PROXIES = "FORWARDED_ALLOW_IPS"  # uvicorn's variable: proxies whose X-Forwarded-For is trusted
NEAR_PROXIES = "127.0.0.1,::1,::ffff:127.0.0.1"  # on this machine; the last form applies if the service listens on ::

MAY_BE_0 = (  # 0 means: computed, or without waiting
    *("max_loras", "max_cpu_loras", "max_lora_rank", "kv_cache_bytes", "max_num_seqs"),
    *("drain_s", "max_queue_s", "max_wait_ms"),
)


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on clients and their requests. A request beyond a limit gets an error that says so.

    Without them, overload would slow the service down for all. The comments are the help of `fourshot serve`.
    """

    max_body_bytes: int = 1 << 20  # of a request
    max_texts: int = 256  # in one request
    max_text_chars: int = 100_000  # of one text; the prompt is cut to the card's max_text_words anyway
    max_queue_s: float = 30.0  # seconds of work queued ahead of a request, above which it gets a 429
    max_concurrent: int = 256  # concurrent requests of one key, or else of one address; a key's own limit comes first
    max_connections: int = 1000  # open connections of all clients
    timeout_s: float = 60.0  # seconds from a request's arrival to its response
    header_timeout_s: float = 10.0  # seconds for a client to send its headers
    body_timeout_s: float = 20.0  # seconds for a client to send its body
    keep_alive_s: float = 75.0  # seconds that an idle connection is kept open; a proxy in front should close earlier
    max_header_bytes: int = 32 << 10  # of a request
    max_json_depth: int = 32  # levels of nested objects and lists in a body
    max_wait_ms: float = 250.0  # how long the text next in line may be delayed by texts whose adapter is in a slot


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a server. Zero means: computed from the adapters and the memory (`serving.models.slots`).

    The comments are the help of `fourshot serve`.
    """

    adapters: str  # folder to watch
    base: str | None = None  # None: the bundled model
    host: str = "127.0.0.1"  # address to listen on; any other lets other machines connect
    port: int = 8000  # 0: a free one
    keys: str = ""  # file of API keys, made with `fourshot keys add`; without it, no key is needed
    cors_origins: tuple[str, ...] = ()  # sites whose pages may call the service, as https://app.example; * for all
    allowed_hosts: tuple[str, ...] = ()  # accepted Host names beside this machine's own; `serving.app.hosts`
    hot: tuple[str, ...] = ()  # tasks whose adapters keep their slot, except in a step that needs all slots
    max_loras: int = 0  # adapters that may share a batch; 0: computed
    max_cpu_loras: int = 0  # adapters kept in memory; 0: computed
    max_lora_rank: int = 0  # largest accepted rank; 0: the largest of the adapters in the folder
    kv_cache_bytes: int = 0  # 0: computed
    max_model_len: int = 2048  # tokens of the longest prompt
    max_num_seqs: int = 0  # texts in one batch; 0: 128 on a CPU, vLLM's default on a GPU
    poll_s: float = 1.0  # seconds between two scans of the adapters' folder
    drain_s: float = 20.0  # seconds that a shutdown waits for requests in flight
    limits: Limits = Limits()
    students_only: bool = False  # the folder holds only students: no base model is loaded
    behind_router: bool = False  # all requests come from the router of replicas, which names the client of each
    router_asks_keys: bool = False  # of a replica, whose own key is its router's: whether clients need a key
    found_base: ResolvedModel | None = None  # of a replica over Ray: `base` as found on its machine
    vllm_arguments: tuple[str, ...] = ()  # passed to vLLM's server unchanged

    @property
    def asks_keys(self) -> bool:
        """Whether clients need a key."""
        return self.router_asks_keys if self.behind_router else bool(self.keys)

    def check(self) -> None:
        """Raise InputError, naming the option, for a number with which no service could work."""
        for section in (self, self.limits):
            for name in section.__struct_fields__:
                value = getattr(section, name)
                if not isinstance(value, int | float) or isinstance(value, bool) or name == "port":
                    continue
                least = 0 if name in MAY_BE_0 else 1 if isinstance(value, int) else 0.001
                if not least <= value < math.inf:
                    if name == "kv_cache_bytes":
                        name, value = "kv_cache_mib", self.kv_cache_bytes >> 20
                    raise InputError(f"--{name.replace('_', '-')} {value}: give a number of {least} or more.")
        rank = self.max_lora_rank
        if rank and (rank > LARGEST_RANK or rank != slot_rank(rank)):
            fitting = min(slot_rank(rank), LARGEST_RANK)
            raise InputError(
                f"--max-lora-rank {rank}: give a power of two from 8 to {LARGEST_RANK}, such as {fitting}."
            )

    @property
    def authority(self) -> str:
        """``host:port`` as in a URL, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def find_base(self) -> ResolvedModel:
        """Return the base model on this machine. Raises ModelNotFoundError."""
        return self.found_base or resolve_model(self.base)


def options_in(words: Sequence[str]) -> dict[str, str]:
    """Return the options among ``words``, with the values that follow them or an equals sign."""
    values = dict(pairwise([*words, ""]))
    return values | {name: value for word in words for name, sign, value in [word.partition("=")] if sign}


def to_json(settings: ServeSettings) -> str:
    """Encode ``settings`` for the variable `ENVIRONMENT`."""
    return msgspec.json.encode(settings).decode()


def from_json(text: str) -> ServeSettings:
    """Decode the value of `ENVIRONMENT`. Raises msgspec.ValidationError."""
    return msgspec.json.decode(text, type=ServeSettings)
