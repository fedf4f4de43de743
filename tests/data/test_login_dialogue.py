"""The login dialogue: whatever is sent, it answers or ends, and only a password is an attempt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from uftpd.data.login import Answer, Attempt, LoginDialogue

WORDS = [
    b"USER anonymous",
    b"user x",
    b"PASS",
    b"PASS x",
    b"FEAT",
    b"NOOP",
    b"QUIT",
    b"AUTH TLS",
    b"",
    b"\xff",
    b"OPTS UTF8",
]


@given(st.lists(st.sampled_from(WORDS) | st.binary(max_size=40)))
def test_any_lines(lines: list[bytes]) -> None:
    dialogue = LoginDialogue()
    named = False
    mistakes = 0
    for line in lines:
        answer = dialogue.receive_line(line)
        if isinstance(answer, Attempt):
            assert named
            assert answer.secret.strip()
            return
        assert isinstance(answer, Answer)
        encoded = answer.reply.encode()
        assert encoded.endswith(b"\r\n")
        assert answer.reply.code < 600
        named = named or answer.reply.code == 331
        mistakes += answer.reply.code in (502, 530)
        assert mistakes < 6, "it does not go on for ever"
        if answer.close:
            return


@given(st.binary(min_size=1).map(lambda raw: raw.strip()).filter(lambda raw: raw and b"\n" not in raw))
def test_the_password_is_all_behind_the_first_blank(password: bytes) -> None:
    dialogue = LoginDialogue()
    dialogue.receive_line(b"USER anonymous")
    answer = dialogue.receive_line(b"PASS " + password)
    if password == b"anonymous":
        assert isinstance(answer, Answer)
    else:
        assert isinstance(answer, Attempt)
        assert answer.secret.encode("utf-8", "surrogateescape") == password
