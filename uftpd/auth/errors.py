"""What a request can end with besides a result; each error carries the status it is answered with (CONTROL-PLANE 1.2).

RequestError              an error reply; the text is for the person at the other end
  BadRequest        400   the request itself is wrong
  NotAllowed        401   authenticated, but not allowed inside the service
  Refused           403   not authenticated, or the role is not enough
  NotFound          404   no such server or instance
  NodeFailed        500   no data node answers, or it refuses the session
  Unavailable       503   all data nodes are down, or this server is too busy
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class RequestError(Exception):
    """Ends a request with an error reply.

    Attributes:
        status: of the reply.
        headers: further headers of the reply.
    """

    default_status: ClassVar[int] = 500

    def __init__(self, text: str, *, status: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = self.default_status if status is None else status
        self.headers = dict(headers or {})


class BadRequest(RequestError):
    """The request is malformed or asks for something that does not exist for this person."""

    default_status = 400


class NotAllowed(RequestError):
    """Authenticated, but not allowed inside the service."""

    default_status = 401


class Refused(RequestError):
    """Authentication failed, or the role is not enough."""

    default_status = 403


class NotFound(RequestError):
    """No such server or instance."""

    default_status = 404


class NodeFailed(RequestError):
    """No data node answers, or the node refused the session."""

    default_status = 500


class Unavailable(RequestError):
    """All data nodes of the logical server are down, or this server is too busy."""

    default_status = 503
