"""`uftp rcp` of https URLs and links, which the target's node fetches itself."""

from __future__ import annotations

import os
import pwd
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_uftp import uftp_inside
from two_sites import TwoSites

from benchmarks.stack import PASSWORD, Stack, account
from uftp.errors import UsageError
from uftp.transfer.between_places import Place, WebPlace, read_source
from uftp.transfer.copy import Access

CONTENT = os.urandom(2_000_003)


class TrustingStack(Stack):
    """One whose node fetches from this machine, and trusts its own auth server's certificate."""

    def _configure(self) -> None:
        super()._configure()
        path = self._top / "state" / "nodes" / "node0" / "data.toml"
        text = re.sub(r"\n\[copies\]\n(.+\n)*", "\n", path.read_text())
        path.write_text(f'{text}\n[copies]\nallow = ["127.0.0.1"]\nhttps_ca = "{self.ca}"\n')


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="uftp-fetch-") as name:
        os.chmod(name, 0o755)
        with TrustingStack(Path(name), ["127.0.0.1"]) as running:
            yield running


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the account that sessions run as."""
    with tempfile.TemporaryDirectory(prefix="uftp-fetch-files-") as name:
        person = pwd.getpwnam(account())
        os.chown(name, person.pw_uid, person.pw_gid)
        os.chmod(name, 0o755)
        yield Path(name)


def login(stack: Stack) -> tuple[str, ...]:
    return ("--ca", str(stack.ca), "-u", f"{stack.login}:{PASSWORD}")


def test_the_link_of_a_share_and_a_url_below_it(stack: Stack, place: Path) -> None:
    shared, target = place / "shared", place / "target"
    for directory in (shared, target):
        directory.mkdir()
        os.chown(directory, *(place.stat().st_uid, place.stat().st_gid))
    (shared / "x").write_bytes(CONTENT)
    (shared / "two words").write_bytes(b"more")
    offered = uftp_inside("share", *login(stack), "--json", f"{stack.url}{shared}/")
    assert offered.code == 0, offered.err
    link = offered.records[0]["http"]
    done = uftp_inside("rcp", *login(stack), "--json", f"{link}/x", f"{stack.url}{target}/")
    assert (done.code, done.err) == (0, "")
    assert (target / "x").read_bytes() == CONTENT
    assert done.records[-1]["bytes"] == len(CONTENT)
    tree = uftp_inside("rcp", *login(stack), "-r", link, f"{stack.url}{target}/new")
    assert (tree.code, tree.err) == (0, "")
    assert sorted(path.name for path in (target / "new").rglob("*") if path.is_file()) == ["two words", "x"]
    gone = uftp_inside("rcp", *login(stack), f"{link}/gone", f"{stack.url}{target}/")
    assert gone.code == 4
    assert len(gone.error_lines) == 1


def test_what_the_site_does_not_allow_is_not_fetched(sites: TwoSites) -> None:
    target = sites.second.directory()
    user = f"{sites.second.first}:{sites.second.password(sites.second.first)}"
    here = ("--ca", sites.second.ca, "-u", user)
    for url in ("https://127.0.0.3/x", "https://localhost:9/x", "https://10.0.0.1/x", "https://[::1]/x"):
        done = uftp_inside("rcp", *here, url, sites.second.url(target))
        assert done.code in (5, 9), (url, done.err)
        assert len(done.error_lines) == 1
    assert not list(target.iterdir())
    refused = uftp_inside("rcp", *here, "-B", "0-1", "https://example.org/x", sites.second.url(target))
    assert refused.code == 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("https://h/rest/auth/X:/a", Place),
        ("https://h/site/rest/auth/X:a", Place),
        ("https://h/rest/access/X:/a", Place),
        ("https://h/rest/access/X/abc-1_2:a", Place),
        ("https://h/rest/access/X/abc-1_2", WebPlace),
        ("https://h/rest/access/X/abc-1_2/a/b", WebPlace),
        ("https://h:9000/site/rest/access/X/abc", WebPlace),
        ("https://h/records/1/a.zip?download=1", WebPlace),
        ("https://h", WebPlace),
        ("https://h/a:b", WebPlace),
        ("http://h/a.zip", UsageError),
        ("https://h/rest/auth", UsageError),
        ("https://h/rest/auth:/a", UsageError),
        ("https://user:pw@h/x", UsageError),
        ("ftp://h/x", UsageError),
        ("a/b", UsageError),
    ],
)
def test_what_a_source_is(text: str, kind: type) -> None:
    if kind is UsageError:
        with pytest.raises(UsageError):
            read_source(text, lambda url: Access())
    else:
        assert isinstance(read_source(text, lambda url: Access()), kind)
