"""`uftpd auth migrate` and `uftpd auth revoke-token` on the store of a server."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from uftpd.auth.store.engine import open_store
from uftpd.auth.store.revocations import StoredRevocations
from uftpd.config.operating import StoreSettings

UFTPD = Path(sys.executable).parent / "uftpd"

pytestmark = pytest.mark.slow


def _uftpd(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(UFTPD), "auth", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "auth.toml"
    path.write_text('[server]\n[nodes]\n[store]\npath = "store.sqlite"\n')
    return path


def _token(**claims: object) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "EdDSA"}, claims)] + [b"signature"]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def _is_revoked(path: Path, jti: str) -> bool:
    store = open_store(StoreSettings(path=path))
    try:
        return trio.run(StoredRevocations(store).is_revoked, jti)
    finally:
        store.close()


def test_a_token_is_revoked_by_itself_by_its_id_or_from_a_file(config: Path) -> None:
    path = config.with_name("store.sqlite")
    open_store(StoreSettings(path=path)).close()
    config.with_name("token").write_text(_token(jti="three", exp=9e9) + "\n")
    for word in ("one", _token(jti="two", exp=9e9), f"@{config.with_name('token')}"):
        done = _uftpd("revoke-token", "--config", config, word)
        assert (done.returncode, done.stderr) == (0, "")
    for jti in ("one", "two", "three"):
        assert _is_revoked(path, jti)
    assert not _is_revoked(path, "four")
    assert _uftpd("migrate", "--config", config).returncode == 0


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a b", "no id of a token"),
        ("x.y.z", "no token of an auth server"),
        (_token(exp=9e9), "no id to revoke it by"),
        ("@/nonexistent/file", "/nonexistent/file: cannot be read: No such file"),
    ],
)
def test_what_is_no_token_is_refused(config: Path, word: str, expected: str) -> None:
    open_store(StoreSettings(path=config.with_name("store.sqlite"))).close()
    done = _uftpd("revoke-token", "--config", config, word)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr


def test_a_store_that_is_not_there_is_not_made(config: Path) -> None:
    for words in (["migrate"], ["revoke-token", "x"]):
        done = _uftpd(*words, "--config", config)
        assert done.returncode == 2
        assert "the auth server makes it when it starts" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not config.with_name("store.sqlite").exists()
    config.write_text("[server]\n[nodes]\n")
    done = _uftpd("revoke-token", "--config", config, "x")
    assert "without path or url" in done.stderr
