"""GET and HEAD of /rest/access/{server}/{id}[/{path}]: what a share holds, over HTTP (CONTROL-PLANE 4.5).

A file is bytes, whole or in parts, for everybody but a browser that follows a link: that gets a page about it. A
directory is a page for people, JSON for programs, or one stream as an archive.

A small file is fetched from the node in one exchange, and a large one goes through in blocks. Of a share that counts
its uses nothing is handed out before there is a claim; HEAD, listings, pages and tries that break off use nothing up.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import trio
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from uftp.errors import UFTPError
from uftp.protocol.facts import FileInfo
from uftp.protocol.http_ranges import Decision, Representation, content_range, decide, format_date
from uftpd.auth import pages
from uftpd.auth.edge import context_of
from uftpd.auth.endpoints import ANY, Access, Caller, Endpoint, Handler
from uftpd.auth.errors import NotFound, RequestError
from uftpd.auth.resources import base_url
from uftpd.auth.services import Services
from uftpd.auth.shares import listing
from uftpd.auth.shares.archives import archive_reply
from uftpd.auth.shares.body import End, Sink, Streamed
from uftpd.auth.shares.direct import Direct
from uftpd.auth.shares.entrance import PASSWORD_FORM, Entrance, PasswordNeeded, Visit
from uftpd.auth.shares.failures import as_request_error
from uftpd.auth.shares.grants import Claim, Wanted
from uftpd.auth.shares.lane import SmallFile
from uftpd.auth.shares.objects import SMALL_BYTES, Objects
from uftpd.auth.shares.pool import Pool
from uftpd.auth.shares.presentation import FILE_POLICY, disposition, media_type, shows_inline
from uftpd.auth.shares.representation import Multipart, is_settled, version_of
from uftpd.auth.shares.upload import Upload

_ENTRIES_BYTES = 24 * 1024 * 1024  # of a listing, about 250,000 entries: more is no page, and no JSON to parse at once
_RENEW_SECONDS = 15.0
_RANGE_HEADERS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range")


class _AnyNames(Convertor[str]):
    """The rest of an address, whatever is in it: `path` of Starlette takes no line breaks, which names may have."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("names", _AnyNames())
_SHARE = "/rest/access/{server}/{id}"
_BELOW = "/rest/access/{server}/{id}/{path:names}"


