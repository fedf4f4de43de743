"""TLS towards clients, with a certificate that can be exchanged while connections go on."""

from __future__ import annotations

import ssl

from uftpd.auth.nodes.client import load_certificate
from uftpd.config.auth import AuthConfig


def tls_context(config: AuthConfig) -> ssl.SSLContext | None:
    """The context for HTTPS, or None for plain HTTP.

    Raises:
        ConfigError: certificate or key cannot be used.
    """
    server = config.server
    if server.plain_http or server.certificate is None or server.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Only HTTP/1.1: that is what the clients speak, and HTTP/2 is one more parser for strangers to play with.
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, server.certificate, server.key)
    return context


class ExchangeableContext:
    """A context for listeners that hands each new connection to the newest context.

    Loading another certificate into a context in use will not do: OpenSSL drops the old key when the new certificate
    is in, and if then the new key turns out to be unreadable the server has none.

    Attributes:
        outer: for the listeners.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.outer = context
        self._newest = context
        # Called for every ClientHello, with or without a server name.
        context.sni_callback = self._choose

    def exchange(self, context: ssl.SSLContext) -> None:
        """Use another context from the next connection on."""
        self._newest = context

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        if connection.context is not self._newest:
            connection.context = self._newest
