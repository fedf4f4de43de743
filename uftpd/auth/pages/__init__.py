"""Pages for people: what a share looks like in a browser.

`views` says what a page shows, as plain values; `render` makes the replies. Nothing here speaks with the store or with
data nodes, so that whoever serves a share decides what somebody may see, and this package only how it looks.
"""

from uftpd.auth.pages.negotiation import prefers_page
from uftpd.auth.pages.order import Order
from uftpd.auth.pages.render import directory_page, error_page, file_page, password_page
from uftpd.auth.pages.views import (
    README_BYTES,
    Command,
    Crumb,
    DirectoryView,
    Entry,
    ErrorView,
    FileView,
    Kind,
    Link,
    PasswordView,
    Readme,
    ShareFacts,
)

__all__ = [
    "README_BYTES",
    "Command",
    "Crumb",
    "DirectoryView",
    "Entry",
    "ErrorView",
    "FileView",
    "Kind",
    "Link",
    "Order",
    "PasswordView",
    "Readme",
    "ShareFacts",
    "directory_page",
    "error_page",
    "file_page",
    "password_page",
    "prefers_page",
]
