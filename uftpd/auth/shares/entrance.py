"""Who may come in: a request below /rest/access becomes a visit to a share, or ends here (CONTROL-PLANE 4.3, 4.5).

An anonymous share asks nobody who they are: the id is what opens it, and its password where it has one. The password
comes as HTTP Basic with any user name, for tools, or by a form of the page, which gives a cookie. The cookie is bound
to share and password by a MAC whose key is the password's hash, so every auth server of the site knows it, and it is
worth nothing when the password changes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
import urllib.parse
from dataclasses import dataclass
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from uftp.protocol.dn import canonical
from uftpd.auth.attributes.base import Entitlements, entitlements
from uftpd.auth.edge import context_of, read_body
from uftpd.auth.errors import BadRequest, NotAllowed, NotFound, RequestError, Unavailable
from uftpd.auth.events import logger
from uftpd.auth.identity.throttle import network
from uftpd.auth.nodes.registry import LogicalServer
from uftpd.auth.pages import PasswordView, password_page, prefers_page
from uftpd.auth.pages.views import PASSWORD_FIELD
from uftpd.auth.services import Services
from uftpd.auth.shares.model import ANONYMOUS, NO_SUCH_SHARE, Share, is_share_id
from uftpd.auth.shares.owners import attributes_of, check_owner
from uftpd.auth.shares.passwords import MAX_PASSWORD_BYTES
from uftpd.auth.shares.reach import share_rate

COOKIE_SECONDS: Final = 3600
PASSWORD_FORM: Final = "password"  # noqa: S105 - where the form is sent, below the address of the share
PASSWORD_HEADER: Final = "X-Share-Password"  # noqa: S105 - for shares that ask who one is as well
_PREFIX: Final = ("rest", "access")


class PasswordNeeded(RequestError):
    """The share has a password, and none or a wrong one was given."""

    default_status = 401

    def __init__(self, *, wrong: bool) -> None:
        text = "Wrong password for this share" if wrong else "This share has a password"
        super().__init__(text, headers={"WWW-Authenticate": 'Basic realm="share", charset="UTF-8"'})
        self.wrong = wrong


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that may come in.

    Attributes:
        share: what it is about.
        server: where.
        person: canonical name of the caller; `ANONYMOUS` where nobody was asked.
        holder: stands for person and address.
        parts: names of the way below a shared directory, as the node has them.
        slash: whether the address ends with `/`.
        rate: bytes a second of a session for the caller; 0 for no limit.
    """

    share: Share
    server: LogicalServer
    person: str
    holder: str
    parts: tuple[bytes, ...]
    slash: bool
    rate: int = 0

    @property
    def path(self) -> bytes:
        """For the session: relative to where it starts; empty for a shared directory itself."""
        return b"/".join(self.parts) if self.share.directory else self.share.name.encode()

    @property
    def name(self) -> bytes:
        """The last component."""
        return self.parts[-1] if self.parts else self.share.name.encode()


def path_of(share_id: str, server: str) -> str:
    """Where a share is on this server, without a slash at its end."""
    return f"/rest/access/{urllib.parse.quote(server, safe='')}/{share_id}"


def split_address(raw_path: bytes) -> tuple[str, str, tuple[bytes, ...], bool]:
    """Server, id, names below, and whether there is a slash at the end, of the address as it was sent.

    Names are decoded one by one, so that an encoded slash is no separator; `//` is one slash (CONTROL-PLANE T20), and
    `..` goes up, but never out of the share.

    Raises:
        NotFound: no such thing can be.
    """
    pieces = [urllib.parse.unquote_to_bytes(piece) for piece in raw_path.partition(b"?")[0].split(b"/")]
    slash = pieces[-1] in (b"", b".", b"..")
    pieces = [piece for piece in pieces if piece]
    try:
        first, second, server, share_id = (piece.decode("utf-8") for piece in pieces[:4])
    except ValueError:
        raise NotFound(NO_SUCH_SHARE) from None
    if (first, second) != _PREFIX:
        raise NotFound(NO_SUCH_SHARE)
    parts: list[bytes] = []
    for piece in pieces[4:]:
        if piece == b".":
            continue
        if piece == b"..":
            if not parts:
                raise NotFound("There is nothing above a share")
            parts.pop()
        elif b"/" in piece or b"\0" in piece or len(piece) > 255:
            raise NotFound("No file can have such a name")
        else:
            parts.append(piece)
    if len(parts) > 256:
        raise NotFound("No file can be so deep in a share")
    return server, share_id, tuple(parts), slash


