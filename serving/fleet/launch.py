"""From settings to a running service: computed sizes, the socket, and one server or several, until a signal."""

import asyncio
import re
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.checkpoints.models import refuse_fake
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import allow_open_files, check_mounted
from fourshot.engine.machine.memory import free_bytes
from fourshot.engine.vllm_scoring import CANNOT_SCORE, installed_vllm_scores
from fourshot.engine.vllm_seams.lora_support import check_lora_support
from fourshot.serving.app.hosts import hosts_of, names_given
from fourshot.serving.app.keys import Keys
from fourshot.serving.fleet.supervisor import Say, Supervisor, listen
from fourshot.serving.models.registry import FolderContents, Registry, base_named
from fourshot.serving.models.slots import ServerFit, fit
from fourshot.serving.settings import Limits, ServeSettings, options_in

if TYPE_CHECKING:
    from fourshot.serving.fleet.replicas import Replicas

# Source: RFC 6454, section 6.2, for the schemes of pages; hosts in lower case, as browsers send them.
ORIGIN = re.compile(r"https?://[^/?#@\sA-Z]+(:\d+)?")
# Options of the command that are no fields of its settings; and those of its options that vLLM's server has, too.
COMMAND_OPTIONS = ("cors_origin", "kv_cache_mib", "replicas", "ray", "log", "json", "quiet")
OF_VLLM_TOO = {"max_loras", "max_cpu_loras", "max_lora_rank", "max_model_len", "max_num_seqs"}


class ServiceLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """A service that is about to start: its socket is open, and nothing of it runs yet."""

    settings: ServeSettings  # complete
    contents: FolderContents
    listening: socket.socket
    replicas: int
    ray: str

    @property
    def address(self) -> str:
        scheme = "https" if "--ssl-certfile" in options_in(self.settings.vllm_arguments) else "http"
        return f"{scheme}://{self.settings.authority}"

    async def run(self, log: Path, say: Say, on_ready: Callable[[], None]) -> None:
        """Serve until SIGINT or SIGTERM. ``on_ready`` is called once, when the first request can be answered.

        ``log`` gets the output of the server's processes; ``say`` gets messages for their owner. Raises FourshotError
        if a server cannot be started at all.
        """
        # A connection is one open file; in the router it is two: the client's, and the one to a replica.
        allow_open_files(2 * self.settings.limits.max_connections)
        servers = self._servers(log, say)
        serving, waiting = asyncio.create_task(servers.run()), asyncio.create_task(servers.ready.wait())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, servers.stop)
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            on_ready()
        waiting.cancel()
        await serving

    def _servers(self, log: Path, say: Say) -> "Supervisor | Replicas":
        if self.replicas == 1 and not self.ray:
            return Supervisor(self.settings, self.listening, log, say)
        from fourshot.serving.fleet.replicas import Replicas

        return Replicas(self.settings, self.listening, self.replicas, self.ray, log, say)


def prepare(settings: ServeSettings, replicas: int = 1, ray: str = "") -> ServiceLaunch:
    """Complete ``settings`` and open the socket. Raises InputError before any model is loaded."""
    check_mounted(settings.adapters)
    settings.check()
    names = names_given(settings.allowed_hosts)
    settings = msgspec.structs.replace(settings, host=bare_host(settings.host), allowed_hosts=names)
    if settings.keys:
        Keys(settings.keys)  # raises for an invalid file
    for origin in settings.cors_origins:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise InputError(
                f"--cors-origin {origin}: this is not an origin. Give scheme, host and port of a site as browsers "
                "send them, without a path or a slash at the end: https://app.example or http://localhost:3000."
            )
    check_order(settings.vllm_arguments)
    check_tls(settings.vllm_arguments)
    if "--ssl-certfile" in options_in(settings.vllm_arguments) and (replicas > 1 or ray):
        raise InputError(
            "--replicas and --ray serve over http only: their router has no TLS. Put a proxy that speaks TLS in "
            "front of it, or use --ssl-certfile and --ssl-keyfile with a single server."
        )
    if replicas < 1:
        raise InputError(f"--replicas {replicas}: give at least 1.")
    settings, fitted, contents = complete(settings, 1 if ray else replicas)
    if fitted and len(settings.hot) >= settings.max_loras:
        raise InputError(
            f"--hot names {len(settings.hot)} tasks, but there are {settings.max_loras} slots; the other tasks, and "
            "new versions, need at least one. Raise --max-loras."
        )
    listening = listen(settings.host, settings.port)
    address, port, *_ = listening.getsockname()
    settings = msgspec.structs.replace(settings, port=port, allowed_hosts=hosts_of(settings, address))
    return ServiceLaunch(settings=settings, contents=contents, listening=listening, replicas=replicas, ray=ray)


def check_order(words: Sequence[str]) -> None:
    """Raise InputError if our own options follow ``--vllm``: vLLM, once loaded, refuses or ignores them."""
    own = {*ServeSettings.__struct_fields__, *Limits.__struct_fields__, *COMMAND_OPTIONS} - OF_VLLM_TOO
    names = {f"--{name.replace('_', '-')}" for name in own}
    if misplaced := [name for name in (word.partition("=")[0] for word in words) if name in names]:
        raise InputError(
            f"{', '.join(misplaced)}: what follows --vllm is for vLLM's server only. Give it before --vllm."
        )


def check_tls(words: Sequence[str]) -> None:
    """Raise InputError if the options of vLLM's server name a certificate or a key that it cannot use.

    vLLM itself would report that only after its models are loaded, and exit.
    """
    given = options_in(words)
    certificate, key = given.get("--ssl-certfile", ""), given.get("--ssl-keyfile")
    if not certificate:
        if key:
            raise InputError("--ssl-keyfile is given without --ssl-certfile. Give both, or neither for http.")
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, lambda: "")
    except (OSError, ValueError) as error:  # errors of TLS itself are OSErrors, too
        raise InputError(
            f"{certificate}{f' and {key}' if key else ''} cannot be used for TLS: {error}. Give a certificate and its "
            "key, as PEM files without a password."
        ) from error


def bare_host(host: str) -> str:
    """Return ``host`` as a socket takes it: without the brackets of an IPv6 address. Raises InputError if empty."""
    host = host.strip()
    if not host:
        raise InputError("--host is empty, which would mean every address. Give 127.0.0.1, or 0.0.0.0 or :: for all.")
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def complete(settings: ServeSettings, replicas: int = 1) -> tuple[ServeSettings, ServerFit | None, FolderContents]:
    """Return ``settings`` with everything computed, the sizes they are based on, and the folder's contents.

    The sizes are for each of ``replicas`` that share this machine. They are None if there are only students: then no
    base model is looked for, unless one is named. Raises InputError for a folder that does not exist, a base that takes
    no adapters, a vLLM that cannot score, or sizes that do not fit.
    """
    refuse_fake(settings.base, "A service")
    base = base_named(settings.base)
    contents = Registry(settings.adapters, base).read()
    if not (settings.base or settings.vllm_arguments) and contents.has_students_only:
        return msgspec.structs.replace(settings, students_only=True), None, contents
    if not installed_vllm_scores():
        raise InputError(CANNOT_SCORE)
    check_lora_support(base().path)
    fitted = fit(settings, base(), contents, free_bytes() // replicas)
    computed = ("max_loras", "max_cpu_loras", "max_lora_rank", "kv_cache_bytes")
    return msgspec.structs.replace(settings, **{name: getattr(fitted, name) for name in computed}), fitted, contents
