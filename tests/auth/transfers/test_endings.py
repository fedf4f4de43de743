"""Which errors end a transfer, and which have it tried again."""

from __future__ import annotations

import pytest

from uftp.errors import AuthenticationFailed, NetworkError, NotFound, Refused, UFTPError, UsageError
from uftpd.auth.errors import Refused as NotLoggedIn
from uftpd.auth.errors import Unavailable
from uftpd.auth.transfers.endings import ForGood, NotNow, ending_of, is_lasting
from uftpd.peers import PeerRefused

FETCH = "in/: cannot fetch it: the server said"


@pytest.mark.parametrize(
    "error",
    [
        Refused(f"{FETCH} 534 h:1: this site allows no copies with it", code=534),
        Refused(f"{FETCH} 500 Permission denied", code=500),
        Refused(f"{FETCH} 504 ENCRYPT needs a session key", code=504),
        Refused("https://b.example: access denied; logged in with a token", code=403),
        NotFound(f"{FETCH} 550 No such file or directory", code=550),
        NotFound(f"{FETCH} 500 File not found", code=500),
        PeerRefused("h:1: this site allows no copies with it", "not listed"),
        UsageError("is a directory"),
        NotLoggedIn("no account"),
    ],
)
def test_what_ends_it(error: UFTPError) -> None:
    assert isinstance(ending_of(error), ForGood)


@pytest.mark.parametrize(
    ("error", "busy"),
    [
        (Refused(f"{FETCH} 500 Too many copies and sessions of 'x' - server limit is 2", code=500), True),
        (Refused(f"{FETCH} 500 This server is being restarted, try again later", code=500), True),
        # A node that is stopped or updated, or killed for want of memory, in the moment of a start.
        (Refused(f"{FETCH} 500 The server is shutting down", code=500), False),
        (Refused(f"{FETCH} 500 the session process ended", code=500), False),
        (Refused(f"{FETCH} 500 internal error", code=500), False),
        (Refused(f"{FETCH} 451 Local error", code=451), False),
        (Refused("https://b.example: the auth server failed (500)", code=500), False),
        (AuthenticationFailed("530 wrong password"), False),
        (NetworkError("the connection broke"), False),
        (Unavailable("no node answers"), False),
    ],
)
def test_what_may_pass(error: UFTPError, busy: bool) -> None:
    found = ending_of(error)
    assert isinstance(found, NotNow)
    assert found.busy == busy


@pytest.mark.parametrize(
    ("text", "lasting"),
    [
        ("/x: Permission denied", True),
        ("/x: no such file", True),
        ("/x/y: too deep; is a link leading upwards?", True),
        ("/x: No space left on device", False),
        ("the process of the copy ended", False),
        ("the server said 500 The server is shutting down", False),
    ],
)
def test_files_that_fail_for_good(text: str, lasting: bool) -> None:
    assert is_lasting(text) == lasting