class Entrance:
    """See the module.

    Args:
        services: of the configuration in force.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._shares = services.config.shares
        self._lookups = _Lookups(services)

    async def admit(self, request: Request) -> Visit:
        """Let a request in.

        Raises:
            NotFound: no such server or share, or nothing can be at that address.
            NotAllowed: the share is for somebody else.
            PasswordNeeded: it has a password.
            RequestError: credentials are wrong, or that cannot be found out now.
        """
        context = context_of(request)
        name, share_id, parts, slash = split_address(request.scope["raw_path"])
        server = self._services.registry.servers.get(name)
        if server is None or not self._shares.covers(name):
            raise NotFound(f"No such server: '{name[:64]}', please check your URL")
        share = await self._lookups.find(share_id) if is_share_id(share_id) else None
        if share is None or share.server != name:
            raise NotFound(NO_SUCH_SHARE)
        context.facts |= {"server": name, "share": share.id[:8]}
        await check_owner(share, self._services.sources, context)
        if parts and not share.directory:
            raise NotFound("This share is a single file: there is nothing below it")
        person, granted = await self._person(request, share)
        if share.password_hash:
            await self._check_password(request, share)
        return Visit(
            share, server, person, f"{person} {network(context.peer)}", parts, slash, share_rate(granted, server)
        )

    async def _person(self, request: Request, share: Share) -> tuple[str, Entitlements]:
        if share.is_anonymous and self._services.config.login.anonymous:
            return ANONYMOUS, entitlements(await attributes_of(ANONYMOUS, self._services.sources))
        caller = await self._services.callers.find(request)
        person = canonical(caller.identity.dn)
        if caller.granted.role == "banned" or not share.admits(person):
            headers = {}
            if person == ANONYMOUS and prefers_page(request):
                headers["WWW-Authenticate"] = 'Basic realm="UFTP", charset="UTF-8"'
            raise NotAllowed("This share is for somebody else", headers=headers)
        return person, caller.granted

    # -- passwords --------------------------------------------------------------------------------------------------

    async def _check_password(self, request: Request, share: Share) -> None:
        if _cookie_opens(request, share):
            return
        password = _shown_password(request, basic=share.is_anonymous)
        if password is None:
            raise PasswordNeeded(wrong=False)
        if not await self._services.passwords.admits(share, password, context_of(request).peer):
            raise PasswordNeeded(wrong=True)

    async def log_in(self, request: Request) -> Response:
        """The form of the password page: gives the cookie, and leads to where the person wanted to go."""
        name, share_id, _, _ = split_address(request.scope["raw_path"])
        share = await self._lookups.find(share_id) if is_share_id(share_id) else None
        if share is None or share.server != name or not self._shares.covers(name):
            raise NotFound(NO_SUCH_SHARE)
        context_of(request).facts |= {"server": name, "share": share.id[:8]}
        body = await read_body(request, self._services.config.limits)
        try:
            fields = urllib.parse.parse_qs(body.decode("ascii"), max_num_fields=8, errors="strict")
        except ValueError:
            raise BadRequest("This is no form") from None
        password = fields.get(PASSWORD_FIELD, [""])[0].encode()[:MAX_PASSWORD_BYTES]
        root = path_of(share.id, share.server)
        to = fields.get("to", [""])[0]
        # Only addresses of this share: a form must not send people elsewhere.
        safe = to.isascii() and to.isprintable() and (to == root or to.startswith((f"{root}/", f"{root}?")))
        base = self.base
        to = to if safe else f"{root}/"
        if not await self._services.passwords.admits(share, password, context_of(request).peer):
            return password_page(PasswordView(action=f"{root}/{PASSWORD_FORM}", to=to, wrong=True, base=base))
        reply = RedirectResponse(base + to, 303)
        if share.password_hash:
            reply.set_cookie(
                _cookie_name(share),
                _cookie(share, int(time.time()) + COOKIE_SECONDS),
                max_age=COOKIE_SECONDS,
                path=base + root,
                secure=request.scope["scheme"] == "https"
                or self._services.config.server.external_url.startswith("https"),
                httponly=True,
                samesite="lax",
            )
        return reply

    @property
    def base(self) -> str:
        """The path in front of all addresses of this server, for browsers; without a slash at its end."""
        return urllib.parse.urlsplit(self._services.config.server.external_url).path.rstrip("/")


def _shown_password(request: Request, *, basic: bool) -> bytes | None:
    named = request.headers.get(PASSWORD_HEADER)
    if named is not None:
        return named.encode("latin-1", "replace")[:MAX_PASSWORD_BYTES]
    shown = request.headers.getlist("authorization") if basic else []
    scheme, _, rest = shown[0].partition(" ") if len(shown) == 1 else ("", "", "")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(rest.strip(), validate=True).partition(b":")[2][:MAX_PASSWORD_BYTES]
    except (binascii.Error, ValueError):
        return None


def _cookie_name(share: Share) -> str:
    return f"share-{share.id}"


def _cookie(share: Share, until: int) -> str:
    message = f"share page {share.server} {share.id} {until}".encode()
    return f"{until}.{hmac.new(share.password_hash.encode(), message, hashlib.sha256).hexdigest()}"


def _cookie_opens(request: Request, share: Share) -> bool:
    shown = request.cookies.get(_cookie_name(share), "")
    until = shown.partition(".")[0]
    if not (until.isascii() and until.isdigit() and len(until) < 16) or int(until) < time.time():
        return False
    return hmac.compare_digest(shown.encode(), _cookie(share, int(until)).encode())


class _Lookups:
    """Looks shares up, many requests with one question to the store.

    Each request gets what the store said to a question asked after the request came, so that a share that was withdrawn
    is gone at once; but whoever comes while a question is under way waits for the next one together with all others.
    """

    def __init__(self, services: Services) -> None:
        self._grants = services.grants
        self._background = services.background
        self._waiting: dict[str, _Question] = {}
        self._running: set[str] = set()

    async def find(self, share_id: str) -> Share | None:
        """The share, unless it is over.

        Raises:
            StoreUnavailable: that cannot be found out now.
        """
        question = self._waiting.get(share_id)
        if question is None:
            question = self._waiting[share_id] = _Question()
            if share_id not in self._running:
                self._running.add(share_id)
                self._background.start_soon(self._ask, share_id)
        await question.answered.wait()
        if question.error is not None:
            raise question.error
        return question.share

    async def _ask(self, share_id: str) -> None:
        try:
            while (question := self._waiting.pop(share_id, None)) is not None:
                try:
                    question.share = await self._grants.get(share_id)
                except RequestError as error:
                    question.error = error
                except Exception:
                    logger.exception("look-up of a share failed")  # in the background nobody else would catch it
                    question.error = RequestError("Internal error")
                except BaseException:
                    question.error = Unavailable("This server is about to stop, try again later")
                    raise
                finally:
                    question.answered.set()
        finally:
            self._running.discard(share_id)
            late = self._waiting.pop(share_id, None)
            if late is not None:
                late.error = Unavailable("This server is about to stop, try again later")
                late.answered.set()


class _Question:
    __slots__ = ("answered", "error", "share")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.share: Share | None = None
        self.error: RequestError | None = None
