"""Makes replies of views."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import HTMLResponse, Response

from uftpd.auth.pages.views import DirectoryView, ErrorView, FileView, PasswordView


def directory_page(view: DirectoryView, *, headers: Mapping[str, str] | None = None) -> Response:
    """A directory; status 200."""
    raise NotImplementedError


def file_page(view: FileView, *, headers: Mapping[str, str] | None = None) -> Response:
    """A file; status 200."""
    raise NotImplementedError


def password_page(view: PasswordView, *, headers: Mapping[str, str] | None = None) -> Response:
    """Asks for a password; status 401."""
    raise NotImplementedError


def error_page(view: ErrorView, *, headers: Mapping[str, str] | None = None) -> Response:
    """What went wrong; the status of the view."""
    return HTMLResponse("", view.status, headers)
