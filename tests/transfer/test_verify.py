"""Comparing on old servers: by checksums of the server, where a transfer carries no digest itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from scripted_ftp import OURS, Action, Dialogue, reply, scripted_server

from uftp.errors import TransferFailed
from uftp.transfer.copy import copy_files
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState

CONTENT = b"x" * 1000
RIGHT = hashlib.sha256(CONTENT).hexdigest()
WITH_HASH = (*OURS, "HASH SHA-256*;MD5")


async def sending(dialogue: Dialogue, argument: str) -> None:
    await dialogue.say("150 OK 1000 bytes")
    async with await dialogue.data() as data:
        await data.send_all(CONTENT)
    await dialogue.say("226 done")


def hashing(*digests: str) -> Action:
    """HASH with these digests in turn, the last one for good."""
    left = list(digests)

    async def act(dialogue: Dialogue, argument: str) -> None:
        digest = left.pop(0) if len(left) > 1 else left[0]
        await dialogue.say(f"213 SHA-256 0-999 {digest} {argument}")

    return act


@pytest.mark.parametrize(
    ("digests", "retries", "good"),
    [([RIGHT], 0, True), (["00" * 32, RIGHT], 1, True), (["00" * 32], 1, False)],
    ids=["right", "right when sent again", "wrong"],
)
async def test_what_came_is_compared_before_it_gets_its_name(
    digests: list[str], retries: int, good: bool, tmp_path: Path
) -> None:
    actions = {"RETR": sending, "HASH": hashing(*digests), "OPTS": reply("200 OK"), "RANG": reply("350 OK")}
    state = CopyState()
    async with scripted_server(actions, features=WITH_HASH) as server:
        options = CopyOptions(retries=retries)
        summary = await copy_files([f"{server.url}/x"], str(tmp_path / "x"), options=options, state=state)
    assert (summary.files, summary.failed, summary.unverified) == (int(good), int(not good), 0)
    assert (tmp_path / "x").exists() == good
    if not good:
        with pytest.raises(TransferFailed, match="not what the source has"):
            summary.raise_for_failures()
    assert summary.retries == retries


@pytest.mark.parametrize("features", [OURS, WITH_HASH])
async def test_what_nobody_can_compare_is_said_once(features: tuple[str, ...], tmp_path: Path) -> None:
    notes: list[str] = []
    state = CopyState(on_note=notes.append)
    actions = {"RETR": sending, "OPTS": reply("200 OK"), "HASH": reply("502 no such command")}
    async with scripted_server(actions, features=features) as server:
        sources = [f"{server.url}/x", f"{server.url}/y"]
        summary = await copy_files(sources, f"{tmp_path}/", options=CopyOptions(retries=0), state=state)
        summary.raise_for_failures()
        assert (summary.files, summary.unverified, len(notes)) == (2, 2, 1)
        options = CopyOptions(retries=0, verify=False)
        summary = await copy_files(sources, f"{tmp_path}/", options=options)
    assert (summary.files, summary.unverified) == (2, 0)
