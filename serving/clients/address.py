"""Parsing of a service's address, and hints about addresses that do not work."""

import os
import re

import httpx

from fourshot.engine.errors import InputError

MOST_PORT = 65_535
EXAMPLE = "Give one such as http://127.0.0.1:8000."
OF_A_ROUTE = re.compile(r"/v1(?:/(?:classify|generate|tasks|models|chat|completions).*)?/?$")


def read_address(url: str | httpx.URL) -> httpx.URL:
    """Parse ``url``, without blanks around it and without fragment. Raises InputError for no address of a service."""
    url = str(url).strip()
    shown = repr(without_password(url))
    if re.match(r"[\w.-]+(?::\d+)?(?:/|$)|\[[\da-f:]+\]", url, re.IGNORECASE):
        raise InputError(f"{shown} is not an address of a service: http:// or https:// is missing. {EXAMPLE}")
    try:
        address = httpx.URL(url)
        address.raw_host.decode("ascii").encode("idna")  # as for the socket
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InputError(f"{shown} is not an address: {str(error).removesuffix('.')}. {EXAMPLE}") from None
    is_port = address.port is None or 0 < address.port <= MOST_PORT
    is_host = bool(address.host) and not re.search(r"\s|%20", address.host)
    if address.scheme not in ("http", "https") or not is_host or not is_port:
        raise InputError(f"{shown} is not an address of a service. {EXAMPLE}")
    if address.query:
        raise InputError(f"{shown} has a query, which requests to a service do not keep. Leave out what follows '?'.")
    return address.copy_with(fragment=None)


def without_password(url: str) -> str:
    """Return ``url`` without its password, for messages, which end up in logs."""
    return re.sub(r"(?<=//)([^/@:]*):[^/?#]*@", r"\1:...@", url)


def address_hint(address: str) -> str:
    """Return a hint if ``address`` ends in a route of the API; else ""."""
    ending = OF_A_ROUTE.search(address)
    return f" The address given is {address}: leave out {ending[0]!r}." if ending else ""


def redirect_hint(answer: httpx.Response) -> str:
    """Return a hint if ``answer`` is a redirect; else "". None is followed: a body is only sent where the user said."""
    if not answer.is_redirect:
        return ""
    return f" It redirects to {answer.headers['Location'][:200]}, which is not followed. Give that one if it is right."


def remedy(error: httpx.RequestError, url: str) -> str:
    """Return what to do after a connection error."""
    message = str(error)
    if "WRONG_VERSION_NUMBER" in message or "record layer failure" in message:
        return "The server there does not speak TLS: give the address with http://."
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return (
            "Its certificate is not trusted here. Name the file of its issuer's certificate in "
            f"SSL_CERT_FILE{'' if os.environ.get('SSL_CERT_FILE') else ', which is not set'}."
        )
    if isinstance(error, httpx.RemoteProtocolError) and url.startswith("http:"):
        return "Something listens there. If it speaks TLS, give the address with https://."
    return "Start one with `fourshot serve --adapters FOLDER`, or give the address of one that runs."
