"""Shares over REST, in front of a real data node: what owners and grantees are answered (CONTROL-PLANE 1.6, 1.7, 4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from data_node import Node
from running_auth import Pki, StartAuth, starter
from sharing import (
    OTHER,
    OTHER_LOGIN,
    OWNER_LOGIN,
    PEOPLE,
    a_node,
    ftp_lines,
    sharing_site,
)

pytestmark = pytest.mark.slow

ALL = "servers = []\nallow_write = true"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with a_node("gh") as running:
        yield running


@pytest.fixture
def start_auth(tmp_path: Path, pki: Pki, password_lines: str) -> StartAuth:
    return starter(tmp_path, pki, password_lines + PEOPLE)


async def test_a_share_is_made_listed_used_and_withdrawn(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node) as site:
        path = site.file("data/x.nc", b"0123456789")
        made = await site.call("POST", "/rest/share/DATA", body={"path": path, "user": OTHER, "lifetime": "3600"})
        assert (made.status_code, made.content) == (201, b"")
        where = made.headers["location"]
        assert where.startswith(f"{site.url}/rest/share/DATA/")
        share_id = where.rpartition("/")[2]
        assert len(share_id) >= 22
        shown = (await site.auth.client.get(where, auth=OWNER_LOGIN)).json()
        assert shown["owner"] == "cn=demo user,o=unicore,c=eu"
        assert shown["status"] == "OK"
        assert shown["userInfo"] == {
            "uid": node.person.name,
            "groups": [],
            "dn": "cn=demo user,o=unicore,c=eu",
        }
        entry = shown["share"]
        assert 3500 < entry.pop("lifetime") <= 3600
        assert entry.pop("created") > 0
        assert entry == {
            "id": share_id,
            "user": "cn=other user,o=testing",
            "directory": False,
            "path": path,
            "access": "READ",
            "onetime": False,
            "accessCount": 0,
            "http": f"{site.url}/rest/access/DATA/{share_id}",
            "uftp": f"{site.url}/rest/access/DATA:{path}",
            "server": "DATA",
            "lastAccess": 0,
            "password": False,
            "downloads": 0,
        }
        mine = (await site.call("GET", "/rest/share/DATA")).json()
        assert [share["id"] for share in mine["shares"]] == [share_id]
        assert mine["accessible"] == []
        theirs = (await site.call("GET", "/rest/share/DATA", OTHER_LOGIN)).json()
        assert theirs["shares"] == []
        assert [share["http"] for share in theirs["accessible"]] == [entry["http"]]
        assert "id" not in theirs["accessible"][0]
        assert "user" not in theirs["accessible"][0]

        granted = await site.use(share_id, login=OTHER_LOGIN)
        assert granted.status_code == 200, granted.text
        assert granted.json()["share"] == {"directory": False, "name": "x.nc"}
        size, beside = await ftp_lines(granted, "SIZE x.nc", "SIZE ../x.nc")
        assert size.startswith("213 10")
        assert beside.startswith("5")
        assert (await site.details(share_id))["accessCount"] == 1

        assert (await site.call("DELETE", f"/rest/share/DATA/{share_id}")).status_code == 200
        assert (await site.call("GET", f"/rest/share/DATA/{share_id}")).status_code == 404
        assert (await site.use(share_id, login=OTHER_LOGIN)).status_code == 404
