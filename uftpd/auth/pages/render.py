"""Makes replies of views.

Every page comes with a policy that lets the browser load and run the files of this package only, by a number used
once: whatever a stranger might smuggle into a page has none. Nobody may frame it, and it tells no other site where
somebody came from, since the address of a share is all that protects it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import trio
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from uftpd.auth.pages.assets import asset_path
from uftpd.auth.pages.order import PAGE_ENTRIES
from uftpd.auth.pages.readme import readme_markup
from uftpd.auth.pages.text import exact_size, human_duration, human_size, is_plain, time_markup, visible, visible_markup
from uftpd.auth.pages.transfer_views import OneTransferView, TransfersView
from uftpd.auth.pages.views import (
    PASSWORD_FIELD,
    DirectoryView,
    Entry,
    ErrorView,
    FileView,
    Kind,
    LoginView,
    PasswordView,
    SharesView,
)

_ERRORS = {
    400: ("That is no proper request", "The address or the form cannot be understood. Look whether it is complete."),
    401: (
        "This is for certain people",
        "You are not among those it was shared with, or the server does not know who you are. Log in and try again.",
    ),
    403: ("You are not allowed to see this", "The server does not know you, or does not let you in."),
    404: (
        "There is nothing here",
        "The link may be incomplete, or what it led to is not shared any more. Ask the person who sent it to you.",
    ),
    405: ("That cannot be done here", "This address does not take that kind of request."),
    413: ("That is too much", "What was sent is larger than this server takes."),
    416: ("There is no such part", "The part of the file that was asked for does not exist. Download it anew."),
    429: ("Too many attempts", "There were too many wrong passwords from your address. Wait a few minutes."),
    500: ("Something went wrong", "The server could not do it. Try again in a few minutes."),
    503: ("Not now", "The server is too busy, or the place where the files are cannot be reached. Try again later."),
}
_PLAIN_404 = 404  # what is gone and what never was look the same


@pass_context
def _address(context: Context, href: str) -> str:
    """An address of this server as the browser has to see it.

    Raises:
        ValueError: it is no absolute path: it could lead anywhere.
    """
    if not href.startswith("/") or href.startswith("//") or not is_plain(href):
        raise ValueError(f"not an address of this server: {href!r}")
    return str(context["base"]) + href


def _load() -> Mapping[str, Template]:
    """All templates, compiled.

    At once, since a server that has given up its rights may not be able to read its own files any more.
    """
    loader = PackageLoader("uftpd.auth.pages")
    environment = Environment(
        loader=loader,
        autoescape=True,
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": visible_markup,
        "visible": visible,
        "size": human_size,
        "exact_size": exact_size,
        "duration": human_duration,
        "time": time_markup,
        "address": _address,
        "is_plain": is_plain,
    }
    environment.tests["plain"] = is_plain
    return {name: environment.get_template(name) for name in loader.list_templates()}


_TEMPLATES = _load()


def render(
    template: str,
    status: int,
    base: str,
    headers: Mapping[str, str] | None,
    *,
    script_asks: bool = False,
    **values: Any,
) -> Response:
    """A page from a template.

    Args:
        template: its file.
        status: of the reply.
        base: path in front of all addresses.
        headers: further ones of the reply.
        script_asks: whether scripts may send requests.
        values: what the template uses.
    """
    nonce = secrets.token_urlsafe(18)
    policy = [
        "default-src 'none'",
        f"style-src 'nonce-{nonce}'",
        f"script-src 'nonce-{nonce}'",
        "img-src 'self'",
        *(["connect-src 'self'"] if script_asks else []),
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ]
    text = _TEMPLATES[template].render(nonce=nonce, base=base, asset=lambda name: base + asset_path(name), **values)
    fixed = {
        "Content-Security-Policy": "; ".join(policy),
        "Vary": "Accept",
        "X-Robots-Tag": "noindex, nofollow, noarchive",
    }
    return HTMLResponse(text, status, fixed | dict(headers or {}))


async def directory_page(view: DirectoryView, *, headers: Mapping[str, str] | None = None) -> Response:
    """A directory; status 200. A thread makes it, since that takes a while for many entries or a long README."""
    return await trio.to_thread.run_sync(_directory_page, view, headers)


def _directory_page(view: DirectoryView, headers: Mapping[str, str] | None) -> Response:
    pages = max(1, -(-len(view.entries) // PAGE_ENTRIES))
    order = view.order.at(min(view.order.page, pages))
    shown = order.sorted(view.entries)[(order.page - 1) * PAGE_ENTRIES : order.page * PAGE_ENTRIES]
    readme = readme_markup(view.readme, view.base + view.href) if view.readme is not None else Markup("")
    return render(
        "directory.html",
        200,
        view.base,
        headers,
        script_asks=view.share.writable,
        view=view,
        order=order,
        entries=shown,
        pages=pages,
        totals=_totals(view.entries),
        readme=readme,
    )


def _totals(entries: Iterable[Entry]) -> str:
    counts = dict.fromkeys(Kind, 0)
    total = 0
    for entry in entries:
        counts[entry.kind] += 1
        total += (entry.size or 0) if entry.kind is Kind.FILE else 0
    words = [
        f"{counts[kind]} {one if counts[kind] == 1 else many}"
        for kind, one, many in (
            (Kind.DIRECTORY, "folder", "folders"),
            (Kind.FILE, "file", "files"),
            (Kind.OTHER, "other", "others"),
        )
        if counts[kind]
    ]
    return ", ".join(words) + (f", {human_size(total)}" if counts[Kind.FILE] else "")


def file_page(view: FileView, *, headers: Mapping[str, str] | None = None) -> Response:
    """A file; status 200."""
    return render("file.html", 200, view.base, headers, script_asks=view.share.writable, view=view)


def password_page(view: PasswordView, *, headers: Mapping[str, str] | None = None) -> Response:
    """Asks for a password; status 401."""
    return render("password.html", 401, view.base, headers, view=view, password_field=PASSWORD_FIELD)


def login_page(view: LoginView, *, status: int = 200) -> Response:
    """Asks who somebody is."""
    return render("login.html", status, view.base, None, view=view)


def shares_page(view: SharesView, *, status: int = 200) -> Response:
    """What somebody shares."""
    return render("shares.html", status, view.base, None, view=view)


def transfers_page(view: TransfersView, *, status: int = 200) -> Response:
    """Somebody's transfers."""
    return render("transfers.html", status, view.base, None, script_asks=True, view=view)


def transfers_part(view: TransfersView) -> Response:
    """What of that changes; it is the same as long as that is."""
    return render("transfers_part.html", 200, view.base, None, view=view)


def transfer_page(view: OneTransferView, *, status: int = 200) -> Response:
    """One transfer."""
    return render("transfer.html", status, view.base, None, script_asks=True, view=view)


def transfer_part(view: OneTransferView) -> Response:
    """What of that changes."""
    return render("transfer_part.html", 200, view.base, None, view=view)


def error_page(view: ErrorView, *, headers: Mapping[str, str] | None = None) -> Response:
    """What went wrong; the status of the view."""
    usual = _ERRORS[500] if view.status >= 500 else ("That did not work", "The server does not do this.")
    heading, text = _ERRORS.get(view.status, usual)
    if view.text and view.status != _PLAIN_404:
        text = view.text
    return render("error.html", view.status, view.base, headers, view=view, heading=heading, text=text)
