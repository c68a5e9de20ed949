"""The certificates that clients of a service or a remote teacher trust."""

import os
import ssl

import httpx

from fourshot.engine.errors import InputError


def tls_of(address: httpx.URL) -> ssl.SSLContext:
    """Return the TLS settings for ``address``: the certificates that the environment names are trusted, or the usual.

    Raises InputError for a variable that names none.
    """
    if address.scheme == "http":  # not used, so a variable that names none is no fault
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # errors of TLS itself are OSErrors, too
        file = os.environ.get("SSL_CERT_FILE")
        raise InputError(
            f"SSL_CERT_FILE names {file!r}, which holds no certificates to trust: {error}. Name a file that does, or "
            "unset it for the usual ones."
        ) from error
