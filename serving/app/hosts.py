"""Check of the Host header, so that pages of other sites cannot query a service without keys.

A site can make its name resolve to this machine (DNS rebinding). To a browser, its page then belongs to the service,
and may send requests and read the responses. The header Host still has the name of the site.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from fourshot.engine.errors import InputError
from fourshot.serving.answers import RefusalError, quoted
from fourshot.serving.settings import ServeSettings

ANY = "*"
FIELD = re.compile(r"(?:\[(.+)\]|([^:]*))(?::\d*)?")  # Source: RFC 9110, section 7.2 (Host)
NAME = re.compile(r"[a-z0-9._-]+")


def check_host(headers: Iterable[tuple[bytes, bytes]], allowed: Sequence[str]) -> None:
    """Raise `RefusalError` if the Host header has a name that is neither this machine's own nor in ``allowed``.

    Every browser sends the header; programs that send none are let in.
    """
    for field in (value.decode("latin-1").strip() for name, value in headers if name == b"host"):
        parts = FIELD.fullmatch(field)
        host = canonical(parts[1] or parts[2]) if parts else field
        if host and host not in allowed and not is_own(host):
            raise RefusalError(
                421,
                "unknown_host",
                f"{quoted(field)} is not a name of this service. Use localhost or 127.0.0.1, or start the service "
                "with --allowed-hosts and this name, without a port. Otherwise, pages of any other site could send "
                "requests to it.",
            )


def canonical(host: str) -> str:
    """Return a name in lower case without a final dot, or an IPv6 address in its shortest form."""
    address = _address(host)
    return str(address) if address else host.lower().removesuffix(".")


def is_own(host: str) -> bool:
    """Whether ``host``, in its canonical form, always means this machine itself, whatever a name server says."""
    address = _address(host)
    if address is None:  # Source: RFC 6761, section 6.3 (localhost, and all names below it)
        return host == "localhost" or host.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def names_given(given: Sequence[str]) -> tuple[str, ...]:
    """Return the values of --allowed-hosts in canonical form. Raises InputError for a value that is no host name."""
    names = tuple(canonical(name.removeprefix("[").removesuffix("]")) for name in given)
    for name in names:
        if not (name == ANY or NAME.fullmatch(name) or _address(name)):
            raise InputError(
                f"--allowed-hosts {name}: this is not the name of a host. Give names or addresses without scheme, "
                f"port and path, such as classify.example; {ANY} allows any."
            )
    return names


def hosts_of(settings: ServeSettings, address: str) -> tuple[str, ...]:
    """Return the names that a service at ``address`` accepts in addition to this machine's own; () if it accepts any.

    Without --allowed-hosts, a service accepts any name if it has keys, or if other machines can reach it.
    """
    names = settings.allowed_hosts
    if ANY in names or (not names and (settings.keys or not is_own(address))):
        return ()
    return (canonical(settings.host), *names)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
