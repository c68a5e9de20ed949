"""How a service is set up: one struct, read by the command, the server's process and the plugin inside vLLM."""

import msgspec

ENVIRONMENT = "FOURSHOT_SERVE"  # holds a `ServeSettings` as JSON for vLLM's processes


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client may ask for. Beyond it the answer is an error that says so, never a slow collapse."""

    max_body_bytes: int = 1 << 20
    max_texts: int = 256  # in one request
    max_text_chars: int = 100_000  # of one text; the prompt is cut to the card's max_text_words anyway
    max_queue_s: float = 0.5  # work waiting for the model beyond this: rejected (429)
    max_concurrent: int = 256  # requests of one key at a time; a key's own limit goes before it
    max_connections: int = 1000
    timeout_s: float = 60.0  # from arrival to answer
    header_timeout_s: float = 10.0  # for a client to send its headers
    body_timeout_s: float = 20.0  # and its body
    max_header_bytes: int = 32 << 10
    max_json_depth: int = 32
    max_wait_ms: float = 250.0  # how long a text may be passed over by texts whose adapter is in a slot


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a server needs. Zero means: computed from the adapters and the memory (`serving.app.slots`)."""

    adapters: str  # folder that is watched
    base: str | None = None  # None: the embedded model
    host: str = "127.0.0.1"
    port: int = 8000
    keys: str = ""  # file of API keys; empty: everybody may ask
    hot: tuple[str, ...] = ()  # tasks whose adapters never leave their slot
    max_loras: int = 0
    max_cpu_loras: int = 0
    max_lora_rank: int = 0
    kv_cache_bytes: int = 0
    max_model_len: int = 2048
    max_num_seqs: int = 128
    poll_s: float = 1.0  # how often the folder is looked at
    drain_s: float = 20.0  # how long a shutdown waits for requests in flight
    limits: Limits = Limits()
    vllm_arguments: tuple[str, ...] = ()  # passed on to vLLM's server as they are


def to_json(settings: ServeSettings) -> str:
    """For `ENVIRONMENT`."""
    return msgspec.json.encode(settings).decode()


def from_json(text: str) -> ServeSettings:
    """Of `ENVIRONMENT`. Raises msgspec.ValidationError."""
    return msgspec.json.decode(text, type=ServeSettings)
