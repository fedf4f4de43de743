"""ssh-agent: which keys it holds, and signatures by them (draft-ietf-sshm-ssh-agent, sections 3 and 4).

    4 bytes length, 1 byte type, contents; SSH strings and numbers as in RFC 4251 section 5

Nothing secret comes from an agent. What it sends is checked all the same: the socket is named by a variable, and
another user may be at its other end.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from uftp.errors import AuthenticationFailed

SOCKET_VARIABLE: Final = "SSH_AUTH_SOCK"
NO_AGENT_VARIABLE: Final = "UFTP_NO_AGENT"

_REQUEST_IDENTITIES: Final = 11
_IDENTITIES_ANSWER: Final = 12
_SIGN_REQUEST: Final = 13
_SIGN_RESPONSE: Final = 14
_RSA_SHA2_256: Final = 2  # flag of a sign request (RFC 8332): else RSA signatures are over SHA-1

_MAX_MESSAGE_BYTES: Final = 256 * 1024  # OpenSSH's own limit
_MAX_KEYS: Final = 1000
_LIST_SECONDS: Final = 10.0
_SIGN_SECONDS: Final = 120.0  # the agent may ask the person first


class AgentError(AuthenticationFailed):
    """There is no agent, or it does not do what it should."""


@dataclass(frozen=True, slots=True)
class AgentKey:
    """A key an agent holds.

    Attributes:
        blob: public key, as in an SSH key line (RFC 4253 section 6.6).
        comment: for people; mostly the file's name.
    """

    blob: bytes
    comment: str


def agent_socket(environment: Mapping[str, str] | None = None) -> str | None:
    """Path of the agent's socket; None if there is none, or UFTP_NO_AGENT is `true`."""
    environment = os.environ if environment is None else environment
    if environment.get(NO_AGENT_VARIABLE, "").lower() in ("true", "1", "yes"):
        return None
    return environment.get(SOCKET_VARIABLE) or None


async def list_keys(socket_path: str) -> list[AgentKey]:
    """The keys an agent holds.

    Raises:
        AgentError: no agent there, or no sensible answer.
    """
    answer = await _ask(socket_path, bytes([_REQUEST_IDENTITIES]), _IDENTITIES_ANSWER, _LIST_SECONDS)
    count = answer.number()
    if count > _MAX_KEYS:
        raise AgentError("ssh-agent: more keys than any person has")
    found = []
    for _ in range(count):
        blob, comment = answer.string(), answer.string()
        found.append(AgentKey(blob, comment.decode("utf-8", "replace")))
    return found


async def sign(socket_path: str, blob: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The signature of `data` by the key with the public half `blob`; RSA over SHA-256.

    Returns:
        Name of the signature's format, and what stands behind the name (RFC 4253 section 6.6, RFC 5656, RFC 8332).

    Raises:
        AgentError: it does not hold the key, the person said no, or there is no agent.
    """
    message = bytes([_SIGN_REQUEST]) + pack(blob) + pack(data) + _RSA_SHA2_256.to_bytes(4, "big")
    answer = await _ask(socket_path, message, _SIGN_RESPONSE, _SIGN_SECONDS)
    signature = Reader(answer.string())
    return signature.string(), signature.string()


async def _ask(socket_path: str, message: bytes, wanted: int, seconds: float) -> Reader:
    try:
        with trio.fail_after(seconds):
            async with _connection(socket_path) as stream:
                await stream.send_all(pack(message))
                head = await _receive(stream, 4)
                length = int.from_bytes(head, "big")
                if not 0 < length <= _MAX_MESSAGE_BYTES:
                    raise AgentError("ssh-agent: an answer of impossible length; is that an ssh-agent?")
                body = await _receive(stream, length)
    except trio.TooSlowError:
        raise AgentError(
            f"ssh-agent: no answer within {seconds:.0f} s; {NO_AGENT_VARIABLE}=true goes without"
        ) from None
    except (OSError, trio.BrokenResourceError) as error:
        reason = getattr(error, "strerror", None) or "the connection broke"
        raise AgentError(f"ssh-agent at {socket_path}: {reason}") from error
    if body[0] != wanted:
        what = "it refuses to sign" if wanted == _SIGN_RESPONSE else "it does not say which keys it has"
        raise AgentError(f"ssh-agent: {what}")
    return Reader(body[1:])


@asynccontextmanager
async def _connection(socket_path: str) -> AsyncIterator[trio.SocketStream]:
    stream = await trio.open_unix_socket(socket_path)
    async with stream:
        yield stream


async def _receive(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = await stream.receive_some(count - len(data))
        if not chunk:
            raise AgentError("ssh-agent: it hung up; is that an ssh-agent?")
        data += chunk
    return data


def pack(value: bytes) -> bytes:
    """An SSH string (RFC 4251 section 5)."""
    return len(value).to_bytes(4, "big") + value


class Reader:
    """Reads SSH values from bytes (RFC 4251 section 5).

    Every method raises AgentError when the bytes end too early.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > len(self._data) - self._at:
            raise AgentError("ssh-agent: an answer that ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self) -> int:
        """A uint32."""
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """A string."""
        return self.take(self.number())
