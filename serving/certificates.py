"""The certificates that clients of a service or a remote teacher trust."""

import os
import ssl

import httpx

from fourshot.engine.errors import InputError


def tls_of(address: httpx.URL) -> ssl.SSLContext:
    """Return the SSL context for ``address``. It trusts the certificates that the environment names, or certifi's.

    Raises InputError if a variable names no certificates.
    """
    if address.scheme == "http":  # the context is not used, so a wrong variable does not matter
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # errors of TLS itself are OSErrors, too
        file = os.environ.get("SSL_CERT_FILE")
        raise InputError(
            f"SSL_CERT_FILE names {file!r}, which holds no certificates to trust: {error}. Name a file that does, or "
            "unset it for the usual ones."
        ) from error
