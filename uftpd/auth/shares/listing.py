"""What is found in a share, as people and programs are shown it: views for the pages, JSON, commands to copy."""

from __future__ import annotations

import os
import shlex
import stat
import urllib.parse
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from uftp.protocol.facts import FileInfo
from uftpd.auth.pages.order import Order
from uftpd.auth.pages.views import (
    Command,
    Crumb,
    DirectoryView,
    Entry,
    FileView,
    Kind,
    Link,
    Readme,
    ShareFacts,
)
from uftpd.auth.shares.entrance import Visit, path_of
from uftpd.auth.shares.model import ShareAccess
from uftpd.auth.shares.presentation import media_type, shows_inline

README_NAMES = (b"README.md", b"README", b"README.txt", b"README.markdown", b"README.rst", b"readme.md", b"readme.txt")
CHECKSUMS = (("SHA-256", "sha256"), ("MD5", "md5"), ("BLAKE3", "blake3"))
_PART_NAMES = (b".uftp-",)  # of uploads under way


def href_of(visit: Visit, parts: Sequence[bytes] | None = None, *, directory: bool = False) -> str:
    """The address, as an absolute path, of something in the share."""
    parts = visit.parts if parts is None else parts
    root = path_of(visit.share.id, visit.share.server)
    # A dot as a name would be taken for the directory itself by every browser, and cannot come from a node.
    path = "/".join([root, *(urllib.parse.quote_from_bytes(part, safe="") for part in parts)])
    return f"{path}/" if directory else path


def kind_of(info: FileInfo) -> Kind:
    """What an entry is, as far as the node says."""
    if info.is_dir:
        return Kind.DIRECTORY
    if info.link is not None:
        return Kind.OTHER
    if info.mode is not None and stat.S_IFMT(info.mode) not in (0, stat.S_IFREG):
        return Kind.OTHER
    return Kind.FILE


def visible_entries(entries: Sequence[FileInfo]) -> list[FileInfo]:
    """Those that are shown: not the parts of uploads under way, which have no name yet."""
    return [info for info in entries if not (info.name.startswith(_PART_NAMES) and info.name.endswith(b".part"))]


def readme_of(entries: Sequence[FileInfo]) -> FileInfo | None:
    """The entry that says what the directory is about."""
    by_name = {info.name: info for info in entries if kind_of(info) is Kind.FILE}
    return next((by_name[name] for name in README_NAMES if name in by_name), None)


def share_facts(visit: Visit) -> ShareFacts:
    """What somebody with the link may know."""
    share = visit.share
    return ShareFacts(
        name=share.name or "/",
        server=share.server,
        writable=share.access >= ShareAccess.WRITE,
        expires=share.expires,
        one_time=share.one_time,
        downloads_left=max(0, share.max_downloads - share.downloads) if share.max_downloads else None,
        password=bool(share.password_hash),
    )


def directory_view(
    visit: Visit,
    entries: Sequence[FileInfo],
    *,
    complete: bool,
    order: Order,
    readme: Readme | None,
    url: str,
    base: str,
) -> DirectoryView:
    """The page of a directory.

    Args:
        visit: to it.
        entries: of it.
        complete: whether these are all.
        order: as the query asks.
        readme: of it.
        url: external address of this server.
        base: the path in that.
    """
    href = href_of(visit, directory=True)
    archives = [] if visit.share.uses else [Link("zip", f"{href}?format=zip"), Link("tar", f"{href}?format=tar")]
    return DirectoryView(
        share=share_facts(visit),
        href=href,
        crumbs=_crumbs(visit, directory=True),
        entries=[_entry(visit, info) for info in entries],
        order=order,
        complete=complete,
        archives=archives,
        readme=readme,
        commands=_directory_commands(visit, url + href),
        upload_command=_upload_command(visit, url + href),
        base=base,
    )


def file_view(visit: Visit, size: int, modified: float | None, *, url: str, base: str) -> FileView:
    """The page of a file; a checksum is filled in by whoever asked for it."""
    href = href_of(visit)
    kind = media_type(visit.name)
    return FileView(
        share=share_facts(visit),
        name=os.fsdecode(visit.name),
        href=href,
        download=f"{href}?download=1",
        crumbs=_crumbs(visit, directory=False),
        size=size,
        modified=modified,
        media_type=kind,
        view=f"{href}?view=1" if shows_inline(kind) and not visit.share.uses else "",
        checksums=[Link(label, f"{href}?checksum={word}") for label, word in CHECKSUMS],
        commands=_file_commands(visit, url + href),
        upload_command=_upload_command(visit, url + href),
        base=base,
    )


