"""The command port: serves auth servers' requests, each connection on its own (DATA-PLANE section 1).

A slow, silent, oversized or malformed peer costs nobody else anything: handshake and request have a deadline, the
request a size, connections a number.
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from typing import Final

import trio

from uftp._version import __version__
from uftp.protocol.command_port import (
    Access,
    Cipher,
    PingRequest,
    Request,
    RequestReader,
    RequestRefused,
    TransferRequest,
    UserInfoRequest,
    parse_request,
    plain_address,
)
from uftp.protocol.command_replies import (
    PingReply,
    UserInfoReply,
    encode_ping_reply,
    encode_refusal,
    encode_transfer_reply,
    encode_user_info_reply,
)
from uftp.protocol.features import EXTENSION_FEATURES
from uftpd.config.data import DataConfig
from uftpd.data.acl import AccessList, has_expired, peer_subject
from uftpd.data.children import SessionRefused
from uftpd.data.copies import site_features
from uftpd.data.ledger import Ledger
from uftpd.data.sessions import Sessions
from uftpd.events import EventLog

_log = EventLog("command")

_REPLY_SECONDS: Final = 15.0
_RECORD_KEY_BYTES: Final = 48  # what clients of MODE U ask for (EXTENSIONS section 1)
_TOO_MANY: Final = encode_refusal("Too many requests at once, try again later")
_UNKNOWN_USER: Final = b"500 No such user or no home directory found\n"


class CommandServer:
    """See the module.

    Attributes:
        config: settings; replaced on reload.
        ftp_port: what requests are answered with.
        objects_url: where the object server is; empty without one.
    """

    def __init__(
        self,
        config: DataConfig,
        ledger: Ledger,
        sessions: Sessions,
        tls: ssl.SSLContext | None,
        acl: AccessList | None,
        own_user: str | None,
    ) -> None:
        self.config = config
        self._ledger = ledger
        self._sessions = sessions
        self._tls = tls
        self._acl = acl
        self._connections = 0
        self._own_user = own_user
        self.ftp_port = 0
        self.objects_url = ""

    def set_tls(self, tls: ssl.SSLContext | None, acl: AccessList | None) -> None:
        """Serve new connections so."""
        self._tls, self._acl = tls, acl

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, one request."""
        if self._connections >= self.config.command_port.max_connections:
            _log("connection refused", level="warning", connections=self._connections)
            if self._tls is None:
                with trio.move_on_after(_REPLY_SECONDS), contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(_TOO_MANY)  # an empty send buffer takes it at once
            stream.socket.close()
            return
        self._connections += 1
        peer = _peer(stream)
        try:
            await self._exchange(stream, peer)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            _log("request not served", level="warning", peer=peer, reason=_reason(error))
        except Exception as error:
            _log("request failed", level="error", peer=peer, error=repr(error))
        finally:
            self._connections -= 1
            stream.socket.close()

    async def _exchange(self, plain: trio.SocketStream, peer: str) -> None:
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
        with trio.fail_after(self.config.command_port.request_seconds):
            if self._tls is not None:
                stream = trio.SSLStream(plain, self._tls, server_side=True, https_compatible=True)
                await stream.do_handshake()
                if not self._admits(stream, peer):
                    return
            try:
                request = await _receive(stream)
            except RequestRefused as error:
                _log("request refused", level="warning", peer=peer, reason=str(error))
                await stream.send_all(encode_refusal(str(error)))
                return
        if request is None:
            return
        answer = await self._answer(request)
        with trio.fail_after(_REPLY_SECONDS):
            await stream.send_all(answer)
            await stream.aclose()

    def _admits(self, stream: trio.SSLStream[trio.SocketStream], peer: str) -> bool:
        certificate = stream.getpeercert(binary_form=True)
        subject = peer_subject(certificate)
        if stream.session_reused and has_expired(certificate):
            _log("request not served", level="warning", peer=peer, subject=subject, reason="certificate has expired")
            return False
        if self._acl is not None and self._acl.admits(subject):
            return True
        _log("peer not in the ACL", level="warning", peer=peer, subject=subject)
        return False

    async def _answer(self, request: Request) -> bytes:
        match request:
            case PingRequest():
                return self._ping()
            case UserInfoRequest(user=user):
                return await self._user_info(user)
            case TransferRequest():
                return self._transfer(request)

    def _ping(self) -> bytes:
        ftp = self.config.ftp
        return encode_ping_reply(
            PingReply(
                version=__version__,
                listen_port=self.ftp_port,
                listen_address=ftp.listen[0].host,
                max_sessions=self.config.limits.sessions_per_user,
                advertise_address=ftp.advertise,
                features=EXTENSION_FEATURES + site_features(self.config),
                objects=self.objects_url,
            )
        )

    async def _user_info(self, user: str) -> bytes:
        if user == "root":
            return b"500 Not allowed\n"
        try:
            found = await self._sessions.user_info(user)
        except SessionRefused as error:
            if "unknown user" in str(error):
                return _UNKNOWN_USER
            return f"530 Not logged in: {error}\n".encode()
        return encode_user_info_reply(
            UserInfoReply(
                version=__version__, user=user, home=found.home, accepted_keys=found.keys, status=found.status
            )
        )

    def _transfer(self, request: TransferRequest) -> bytes:
        try:
            self._check(request)
            self._ledger.add(request)
        except RequestRefused as error:
            _log("request refused", level="warning", user=request.user, request=request.request_id, reason=str(error))
            return encode_refusal(str(error))
        _log(
            "login expected",
            user=request.user,
            request=request.request_id or None,
            persistent=request.persistent,
            access=request.access.name,
        )
        return encode_transfer_reply(self.ftp_port)

    def _check(self, request: TransferRequest) -> None:
        if self._own_user is not None and request.user != self._own_user:
            raise RequestRefused(
                f"This UFTPD server runs without root, as '{self._own_user}', and cannot open sessions for "
                f"'{request.user}'"
            )
        if request.http:
            self._check_object(request)
        cipher = request.algorithm
        # A key of the form MODE U's clients use may be for MODE U; the session then takes nothing else.
        maybe_records = cipher is Cipher.AES and len(request.key or b"") == _RECORD_KEY_BYTES
        if cipher and cipher.value not in self.config.transfers.legacy_ciphers and not maybe_records:
            raise RequestRefused(f"{cipher.value} is not allowed on this UFTPD server.")

    def _check_object(self, request: TransferRequest) -> None:
        if not self.objects_url:
            raise RequestRefused("Access over HTTP is not supported by this UFTPD server.")
        if not request.scope:
            raise RequestRefused("Access over HTTP is for one object: 'scope' must name it")
        if request.access < Access.READ:
            raise RequestRefused("Access over HTTP needs 'access-permissions' of READ or more")


async def _receive(stream: trio.abc.ReceiveStream) -> Request | None:
    """The request; None if the peer ends before `END`: never act on what was cut off."""
    reader = RequestReader()
    while data := await stream.receive_some(8192):
        fields = reader.receive_data(bytes(data))
        if fields is not None:
            return parse_request(fields)
    return None


def _peer(stream: trio.SocketStream) -> str:
    try:
        return str(plain_address(ipaddress.ip_address(stream.socket.getpeername()[0])))
    except OSError:
        return ""  # it is gone already


def _reason(error: BaseException) -> str:
    """What OpenSSL or the system says; trio wraps it."""
    if isinstance(error, trio.TooSlowError):
        return "took too long"
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS fails: {cause.reason or cause}"
    return str(cause or error) or repr(error)
