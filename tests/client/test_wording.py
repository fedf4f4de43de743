"""Which error a server's refusal becomes."""

from __future__ import annotations

import pytest

from uftp.client.wording import refusal
from uftp.errors import NetworkError, NotFound, Refused, UFTPError
from uftp.protocol.replies import reply


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        (550, "Error processing command 'MKD': File exists", Refused),
        (550, "Is a directory", Refused),
        (550, "Error processing command 'RMD': Directory not empty", Refused),
        (550, "Directory/file does not exist or cannot be accessed!", NotFound),
        (500, "Error processing command 'RETR': No such file or directory", NotFound),
        (550, "Permission denied", Refused),
        (421, "The server is shutting down", NetworkError),
    ],
)
def test_what_is_there_is_not_missing(code: int, text: str, error: type[UFTPError]) -> None:
    found = refusal(reply(code, text), b"/a", "do it")
    assert type(found) is error
    assert str(found).startswith("/a: cannot do it: the server said ")
    assert "processing command" not in str(found)