class Delivery:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._entrance = Entrance(services)
        self._objects = Objects(Pool(services.config.shares, services.background))
        self._direct = Direct(services.config.shares)
        self._upload = Upload(services, self._entrance, self._objects)

    def endpoints(self) -> list[Endpoint]:
        """The table of them; empty where nothing can be shared."""
        if not self._services.config.shares.enabled:
            return []
        found = []
        for path in (_SHARE, _BELOW):
            for method, handler, summary in (
                ("GET", self.get, "A file of a share, or what a shared directory holds."),
                ("PUT", self._upload.put, "Store a file in a share."),
            ):
                found.append(_endpoint(method, path, self._answered(handler), summary))
        # Below the share: POST to the share itself asks for a session.
        found.append(_endpoint("POST", _BELOW, self._answered(self._log_in), "The password of a share, from a form."))
        return found

    def _answered(self, handler: Callable[[Request], Any]) -> Handler:
        """A handler that asks people for a password by a page; other errors become pages in front of all resources."""

        async def serve(request: Request, caller: Caller) -> Response:
            try:
                found: Response = await handler(request)
            except PasswordNeeded as error:
                if not pages.prefers_page(request) or request.method not in ("GET", "HEAD", "POST"):
                    raise
                return self._password_page(request, wrong=error.wrong)
            return found

        return serve

    def _password_page(self, request: Request, *, wrong: bool) -> Response:
        # Without WWW-Authenticate: the browser would ask before it shows the page.
        path = request.scope["raw_path"].partition(b"?")[0].decode("ascii", "replace")
        query = request.scope["query_string"].decode("ascii", "replace")
        root = "/".join(path.split("/")[:5])
        to = f"{path}?{query}" if query else path
        view = pages.PasswordView(action=f"{root}/{PASSWORD_FORM}", to=to, wrong=wrong, base=self._entrance.base)
        return pages.password_page(view)

    async def _log_in(self, request: Request) -> Response:
        context_of(request).outcome = "share password"
        return await self._entrance.log_in(request)

    # -- what is asked for ------------------------------------------------------------------------------------------

    async def get(self, request: Request) -> Response:
        """GET and HEAD."""
        context_of(request).outcome = "share"
        visit = await self._entrance.admit(request)
        query = request.query_params
        plain = not query or query.keys() <= {"download", "view"}
        page = pages.prefers_page(request) and not (
            "download" in query or "view" in query or "range" in request.headers or "format" in query
        )
        if request.method == "GET" and plain and not page and not visit.share.uses and (visit.parts or not visit.slash):
            small = await self._objects.small(visit)
            if small is not None:
                return self._small_reply(request, visit, small)
        info = await self._objects.stat(visit)
        if info.is_dir != visit.share.directory and not visit.parts:
            raise NotFound("What was shared is not there any more")
        if info.is_dir:
            return await self._directory(request, visit, info, page=page)
        if listing.kind_of(info) is pages.Kind.OTHER:
            raise NotFound("That is no file")
        if "checksum" in query:
            return await self._checksum(request, visit, info, page=page)
        if page:
            return pages.file_page(self._file_view(request, visit, info))
        if query.get("format") == "json":
            return JSONResponse(listing.file_json(visit, info, base=self._entrance.base))
        return await self._file(request, visit, info)

    # -- files ------------------------------------------------------------------------------------------------------

    def _representation(self, visit: Visit, size: int, mtime_ns: int) -> Representation:
        return version_of(visit.share.id.encode(), visit.path, size, mtime_ns)

    def _headers(self, request: Request, visit: Visit, there: Representation, mtime_ns: int) -> dict[str, str]:
        kind = media_type(visit.name)
        inline = "view" in request.query_params and shows_inline(kind)
        return {
            "Content-Type": kind,
            "Content-Disposition": disposition(visit.name, inline=inline),
            "Last-Modified": format_date(there.mtime),
            "ETag": there.etag if is_settled(mtime_ns) else f"W/{there.etag}",
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-cache",
            "Content-Security-Policy": FILE_POLICY,
            "Vary": "Accept",
        }

    def _decide(self, request: Request, there: Representation, mtime_ns: int) -> Decision:
        headers = {name: ", ".join(found) for name in _RANGE_HEADERS if (found := request.headers.getlist(name))}
        if not is_settled(mtime_ns) and "if-range" in headers:
            # Nobody can say whether the client's part is of this version.
            headers.pop("range", None)
        return decide(request.method, headers, there, int(time.time()))

    def _small_reply(self, request: Request, visit: Visit, small: SmallFile) -> Response:
        there = self._representation(visit, len(small.content), small.mtime_ns)
        headers = self._headers(request, visit, there, small.mtime_ns)
        decision = self._decide(request, there, small.mtime_ns)
        if decision.status in (200, 206):
            self._services.grants.record_access(visit.share)
            context_of(request).outcome = End.WHOLE.value
        content = small.content
        if decision.status == 206:
            content = _parts_of(content, decision, there, headers)
        elif decision.status != 200:
            return _without_body(decision, there, headers)
        headers["Content-Length"] = str(len(content))
        return Response(content, decision.status, headers)

    async def _file(self, request: Request, visit: Visit, info: FileInfo) -> Response:
        there = self._representation(visit, info.size, info.mtime_ns)
        if there.size >= SMALL_BYTES:
            # Before any condition, HEAD included: a tag that the node gave out only the node knows again.
            context = context_of(request)
            sent_on = await self._direct.redirect(visit, there.etag, context.request_id)
            if sent_on is not None:
                context.outcome = "delivery sent on to the node"
                if request.method != "HEAD":
                    self._services.grants.record_access(visit.share)
                return sent_on
        headers = self._headers(request, visit, there, info.mtime_ns)
        decision = self._decide(request, there, info.mtime_ns)
        if decision.status not in (200, 206):
            return _without_body(decision, there, headers)
        if request.method == "HEAD":
            headers["Content-Length"] = str(there.size)
            return Response(None, 200, headers)
        parts: Sequence[tuple[int, int]] = decision.ranges or ((0, there.size),)
        multipart: Multipart | None = None
        if decision.status == 206 and len(parts) == 1:
            headers["Content-Range"] = content_range(*parts[0], there.size)
            headers["Content-Length"] = str(parts[0][1])
        elif decision.status == 206:
            multipart = Multipart(parts, there.size, headers["Content-Type"])
            headers["Content-Type"] = multipart.media_type
            headers["Content-Length"] = str(multipart.length)
        else:
            headers["Content-Length"] = str(there.size)
        claim = await self._claim(visit, there, parts)
        sending = _Sending(self._objects, visit, parts, multipart, claim)
        return Streamed(
            decision.status,
            headers,
            self._watched(visit, claim, sending.run),
            self._finisher(visit, claim, sending),
            confirm=claim.counted,
        )

    async def _claim(self, visit: Visit, there: Representation, parts: Sequence[tuple[int, int]]) -> Claim:
        wanted = Wanted(
            part=b"/".join(visit.parts).decode("utf-8", "backslashreplace"),
            version=there.etag,
            size=there.size,
            start=parts[0][0],
            length=sum(length for _, length in parts),
        )
        claim = await self._services.grants.claim(visit.share, visit.holder, wanted)
        if not claim.counted:
            self._services.grants.record_access(visit.share)
        return claim

    def _watched(self, visit: Visit, claim: Claim, produce: Callable[[Sink], Any]) -> Callable[[Sink], Any]:
        """`produce`, stopped when the share is withdrawn."""

        async def renew(scope: trio.CancelScope) -> None:
            while True:
                await trio.sleep(_RENEW_SECONDS)
                if not await claim.renew():
                    scope.cancel()

        async def run(sink: Sink) -> None:
            with self._services.deliveries.running(visit.share.id) as scope, _noting_withdrawal(scope, sink):
                if not claim.counted:
                    await produce(sink)
                else:
                    failure: list[Exception] = []
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(renew, scope)
                        try:
                            await produce(sink)
                        except Exception as error:
                            failure.append(error)
                        nursery.cancel_scope.cancel()
                    if failure:
                        raise failure[0]
            if scope.cancelled_caught:
                raise NotFound("The share was withdrawn")

        return run

    def _finisher(self, visit: Visit, claim: Claim, sending: _Sending) -> Callable[[End, int], Any]:
        async def finish(end: End, sent: int) -> None:
            if not claim.counted:
                return
            if end is End.WHOLE:
                await claim.settle(sending.delivered)
                self._services.grants.record_access(visit.share)
            else:
                await claim.release(sending.delivered)

        return finish

    def _file_view(self, request: Request, visit: Visit, info: FileInfo) -> pages.FileView:
        base = self._entrance.base
        url = base_url(request, self._services.config)
        return listing.file_view(visit, info.size, info.mtime_ns / 1e9, url=url, base=base)

    async def _checksum(self, request: Request, visit: Visit, info: FileInfo, *, page: bool) -> Response:
        word = request.query_params["checksum"].lower()
        label = next((label for label, known in listing.CHECKSUMS if known == word), None)
        if label is None:
            known = ", ".join(known for _, known in listing.CHECKSUMS)
            raise RequestError(f"No such checksum; there are {known}", status=400)
        try:
            async with self._objects.pool.session(visit.server, visit.share, visit.rate) as session:
                found = await session.checksum(visit.path, label)
        except UFTPError as error:
            raise as_request_error(error) from error
        if page:
            return pages.file_page(replace(self._file_view(request, visit, info), checksum=(label, found.digest)))
        if _wants_json(request):
            return JSONResponse({"algorithm": label, "checksum": found.digest, "size": info.size})
        name = visit.name.decode("utf-8", "replace")
        text = f"{found.digest}  {''.join(c if c.isprintable() else '?' for c in name)}\n"
        return Response(text, media_type="text/plain")

    # -- directories ------------------------------------------------------------------------------------------------

    async def _directory(self, request: Request, visit: Visit, info: FileInfo, *, page: bool) -> Response:
        kind = request.query_params.get("format", "")
        if kind in ("zip", "tar"):
            return await self._archive(request, visit, info, kind)
        if kind not in ("", "json", "html"):
            raise RequestError("format: one of html, json, zip, tar", status=400)
        if request.method == "HEAD":
            return _head_of("text/html; charset=utf-8")
        found, complete = await self._objects.listing(visit, limit=_ENTRIES_BYTES)
        entries = listing.visible_entries(found)
        base = self._entrance.base
        context_of(request).outcome = "share listed"
        if kind == "json" or (not kind and _wants_json(request) and not page):
            return JSONResponse(listing.directory_json(visit, entries, complete=complete, base=base))
        view = listing.directory_view(
            visit,
            entries,
            complete=complete,
            order=pages.Order.of(request.query_params),
            readme=await self._readme(visit, entries),
            url=base_url(request, self._services.config),
            base=base,
        )
        return await pages.directory_page(view)

    async def _readme(self, visit: Visit, entries: Sequence[FileInfo]) -> pages.Readme | None:
        info = listing.readme_of(entries)
        if info is None or visit.share.uses:
            return None
        path = b"/".join((*visit.parts, info.name))
        found = await self._objects.beginning(visit, path, pages.README_BYTES)
        return None if found is None else pages.Readme(os.fsdecode(info.name), found.content, found.whole)

    async def _archive(self, request: Request, visit: Visit, info: FileInfo, kind: str) -> Response:
        if request.method == "HEAD":
            return _head_of("application/zip" if kind == "zip" else "application/x-tar")
        claim = await self._services.grants.claim(
            visit.share, visit.holder, Wanted(part=b"/".join(visit.parts).decode("utf-8", "backslashreplace"))
        )
        if not claim.counted:
            self._services.grants.record_access(visit.share)
        try:
            produce, headers = await archive_reply(self._objects, visit, info, kind)
        except BaseException:
            await claim.release()
            raise

        async def finish(end: End, sent: int) -> None:
            if not claim.counted:
                return
            if end is End.WHOLE:
                await claim.settle()
                self._services.grants.record_access(visit.share)
            else:
                await claim.release([(0, sent)] if sent else ())

        return Streamed(200, headers, self._watched(visit, claim, produce), finish, confirm=claim.counted)