def directory_json(visit: Visit, entries: Sequence[FileInfo], *, complete: bool, base: str) -> dict[str, Any]:
    """A directory for programs. `href` is exact whatever the name is; `name` is for people."""
    share = visit.share
    return {
        "path": "".join(f"{_text(part)}/" for part in visit.parts),
        "name": _text(visit.name),
        "directory": True,
        "writable": share.access >= ShareAccess.WRITE,
        "counted": bool(share.uses),
        "complete": complete,
        "entries": [
            {
                "name": _text(info.name),
                "directory": info.is_dir,
                "type": kind_of(info).value,
                **({} if info.is_dir else {"size": info.size}),
                "modified": _iso(info.mtime_ns),
                "href": base + href_of(visit, (*visit.parts, info.name), directory=info.is_dir),
            }
            for info in entries
        ],
    }


def file_json(visit: Visit, info: FileInfo, *, base: str) -> dict[str, Any]:
    """One file for programs."""
    return {
        "name": _text(visit.name),
        "directory": False,
        "type": kind_of(info).value,
        "size": info.size,
        "modified": _iso(info.mtime_ns),
        "mediaType": media_type(visit.name),
        "writable": visit.share.access >= ShareAccess.WRITE,
        "counted": bool(visit.share.uses),
        "href": base + href_of(visit),
    }


def _entry(visit: Visit, info: FileInfo) -> Entry:
    kind = kind_of(info)
    href = ""
    if kind is not Kind.OTHER:
        href = href_of(visit, (*visit.parts, info.name), directory=info.is_dir)
    return Entry(
        name=os.fsdecode(info.name),
        kind=kind,
        href=href,
        size=None if info.is_dir else info.size,
        modified=info.mtime_ns / 1e9,
    )


def _crumbs(visit: Visit, *, directory: bool) -> list[Crumb]:
    if not visit.share.directory:
        return [Crumb(visit.share.name, href_of(visit, ()))]
    crumbs = [Crumb(visit.share.name or "/", href_of(visit, (), directory=True))]
    for number, part in enumerate(visit.parts, 1):
        is_directory = directory or number < len(visit.parts)
        crumbs.append(Crumb(os.fsdecode(part), href_of(visit, visit.parts[:number], directory=is_directory)))
    return crumbs


def _directory_commands(visit: Visit, url: str) -> list[Command]:
    name = os.fsencode(os.fsdecode(visit.name)).decode("utf-8", "replace").strip("/") or "share"
    user = _user(visit)
    commands = [Command("Download with uftp", f"uftp get-share {shlex.quote(url)}")]
    if not visit.share.uses:
        target = shlex.quote(f"{name}.zip")
        commands.append(Command("Download with curl", f"curl {user}-o {target} {shlex.quote(url + '?format=zip')}"))
    if upload := _upload_command(visit, url):
        commands.append(Command("Upload with curl", upload))
    return commands


def _file_commands(visit: Visit, url: str) -> list[Command]:
    name = shlex.quote(visit.name.decode("utf-8", "replace"))
    user = _user(visit)
    commands = [
        Command("Download with curl", f"curl {user}-C - -o {name} {shlex.quote(url)}"),
        Command("Download with uftp", f"uftp get-share {shlex.quote(url)}"),
    ]
    if upload := _upload_command(visit, url):
        commands.append(Command("Upload with curl", upload))
    return commands


def _upload_command(visit: Visit, url: str) -> str:
    if visit.share.access < ShareAccess.WRITE:
        return ""
    return f"curl {_user(visit)}-T FILE {shlex.quote(url)}"


def _user(visit: Visit) -> str:
    if not visit.share.is_anonymous:
        return "-u USER "
    return "-u : " if visit.share.password_hash else ""


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _iso(mtime_ns: int) -> str:
    try:
        return datetime.fromtimestamp(mtime_ns // 1_000_000_000, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return "1970-01-01T00:00:00Z"
