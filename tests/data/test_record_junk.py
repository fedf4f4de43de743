"""Junk at a session in MODE U: records and commands made of the right words in any order.

Whatever comes, a session answers or ends; it never hangs, never logs an internal error (the node's log is looked
through when a test ends), and the next one finds the node as it was. CASES sessions, about 20 moves each.
"""

from __future__ import annotations

import contextlib
import os
import random
import select

import pytest
from data_node import Node
from raw_ftp import TIMEOUT, RawFtp
from record_ftp import KEY, RecordFtp

from uftp.protocol.record_mode import RecordOptions
from uftp.protocol.records import pack_header

CASES = 40
MOVES = 20
LINES = [
    "STOR f{}", "STOR d/f{}", "STOR none/f", "STOR", "APPE f{}", "RETR f{}", "RETR", "RETR /dev/zero", "LIST",
    "NLST none", "MLSD d", "RANG 0 10", "RANG 3 2", "REST 5", "ALLO 7", "ALLO -1", "SIZE f1", "MLST", "DELE f{}",
    "MKD d", "RMD d", "RNFR f1", "RNTO f2", "STAT", "HASH f1", "NOOP", "NOOP 2", "ABOR", "OPTS MODE U", "PWD",
    "TYPE ARCHIVE", "TYPE NORMAL", "KEEP-ALIVE true", "SITE CHMOD 600 f1", "MFMT 20200101000000 f1", "XYZZY", "é\xff",
]  # fmt: skip


def junk_records(choose: random.Random, number: int) -> bytes:
    out = b""
    for _ in range(choose.randrange(4)):
        payload = choose.randbytes(choose.choice([0, 1, 8, 34, 100, 5000]))
        flags = choose.choice([0, 0, 8, 8, 8, 4, choose.randrange(16)]) << 28
        out += pack_header(flags, len(payload) + choose.choice([0, 0, 0, 1]), number + choose.choice([0, 0, 0, 0, 1]))
        out += payload
    return out


def moves(choose: random.Random, session: RecordFtp) -> None:
    for _ in range(MOVES):
        match choose.randrange(6):
            case 0 | 1 | 2:
                line = choose.choice(LINES).format(choose.randrange(4))
                if line.split(" ")[0] in ("STOR", "APPE", "RETR", "LIST", "NLST", "MLSD"):
                    session.number += 1
                session.ftp.send(line.encode("latin-1"))
            case 3 | 4:
                if session.data is not None:
                    session.data.sendall(junk_records(choose, session.number))
            case 5:
                # Whoever reads nothing for ever is another test's matter.
                if session.data is not None and select.select([session.data], [], [], 0)[0]:
                    session.data.recv(1 << 20)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("crypt", [False, True], ids=["plain", "crypt"])
def test_junk_ends_in_answers_or_in_the_end(shared_node: Node, seed: int, crypt: bool) -> None:
    base = shared_node.directory()
    for case in range(CASES // 4):
        choose = random.Random(1000 * seed + case)
        options = RecordOptions(
            crypt=crypt,
            compress=choose.random() < 0.5,
            digest=choose.random() < 0.5,
            sparse=choose.random() < 0.5,
            facts=choose.random() < 0.5,
        )
        with shared_node.login(file=f"{base}/", key=KEY if crypt else None) as ftp:
            session = RecordFtp(ftp, options, KEY)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError), session:
                session.connect()
                moves(choose, session)
            # The data connection is closed now: nothing is left to wait for.
            assert ends_well(ftp), (seed, case)
    with shared_node.login(file=f"{base}/") as ftp:
        assert ftp.store("STOR fine", b"content").startswith(b"226 ")
    assert not [name for name in os.listdir(base) if name.startswith(".uftp-")]


def ends_well(ftp: RawFtp) -> bool:
    """Whether the session answers all that was sent, QUIT last, or ends by itself."""
    ftp.socket.settimeout(TIMEOUT)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        ftp.send("QUIT")
        while answer := ftp.reply():
            if answer.startswith(b"221 "):
                return ftp.is_closed()
            assert answer[:3].isdigit(), answer
    return True
