"""The proxy between a client and its service: the environment's, read for that one address.

httpx itself reads every proxy variable when a client is made, and fails on an invalid one that does not apply.
"""

import os
import re
from collections.abc import AsyncIterator
from importlib.util import find_spec
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any
from urllib.request import getproxies

import httpx
import msgspec

from fourshot.engine.errors import InputError
from fourshot.serving.certificates import tls_of

PORTS = {"http": 80, "https": 443}
MOST_ANSWER_BYTES = 64 << 20  # decompressed; a megabyte of gzip may hold a gigabyte


class ProxyInUse(msgspec.Struct, frozen=True, kw_only=True):
    """A proxy, and the variable of the environment that names it."""

    variable: str
    url: str  # as it is named there, with a scheme
    proxy: httpx.Proxy


def proxy_for(address: httpx.URL) -> ProxyInUse | None:
    """Return the proxy for ``address``; None for direct requests, as always to this machine, which no proxy can reach.

    Raises InputError, which names the variable, for a proxy that cannot be used.
    """
    proxies = getproxies()
    if is_this_machine(address.host) or is_excepted(address, proxies.get("no", "")):
        return None
    scheme = next((scheme for scheme in (address.scheme, "all") if proxies.get(scheme, "").strip()), None)
    if scheme is None:
        return None
    proxy_url, name = proxies[scheme].strip(), f"{scheme}_proxy"
    proxy_url = proxy_url if "://" in proxy_url else f"http://{proxy_url}"
    variable = name if os.environ.get(name) else name.upper()
    leave = f"Change {variable}, or name {address.host} in NO_PROXY to connect to it directly."
    try:
        proxy = httpx.Proxy(proxy_url)
    except (ValueError, httpx.InvalidURL) as error:
        raise InputError(f"{variable} does not name a usable proxy: {error}. {leave}") from None
    if not proxy.url.host:
        raise InputError(f"{variable} does not name a proxy: it has no host. {leave}")
    if proxy.url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise InputError(f"{variable} names a SOCKS proxy, which needs a package: pip install 'httpx[socks]'. {leave}")
    return ProxyInUse(variable=variable, url=proxy_url, proxy=proxy)


def openai_client(address: httpx.URL, proxy: ProxyInUse | None) -> Any:
    """Return the HTTP client of the package `openai`, for requests to ``address``, through ``proxy`` if there is one.

    It follows no redirects: most lose the body, and texts must not be sent to anybody whom the user did not name. A
    response of more than `MOST_ANSWER_BYTES` raises AnswerTooLargeError while it is read.
    """
    import openai

    options: dict[str, Any] = {"follow_redirects": False, "event_hooks": {"response": [_bound]}, "trust_env": False}
    return openai.DefaultAsyncHttpxClient(proxy=proxy.url if proxy else None, verify=tls_of(address), **options)


class AnswerTooLargeError(Exception):
    """A service sends more than any valid response has."""


async def _bound(response: Any) -> None:
    """Limit the decompressed size of a response of httpx: the library itself collects all of it in memory."""
    read = response.aiter_bytes

    async def bounded(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        total = 0
        async for part in read(chunk_size):
            total += len(part)
            if total > MOST_ANSWER_BYTES:
                raise AnswerTooLargeError(f"it is larger than {MOST_ANSWER_BYTES >> 20} MiB")
            yield part

    response.aiter_bytes = bounded


def is_this_machine(host: str) -> bool:
    """Whether ``host``, a name or an address without brackets, is this machine."""
    host = host.rstrip(".").lower()
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified


def is_excepted(address: httpx.URL, no_proxy: str) -> bool:
    """Whether NO_PROXY matches ``address``: by its host, a parent domain, or a range of addresses; * matches all.

    Source: https://curl.se/libcurl/c/CURLOPT_NOPROXY.html, and ports as in urllib.
    """
    host, port = address.host.rstrip(".").lower(), str(address.port or PORTS[address.scheme])
    for entry in re.split(r"[,\s]+", no_proxy.lower()):
        entry = entry.partition("://")[2] or entry
        if entry == "*":
            return True
        with_port = re.fullmatch(r"(\[.*\]|[^:]*):(\d+)", entry)
        if with_port and with_port[2] != port:
            continue
        name = (with_port[1] if with_port else entry).strip("[]")
        try:
            if ip_address(host) in ip_network(name, strict=False):
                return True
        except ValueError:  # one of them is a name
            domain = name.lstrip("*").strip(".")
            if domain and (host == domain or host.endswith(f".{domain}")):
                return True
    return False