@contextlib.contextmanager
def _noting_withdrawal(scope: trio.CancelScope, sink: Sink) -> Iterator[None]:
    # Sending that is cancelled ends the connection, which then looks as if the client had left.
    try:
        yield
    finally:
        sink.withdrawn = scope.cancel_called


class _Sending:
    """Sends the parts of a file.

    Attributes:
        delivered: what the connection has taken, as half-open intervals.
    """

    def __init__(
        self,
        objects: Objects,
        visit: Visit,
        parts: Sequence[tuple[int, int]],
        multipart: Multipart | None,
        claim: Claim,
    ) -> None:
        self._objects = objects
        self._visit = visit
        self._parts = parts
        self._multipart = multipart
        self.delivered: list[tuple[int, int]] = []

    async def run(self, sink: Sink) -> None:
        """Send them all.

        Raises:
            UFTPError, RequestError: they cannot all be sent.
        """
        if not any(length for _, length in self._parts):
            return
        async with self._objects.reader(self._visit) as reader:
            for number, (first, length) in enumerate(self._parts):
                if self._multipart is not None:
                    await sink.put(self._multipart.heads[number])
                self.delivered.append((first, first))

                async def put(block: bytes, first: int = first) -> None:
                    await sink.put(block)
                    self.delivered[-1] = first, self.delivered[-1][1] + len(block)

                await reader.copy(self._visit.path, first, length, put)
        if self._multipart is not None:
            await sink.put(self._multipart.closing)


