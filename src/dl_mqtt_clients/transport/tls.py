"""TLS for the client side: whom to trust, who we are, and what to tell people when it fails."""

import ssl

from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.transport.base import Address


def client_context(address: Address) -> ssl.SSLContext | None:
    """The context for `mqtts`, None for `mqtt`. The broker's name is checked, TLS 1.2 is the least.

    TransportError when a file cannot be read or is not a certificate or key.
    """
    if address.scheme != "mqtts":
        return None
    context = ssl.create_default_context()
    name, path = "ca_file", address.ca_file
    try:
        if path is not None:
            context = ssl.create_default_context(cafile=str(path))  # this authority and no other
        if address.cert_file is not None:
            name, path = "cert_file and key_file", address.cert_file
            context.load_cert_chain(str(address.cert_file), address.key_file and str(address.key_file))
    except OSError as error:  # ssl.SSLError is one
        raise TransportError(f"{name}: cannot use {path}: {error.strerror or error}") from error
    return context


def readable(error: OSError) -> str:
    """Why no connection came about, in words: `connection refused`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror or str(error) or type(error).__name__).lower()
