"""Junk of any kind ends at most the session it came from, and always with a reply."""

from __future__ import annotations

import random
import socket

import pytest
from data_node import Node
from raw_ftp import TIMEOUT

from uftpd.session.table import COMMANDS

VERBS = sorted(set(COMMANDS) - {"QUIT", "BYE", "EPSV", "PASV"})
ARGUMENTS = [
    b"",
    b" ",
    b".",
    b"..",
    b"/",
    b"x",
    b"-1",
    b"0",
    b"1 0",
    b"99999999999999999999999999 99999999999999999999999999",
    b"-99999999999999999999999999 5",
    b"9" * 5000,
    b"a/" * 3000,
    b"%00",
    b"%0",
    b"\x00",
    b"\x01\x02\x7f",
    b"\xc3\x28",
    b"\xf0\x9f\x92\xa9" * 100,
    b"20200101000000 x",
    b"99999999999999 x",
    b"00000000000000 x",
    b"UNIX.mode=99999999; x",
    b"UNIX.mode=777;;;Modify=x; x",
    b";;; x",
    b"N x",
    b"F",
    b"CHMOD 99999 x",
    b"HASH " + b"x" * 300,
    b"NAMES PCT",
    b"NAMES",
    b"RATE_LIMIT 999999999999999999",
    b"RATE_LIMIT 9999999999999999999999999",
    b"UTC maybe",
    b"*" * 200,
    b"'\"`$(x)",
]


@pytest.mark.slow
def test_every_command_takes_any_argument(shared_node: Node) -> None:
    base = shared_node.directory()
    with shared_node.login(file=f"{base}/") as ftp:
        for verb in VERBS:
            for argument in ARGUMENTS:
                ftp.send(verb.encode() + b" " + argument)
                answer = ftp.reply()
                assert answer[:3].isdigit(), (verb, argument, answer)
                assert answer[:1] in b"2345", (verb, argument, answer)
                assert b"internal error" not in answer, (verb, argument, answer)
        ftp.ok("NOOP")


@pytest.mark.slow
def test_random_bytes(shared_node: Node) -> None:
    source = random.Random(1)
    for login in (True, False):
        for _ in range(10):
            junk = bytes(source.choices(b"\r\n \xff\xf4\xf2\x00\xe9AOPRSTUX%/.*", k=3000)).replace(b"BYE", b"")
            with shared_node.login() if login else shared_node.connect() as ftp:
                ftp.socket.sendall(junk + b"\r\n")
                ftp.socket.shutdown(socket.SHUT_WR)
                replies = 0
                while line := ftp.line():
                    assert line.endswith(b"\r\n")
                    replies += 1
                assert replies
    with shared_node.login() as ftp:
        ftp.ok("NOOP")


@pytest.mark.slow
def test_random_requests(shared_node: Node) -> None:
    source = random.Random(2)
    words = ["request-type=", "uftp-transfer-request", "user=", "secret=", "a", "\n", "END", "=", ":", "key=", "%", "é"]
    for _ in range(200):
        text = "".join(source.choices(words, k=20)) + "\nEND\n"
        with socket.create_connection(shared_node.command, TIMEOUT) as peer:
            peer.sendall(text.encode())
            peer.shutdown(socket.SHUT_WR)
            reply = peer.recv(1000)
        assert reply.startswith((b"ERROR::", b"500 ", b"530 ", b"OK::")), (text, reply)
