"""Under which names a service answers, so that pages of other sites cannot ask one that has no keys.

A page whose site has its name lead to this machine (DNS rebinding) is, to a browser, a page of the service: it may ask
and read the answers. The header Host still has the name of the site.
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
    """Raise `RefusalError` for a request to a name that is neither this machine's own nor in ``allowed``.

    Every browser says which name it asks; programs that say none are let in.
    """
    for field in (value.decode("latin-1").strip() for name, value in headers if name == b"host"):
        parts = FIELD.fullmatch(field)
        host = canonical(parts[1] or parts[2]) if parts else field
        if host and host not in allowed and not is_own(host):
            raise RefusalError(
                421,
                "unknown_host",
                f"{quoted(field)} is no name of this service. Ask for localhost or 127.0.0.1, or start the service "
                "with --allowed-hosts and this name, without a port: pages of any other site could ask it otherwise.",
            )


def canonical(host: str) -> str:
    """A name in small letters, an address of IPv6 in its shortest form."""
    address = _address(host)
    return str(address) if address else host.lower().removesuffix(".")


def is_own(host: str) -> bool:
    """Whether ``host``, in its canonical form, is this machine to itself, whatever a name server says."""
    address = _address(host)
    if address is None:  # Source: RFC 6761, section 6.3 (localhost, and all names below it)
        return host == "localhost" or host.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def names_given(given: Sequence[str]) -> tuple[str, ...]:
    """``given`` with --allowed-hosts, in their canonical form. Raises InputError for what is no name of a host."""
    names = tuple(canonical(name.removeprefix("[").removesuffix("]")) for name in given)
    for name in names:
        if not (name == ANY or NAME.fullmatch(name) or _address(name)):
            raise InputError(
                f"--allowed-hosts {name}: this is no name of a host. Give names or addresses without scheme, port and "
                f"path, such as classify.example; {ANY} allows any."
            )
    return names


def hosts_of(settings: ServeSettings, address: str) -> tuple[str, ...]:
    """The names that a service which listens at ``address`` answers to beside this machine's own; () for any.

    Where none are given, any will do for a service that has keys, or that other machines can reach.
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
