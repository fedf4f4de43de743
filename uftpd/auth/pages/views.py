"""What a page shows, as plain values.

Names are `str` as `os.fsdecode` makes them: bytes that are not UTF-8 are surrogates, control characters may occur; the
page makes both visible. Addresses (`href`) are absolute paths of this server, percent-encoded, with a query where one
is needed: `/rest/access/SERVER/ID/some%20dir/`. Times are Unix seconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from uftpd.auth.pages.order import BY_NAME, Order

README_BYTES = 256 * 1024
"""As much of a README is worth reading from the node; the rest is not shown."""

PASSWORD_FIELD = "password"  # noqa: S105 - the name of a form's field


class Kind(Enum):
    """What an entry of a directory is."""

    DIRECTORY = "directory"
    FILE = "file"
    OTHER = "other"  # links that are not followed, sockets, devices: listed, not offered


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a directory.

    Attributes:
        name: the last component.
        kind: what it is.
        href: its own page; for a directory with a `/` at its end. Empty for what is not offered.
        size: None if unknown, and for directories.
        modified: None if unknown.
        download: gives the bytes of a file to a browser. Empty means `href` with `?download=1`.
    """

    name: str
    kind: Kind
    href: str = ""
    size: int | None = None
    modified: float | None = None
    download: str = ""


@dataclass(frozen=True, slots=True)
class Crumb:
    """A step of the way from the share down to what is shown."""

    name: str
    href: str


@dataclass(frozen=True, slots=True)
class Link:
    """Something to choose: `Link("zip", "/rest/access/S/ID/?format=zip")`."""

    label: str
    href: str


@dataclass(frozen=True, slots=True)
class Command:
    """A line to copy into a shell.

    Attributes:
        label: what it does, in a few words: "Download with curl".
        line: the whole command, quoted for a POSIX shell by whoever made it.
    """

    label: str
    line: str


@dataclass(frozen=True, slots=True)
class Readme:
    """The README of a directory.

    Attributes:
        name: of the file. `.md` and `.markdown` are shown as Markdown, all others as they are.
        content: its first bytes, at most `README_BYTES`.
        whole: whether that is all of it.
    """

    name: str
    content: bytes
    whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareFacts:
    """What somebody who has the link may know of the share.

    Attributes:
        name: last component of the shared path.
        server: the logical server.
        writable: whether this person may upload.
        expires: 0 for never.
        one_time: it ends when it has been fetched whole.
        downloads_left: None without a limit.
        password: whether it has one.
    """

    name: str
    server: str
    writable: bool = False
    expires: float = 0
    one_time: bool = False
    downloads_left: int | None = None
    password: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryView:
    """A directory of a share.

    Attributes:
        share: what is known of it.
        href: the directory itself, with a `/` at its end. Uploads are PUT to this and the encoded name.
        crumbs: from the share itself to this directory, which is the last.
        entries: all that are to be seen, in any order; the page sorts and cuts.
        order: as the query asks: `Order.of(request.query_params)`.
        complete: False if the directory holds more than was read.
        archives: this directory as one file: `Link("zip", ...)`, `Link("tar", ...)`.
        readme: None if there is none.
        commands: lines to copy.
        upload_command: the line that uploads a file with curl, shown where there is no JavaScript; empty for none.
        base: path in front of all addresses where the server is reached below one (`server.external_url`), without
            a `/` at its end; else empty.
    """

    share: ShareFacts
    href: str
    crumbs: Sequence[Crumb]
    entries: Sequence[Entry]
    order: Order = BY_NAME
    complete: bool = True
    archives: Sequence[Link] = ()
    readme: Readme | None = None
    commands: Sequence[Command] = ()
    upload_command: str = ""
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileView:
    """One file of a share.

    Attributes:
        share: what is known of it.
        name: the last component.
        href: the file itself. Uploads are PUT to it.
        download: gives the bytes to a browser: `href` with `?download=1`.
        crumbs: from the share down to this file, which is the last; one if the share is the file.
        size: bytes.
        modified: None if unknown.
        media_type: what it is served as.
        view: shows the bytes in the browser, where that is safe; else empty.
        checksums: what can be asked for: `Link("SHA-256", "...?checksum=sha256")`, answered with this page again.
        checksum: algorithm and hexadecimal digest, when it was asked for.
        commands: lines to copy.
        upload_command: as in `DirectoryView`.
        base: as in `DirectoryView`.
    """

    share: ShareFacts
    name: str
    href: str
    download: str
    crumbs: Sequence[Crumb]
    size: int | None = None
    modified: float | None = None
    media_type: str = "application/octet-stream"
    view: str = ""
    checksums: Sequence[Link] = ()
    checksum: tuple[str, str] | None = None
    commands: Sequence[Command] = ()
    upload_command: str = ""
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordView:
    """Asks for the password of a share.

    Attributes:
        action: where the form is sent by POST as `application/x-www-form-urlencoded`: field `PASSWORD_FIELD`, and
            `to` with what is in `to`.
        to: what to show after that; an address of this server.
        wrong: whether a wrong one was just given.
        base: as in `DirectoryView`.
    """

    action: str
    to: str = ""
    wrong: bool = False
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """Why there is nothing else to see.

    Attributes:
        status: of the reply.
        text: one sentence, where there is more to say than the status does.
        request_id: what the log calls this request; empty for no mention.
        base: as in `DirectoryView`.
    """

    status: int
    text: str = ""
    request_id: str = ""
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginView:
    """Asks who somebody is.

    Attributes:
        token: of the form.
        to: the page to show after that; empty for the usual one.
        problem: why the last attempt failed; empty for none.
        user: the name that was tried.
        base: as in `DirectoryView`.
    """

    token: str
    to: str = ""
    problem: str = ""
    user: str = ""
    base: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnShare:
    """A share, as its owner sees it.

    Attributes:
        id, server, path: of the share.
        link: the whole URL.
        target: name of the person it is for; empty for anybody.
        writable: whether that person may upload.
        expires, last_used: 0 for never.
        one_time, password: as in `ShareFacts`.
        used: how often.
        max_downloads: 0 for any number.
        downloads: how many there were.
    """

    id: str
    server: str
    path: str
    link: str
    target: str = ""
    writable: bool = False
    expires: float = 0
    one_time: bool = False
    password: bool = False
    used: int = 0
    last_used: float = 0
    max_downloads: int = 0
    downloads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedShare:
    """What somebody else shares with a person.

    Attributes:
        owner: canonical name.
        server, path: of the share.
        link: the whole URL.
        writable, expires: as in `ShareFacts`.
    """

    owner: str
    server: str
    path: str
    link: str
    writable: bool = False
    expires: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesView:
    """What somebody shares, and the form to share more.

    Attributes:
        person: their name.
        token: of the forms.
        servers: where they can share.
        shares: theirs, the newest first.
        received: what others share with them.
        lifetimes: seconds and words to choose from; 0 seconds for no end.
        may_write: whether shares may be for uploads.
        may_be_for_anybody: whether shares may be for whoever has the link.
        form: what was filled in, where it has to be filled in better.
        problem: what is wrong with it; empty for nothing.
        done: what has just been done; empty for nothing.
        transfers: whether they can have transfers looked after here, too.
        base: as in `DirectoryView`.
    """

    person: str
    token: str
    servers: Sequence[str]
    shares: Sequence[OwnShare]
    received: Sequence[ReceivedShare]
    lifetimes: Sequence[tuple[int, str]]
    may_write: bool
    may_be_for_anybody: bool
    form: Mapping[str, str]
    problem: str = ""
    done: str = ""
    transfers: bool = False
    base: str = ""
