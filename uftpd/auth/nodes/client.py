"""One exchange with the command port of a data node: connect, send a request, read the reply to its end.

Our own data node and upstream's are both served: TLS with mutual authentication, or plain text on loopback
(CONTROL-PLANE 2.1). Each exchange has a connection of its own, so most of its price is the TLS handshake; a session
of TLS is resumed where the node allows it, which spares both ends the certificates and signatures.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio
from cryptography import x509

from uftp.protocol.command_port import Request, encode_request
from uftp.protocol.dn import InvalidName, same_rdns
from uftpd.auth.nodes.resumption import Resumption
from uftpd.config.auth import CommandPortClient, Instance
from uftpd.config.toml import ConfigError

MAX_REPLY_BYTES = 256 * 1024  # a user-info reply holds whole key files of up to 64 KiB each


class NodeUnreachable(Exception):
    """No reply came. The message says why, for the log.

    Attributes:
        worth_repeating: it may have been for the resumed session of TLS: the next attempt is a full handshake.
    """

    worth_repeating = False


@dataclass(slots=True)
class _Attempt:
    """How far one connection came.

    Attributes:
        offered: a session to resume was offered.
        answered: bytes of a reply came.
        late: the time was up.
    """

    offered: bool = False
    answered: bool = False
    late: bool = False


class CommandPort:
    """Speaks with command ports, with one certificate and one set of trusted CAs."""

    def __init__(
        self,
        settings: CommandPortClient,
        certificate: Path | None,
        key: Path | None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Load all files that are needed, so that privileges can be dropped afterwards.

        Args:
            settings: time limits, CA, and the certificate if it has one of its own.
            certificate: the server's, if the settings have none.
            key: likewise.
            clock: seconds, monotonic.

        Raises:
            ConfigError: a file cannot be read or used.
        """
        self._settings = settings
        if settings.certificate is not None:
            certificate, key = settings.certificate, settings.key
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._resumption = Resumption(clock)
        if settings.ca is not None and certificate is not None and key is not None:
            for check_host_name in (True, False):
                self._contexts[check_host_name] = _context(settings.ca, certificate, key, check_host_name)

    async def exchange(
        self, instance: Instance, request: Request, *, extensions: bool = False, seconds: float | None = None
    ) -> bytes:
        """Send a request and return the whole reply, which is never empty.

        Args:
            instance: where to.
            request: what to ask.
            extensions: also send the fields of EXTENSIONS section 7.
            seconds: for the reply; default: the configured time.

        Raises:
            NodeUnreachable: no connection, no trust in the certificate, no reply in time, or too long a reply. The
                node may have taken the request all the same.
            RequestRefused: a value of the request cannot be sent as it is; nothing was sent.
            ValueError: the request needs extensions, and `extensions` is false; nothing was sent.
        """
        data = encode_request(request, extensions=extensions)
        connect_seconds = self._settings.connect_seconds
        reply_seconds = self._settings.reply_seconds
        if seconds is not None:
            connect_seconds, reply_seconds = min(seconds, connect_seconds), min(seconds, reply_seconds)
        attempt = _Attempt()
        try:
            return await self._attempt(instance, data, connect_seconds, reply_seconds, attempt)
        except NodeUnreachable as error:
            if attempt.offered and not attempt.answered and not attempt.late:
                self._resumption.broke_off(instance)
                error.worth_repeating = True
            raise

    async def _attempt(
        self, instance: Instance, data: bytes, connect_seconds: float, reply_seconds: float, attempt: _Attempt
    ) -> bytes:
        address = str(instance.command)
        try:
            with trio.fail_after(connect_seconds):
                stream = await self._connect(instance, attempt)
        except trio.TooSlowError:
            attempt.late = True
            raise NodeUnreachable(f"{address}: no connection within {connect_seconds:g} s") from None
        try:
            with trio.fail_after(reply_seconds):
                await stream.send_all(data)
                reply = await _read_all(stream, attempt)
            if reply and isinstance(stream, trio.SSLStream):
                self._resumption.keep(instance, stream)
        except trio.TooSlowError:
            attempt.late = True
            raise NodeUnreachable(f"{address}: no reply within {reply_seconds:g} s") from None
        except trio.BrokenResourceError as error:
            raise NodeUnreachable(f"{address}: {_reason(error)}") from error
        finally:
            # The reply is complete or worthless: nothing is lost by not waiting for the peer's goodbye.
            await trio.aclose_forcefully(stream)
        if not reply:
            raise NodeUnreachable(
                f"{address}: closed without a reply; its log says whether our certificate is "
                "of another CA, has expired, or is not on its list"
            )
        return reply

    async def _connect(self, instance: Instance, attempt: _Attempt) -> trio.abc.Stream:
        address = str(instance.command)
        try:
            plain = await trio.open_tcp_stream(instance.command.host, instance.command.port)
        except (OSError, UnicodeError) as error:  # the latter for a host name that cannot be one
            raise NodeUnreachable(f"{address}: {_reason(error)}") from error
        if instance.plain:
            return plain
        check_host_name = instance.check_host_name and not instance.subject
        context = self._contexts[check_host_name]
        # https_compatible: upstream closes without TLS's goodbye.
        stream = trio.SSLStream(plain, context, server_hostname=instance.command.host, https_compatible=True)
        try:
            attempt.offered = self._resumption.offer(instance, stream)
            await stream.do_handshake()
            _check_subject(stream, instance)
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error, trio.BrokenResourceError):
                raise NodeUnreachable(f"{address}: {_reason(error)}") from error
            raise
        return stream


def _context(ca: Path, certificate: Path, key: Path, check_host_name: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = check_host_name
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca}: no usable CA certificates: {error.strerror or error}") from error
    load_certificate(context, certificate, key)
    return context


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Load a certificate with its key, or say which file is wrong.

    Raises:
        ConfigError: unreadable, not PEM, or they do not belong together.
    """
    for path in (certificate, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or "not usable"
        raise ConfigError(f"{certificate}, {key}: no certificate with its unencrypted key: {reason}") from error


def _check_subject(stream: trio.SSLStream[trio.SocketStream], instance: Instance) -> None:
    if not instance.subject:
        return
    der = stream.getpeercert(binary_form=True)
    subject, matches = "", False
    try:
        subject = x509.load_der_x509_certificate(der).subject.rfc4514_string() if der else ""
        matches = same_rdns(subject, instance.subject)
    except (InvalidName, ValueError):
        pass  # OpenSSL takes certificates that have no name one could compare
    if not matches:
        raise NodeUnreachable(f"{instance.command}: its certificate is for '{subject}'")


async def _read_all(stream: trio.abc.Stream, attempt: _Attempt) -> bytes:
    reply = bytearray()
    while data := await stream.receive_some(65536):
        attempt.answered = True
        reply += data
        if len(reply) > MAX_REPLY_BYTES:
            raise trio.BrokenResourceError(f"reply larger than {MAX_REPLY_BYTES} bytes")
    return bytes(reply)


def _reason(error: BaseException) -> str:
    """The innermost known reason; trio wraps those of TLS and sockets."""
    cause = error.__cause__ or error.__context__
    while isinstance(cause, BaseExceptionGroup):  # several addresses were tried; one reason will do
        cause = cause.exceptions[0]
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(cause, OSError):
        return _reason(cause)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