def _endpoint(method: str, path: str, handler: Handler, summary: str) -> Endpoint:
    return Endpoint(
        method=method,
        path=path,
        handler=handler,
        access=Access.PUBLIC,  # the entrance asks, where the share is not for everybody
        summary=summary,
        produces=ANY,
        replies={
            401: "The share is for somebody else, or has a password.",
            404: "There is no such share, or nothing at that address in it.",
            503: "The data node does not answer, or there are too many transfers.",
        },
    )


def _wants_json(request: Request) -> bool:
    kinds = [
        item.partition(";")[0].strip().lower()
        for header in request.headers.getlist("accept")
        for item in header.split(",")
    ]
    return "application/json" in kinds


def _head_of(kind: str) -> Response:
    """To HEAD of what has no length before it is made."""
    reply = Response(None, 200, media_type=kind)
    del reply.headers["content-length"]
    reply.headers["Vary"] = "Accept"
    return reply


def _without_body(decision: Decision, there: Representation, headers: dict[str, str]) -> Response:
    if decision.status == 304:
        kept = ("ETag", "Last-Modified", "Cache-Control", "Vary")
        return Response(None, 304, {name: value for name, value in headers.items() if name in kept})
    if decision.status == 416:
        raise RequestError(
            "The file has no such part",
            status=416,
            headers={"Content-Range": f"bytes */{there.size}", "Accept-Ranges": "bytes"},
        )
    raise RequestError("The file is not the version the request is about", status=decision.status)


def _parts_of(content: bytes, decision: Decision, there: Representation, headers: dict[str, str]) -> bytes:
    """The body of a 206 made of a file that is here; completes the headers."""
    if len(decision.ranges) == 1:
        ((first, length),) = decision.ranges
        headers["Content-Range"] = content_range(first, length, there.size)
        return content[first : first + length]
    multipart = Multipart(decision.ranges, there.size, headers["Content-Type"])
    headers["Content-Type"] = multipart.media_type
    body = bytearray()
    for head, (first, length) in zip(multipart.heads, decision.ranges, strict=True):
        body += head + content[first : first + length]
    return bytes(body + multipart.closing)
