"""Usage lines of many transfers in one go are those that each would have had."""

from __future__ import annotations

import json
import logging
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftpd.events import EventFormatter

BEFORE = {"session": "12345678", "user": "alice", "verb": "RETR"}
BEHIND = {"result": "ok", "how": "", "mode": "U", "crypt": False, "compress": False, "verified": True}
ROWS = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8"), min_size=1),
        st.integers(0, 2**40),
        st.floats(0, 1000).map(lambda seconds: round(seconds, 6)),
    ),
    min_size=1,
)


def record(**extra: object) -> logging.LogRecord:
    made = logging.LogRecord("uftpd.session", logging.INFO, "", 0, "transfer", None, None)
    made.created, made.msecs = 1_800_000_000.0, 0.0
    made.__dict__.update(extra)
    return made


@pytest.mark.parametrize("form", ["text", "json"])
@given(rows=ROWS)
def test_together_and_one_by_one(form: Literal["text", "json"], rows: list[tuple[str, int, float]]) -> None:
    formatter = EventFormatter(form)
    together = formatter.format(record(transfers=(BEFORE, rows, BEHIND))).split("\n")
    assert len(together) == len(rows)
    for line, (path, size, seconds) in zip(together, rows, strict=True):
        rate = round(size / seconds) if seconds else 0
        facts = {**BEFORE, "path": path, "bytes": size, "seconds": seconds, "rate": rate, **BEHIND}
        alone = formatter.format(record(facts=facts))
        if form == "json":
            assert json.loads(line) == json.loads(alone)
        else:
            assert line == alone
