"""Shares over REST, in front of a real data node: what owners and grantees are answered (CONTROL-PLANE 1.6, 1.7, 4)."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from data_node import Node
from running_auth import DEMO, Pki, StartAuth, starter
from sharing import (
    ANYBODY,
    OTHER,
    OTHER_LOGIN,
    OWNER_LOGIN,
    PEOPLE,
    THIRD,
    THIRD_LOGIN,
    SharingSite,
    a_node,
    ftp_lines,
    sharing_site,
)

from uftp.protocol.command_port import Access as RequestAccess
from uftp.protocol.command_port import Purpose, TransferRequest
from uftp.protocol.command_replies import PingReply
from uftp.protocol.dn import canonical
from uftpd.auth.attributes.rates import parse_rate
from uftpd.auth.requests import SESSION_TAG
from uftpd.auth.shares import pool
from uftpd.auth.shares.model import Share, ShareAccess, new_share_id
from uftpd.auth.shares.reach import transfer_request

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


@dataclass(frozen=True)
class Case:
    """A request, and what it is answered with.

    In path and body `{file}`, `{dir}`, `{link}`, `{others}` stand for paths on the node; `{id}`, `{for_other}`,
    `{foreign}` for shares: of the file for anybody, of the directory for the second person, and of the second person's.
    """

    section: str
    method: str
    path: str
    status: int
    words: str = ""
    login: tuple[str, str] | None = OWNER_LOGIN
    body: Any = None
    reply: dict[str, Any] | None = None


def wanted(path: str = "{file}", user: Any = ANYBODY, **more: Any) -> dict[str, Any]:
    return {"path": path, "user": user, **more}


DATA, ONE = "/rest/share/DATA", "/rest/share/DATA/{id}"
SESSION = {"serverPath": ""}

OWNERS: Sequence[Case] = [
    # 1.1, 1.6: who may, which servers there are
    Case("1.1", "GET", "/rest/share", 403, login=None),
    Case("1.1", "GET", DATA, 403, login=None),
    Case("1.1", "POST", DATA, 403, login=None, body=wanted()),
    Case("1.1", "DELETE", ONE, 403, login=None),
    Case("1.1", "GET", DATA, 403, login=("demouser", "wrong")),
    Case("1.1", "GET", DATA, 403, login=("banned", "test123")),
    Case("1.1", "PUT", DATA, 405, body={}),
    Case("1.1", "PATCH", ONE, 405),
    Case("1.6", "GET", "/rest/share", 200),
    Case("1.6", "GET", "/rest/share/", 200),
    Case("1.6", "GET", DATA, 200),
    Case("1.6", "GET", DATA + "/", 200),
    Case("1.6", "GET", "/rest/share/NOSUCH", 404, "No such server"),
    Case("1.7", "GET", "/rest/share/DATA-1", 404, "No such server"),
    Case("1.6", "POST", "/rest/share/NOSUCH", 404, "No such server", body=wanted()),
    Case("1.7", "POST", "/rest/share/DATA-1", 404, body=wanted()),
    # 1.6, 4.2: making
    Case("1.6", "POST", DATA, 201, body=wanted()),
    Case("1.6", "POST", DATA, 201, body=wanted(access="READ", lifetime=60, onetime=False, group=None)),
    Case("T1", "POST", DATA, 201, body=wanted(user="CN=T1,O=x", lifetime="60", onetime="true")),
    Case("1.6", "POST", DATA, 201, body=wanted(user="CN=W,O=x", access="WRITE")),
    Case("W6", "POST", DATA, 201, body=wanted(user="CN=M,O=x", access="MODIFY")),
    Case("4.2", "POST", DATA, 201, body=wanted("{dir}", "CN=D,O=x")),
    Case("4.2", "POST", DATA, 201, body=wanted("{dir}/../{name}/./", "CN=D,O=x")),
    Case("1.6", "POST", DATA, 400, "JSON", body=b"{"),
    Case("1.6", "POST", DATA, 400, "JSON object", body=[]),
    Case("1.6", "POST", DATA, 400, "path: required", body={"user": ANYBODY}),
    Case("1.6", "POST", DATA, 400, "user: required", body={"path": "{file}"}),
    Case("1.6", "POST", DATA, 400, "path: required", body={"path": 1, "user": ANYBODY}),
    Case("1.6", "POST", DATA, 400, "user: required", body=wanted(user=None)),
    Case("5.9", "POST", DATA, 400, "not a valid name", body=wanted(user="joe")),
    Case("1.6", "POST", DATA, 400, "access: expected", body=wanted(access="read")),
    Case("1.6", "POST", DATA, 400, "access: expected", body=wanted(access="ALL")),
    Case("T16", "POST", DATA, 400, "lifetime", body=wanted(lifetime="soon")),
    Case("1.6", "POST", DATA, 400, "lifetime", body=wanted(lifetime=-1)),
    Case("1.6", "POST", DATA, 400, "group", body=wanted(group="wheel")),
    Case("4.2", "POST", DATA, 400, "not absolute", body=wanted("data/x")),
    Case("4.2", "POST", DATA, 400, "too far up", body=wanted("/../etc/passwd")),
    Case("W1", "POST", DATA, 400, "control characters", body=wanted("{file}\nuser=root")),
    Case("W1", "POST", DATA, 400, "control characters", body=wanted("{file}\u2028")),
    Case("W1", "POST", DATA, 400, "control characters", body=wanted("{file}\0")),
    Case("4.2", "POST", DATA, 404, "No such file", body=wanted("{dir}/nosuch")),
    Case("4.2", "POST", DATA, 404, "a file, not a directory", body=wanted("{file}/")),
    Case("4.2", "POST", DATA, 400, "is it a link", body=wanted("{link}")),
    Case("1.6", "POST", DATA, 401, "no account", THIRD_LOGIN, body=wanted()),
    Case("1.1", "POST", DATA, 415, body="text"),
    # T14, T18: ending all shares of a path, found or not
    Case("T14", "POST", DATA, 400, "user: required", body={"path": "{file}", "access": "NONE"}),
    Case("4.2", "POST", DATA, 200, body=wanted("{dir}/nosuch", access="NONE")),
    Case("4.2", "POST", DATA, 200, body=wanted("/never/was/", access="NONE")),
    # 1.6, 4.3: one share
    Case("1.6", "GET", ONE, 200),
    Case("4.3", "GET", ONE, 401, "not yours", OTHER_LOGIN),
    Case("4.3", "GET", "/rest/share/DATA/{for_other}", 401, "not yours", OTHER_LOGIN),
    Case("1.6", "GET", DATA + "/nosuch", 404, "No such share"),
    Case("1.6", "GET", DATA + "/..%2f..%2fetc", 404),
    Case("1.6", "PUT", ONE, 200, body={"path": "{file}", "lifetime": "60", "foo": "x"},
         reply={"path": "OK", "lifetime": "OK", "foo": "Property not found!"}),
    Case("T13", "PUT", ONE, 200, body={"user": "CN=X,O=y", "access": "WRITE", "onetime": "true"},
         reply=dict.fromkeys(("user", "access", "onetime"), "Property not found!")),
    Case("1.6", "PUT", ONE, 200, body={"lifetime": "0"}, reply={"lifetime": "OK"}),
    Case("1.6", "PUT", ONE, 200, body={"lifetime": "-5"}, reply={"lifetime": "OK"}),
    Case("1.6", "PUT", ONE, 200, body={}, reply={}),
    Case("W11", "PUT", ONE, 404, "No such file", body={"path": "{dir}/nosuch"}),
    Case("W11", "PUT", ONE, 400, "not absolute", body={"path": "x"}),
    Case("W11", "PUT", ONE, 400, "control characters", body={"path": "{file}\n"}),
    Case("1.6", "PUT", ONE, 400, "lifetime", body={"lifetime": "soon"}),
    Case("1.6", "PUT", ONE, 401, "not yours", OTHER_LOGIN, body={"lifetime": "60"}),
    Case("1.6", "PUT", DATA + "/nosuch", 404, "No such share", body={"lifetime": "60"}),
    Case("1.6", "DELETE", ONE, 401, "not yours", OTHER_LOGIN),
    Case("1.6", "DELETE", DATA + "/nosuch", 200),
    Case("1.6", "DELETE", "/rest/share/NOSUCH/{id}", 404),
    Case("1.6", "DELETE", "/rest/share/DATA-2/{id}", 404, "instance"),
    Case("1.6", "DELETE", "/rest/share/DATA-1/{id}", 200),
    Case("1.6", "GET", ONE, 404, "No such share"),
]  # fmt: skip

GRANTEES: Sequence[Case] = [
    # By id.
    Case("4.6", "POST", "/rest/access/DATA/{id}", 200, login=None, body=SESSION),
    Case("4.6", "POST", "/rest/access/DATA/{id}", 200, login=None, body={}),
    Case("4.6", "POST", "/rest/access/DATA/{id}", 200, login=OTHER_LOGIN, body=SESSION),
    Case("T17", "POST", "/rest/access/DATA/{id}", 200, body=SESSION),
    Case("4.3", "POST", "/rest/access/DATA/{for_other}", 401, "somebody else", login=None, body=SESSION),
    Case("4.3", "POST", "/rest/access/DATA/{for_other}", 401, "somebody else", THIRD_LOGIN, body=SESSION),
    Case("T17", "POST", "/rest/access/DATA/{for_other}", 401, "somebody else", body=SESSION),
    Case("4.6", "POST", "/rest/access/DATA/{for_other}", 200, login=OTHER_LOGIN, body=SESSION),
    Case("4.6", "POST", "/rest/access/DATA/{for_other}", 200, login=OTHER_LOGIN, body={"serverPath": "sub/"}),
    Case("4.6", "POST", "/rest/access/DATA/{for_other}", 200, login=OTHER_LOGIN, body={"serverPath": "/sub/../x"}),
    Case("W8", "POST", "/rest/access/DATA/{for_other}", 400, "too far up", OTHER_LOGIN, body={"serverPath": "../"}),
    Case("W8", "POST", "/rest/access/DATA/{for_other}", 400, "", OTHER_LOGIN, body={"serverPath": "sub/../../x"}),
    Case("W1", "POST", "/rest/access/DATA/{for_other}", 400, "control", OTHER_LOGIN, body={"serverPath": "a\nfile=/"}),
    Case("1.7", "POST", "/rest/access/DATA/{id}", 404, "single file", login=None, body={"serverPath": "x"}),
    Case("1.7", "POST", "/rest/access/DATA/nosuch", 404, "No such share", login=None, body=SESSION),
    Case("W5", "POST", "/rest/access/TEST/{id}", 404, "No such share", login=None, body=SESSION),
    Case("1.7", "POST", "/rest/access/NOSUCH/{id}", 404, "No such server", login=None, body=SESSION),
    Case("1.7", "POST", "/rest/access/DATA-1/{id}", 404, "No such server", login=None, body=SESSION),
    Case("4.6", "POST", "/rest/access/DATA/{id}", 401, "to write", login=None, body={"serverPath": "", "send": False}),
    Case("T1", "POST", "/rest/access/DATA/{id}", 401, "to write", login=None, body={"serverPath": "", "send": "no"}),
    Case("1.1", "POST", "/rest/access/DATA/{id}", 403, login=("banned", "test123"), body=SESSION),
    Case("1.1", "POST", "/rest/access/DATA/{id}", 403, login=("demouser", "wrong"), body=SESSION),
    Case("1.4", "POST", "/rest/access/DATA/{id}", 400, "streamCount", login=None, body={"streamCount": 0}),
    # By path: only those whom it is shared with by name.
    Case("4.6", "POST", "/rest/access/DATA", 200, login=OTHER_LOGIN, body={"serverPath": "{dir}/"}),
    Case("4.6", "POST", "/rest/access/DATA", 200, login=OTHER_LOGIN, body={"serverPath": "{dir}//sub/./x"}),
    Case("4.6", "POST", "/rest/access/DATA", 200, login=OTHER_LOGIN, body={"serverPath": "{dir}/*"}),
    Case("2.2", "POST", "/rest/access/DATA", 200, login=OTHER_LOGIN, body={"serverPath": "{dir}/" + SESSION_TAG}),
    Case("T18", "POST", "/rest/access/DATA", 404, "No such share", OTHER_LOGIN, body={"serverPath": "{dir}"}),
    Case("4.6", "POST", "/rest/access/DATA", 404, "No such share", OTHER_LOGIN, body={"serverPath": "{dir}/../"}),
    Case("4.6", "POST", "/rest/access/DATA", 404, "No such share", login=None, body={"serverPath": "{file}"}),
    Case("4.6", "POST", "/rest/access/DATA", 404, "No such share", OTHER_LOGIN, body={"serverPath": "{file}"}),
    Case("4.6", "POST", "/rest/access/DATA", 404, "No such share", login=None, body={"serverPath": "{dir}/"}),
    Case("4.6", "POST", "/rest/access/DATA", 401, "Not allowed", THIRD_LOGIN, body={"serverPath": "{dir}/"}),
    Case("4.6", "POST", "/rest/access/DATA", 400, "too far up", OTHER_LOGIN, body={"serverPath": "/../x"}),
    Case("4.6", "POST", "/rest/access/DATA", 400, "not absolute", OTHER_LOGIN, body={"serverPath": "x"}),
    Case("4.6", "POST", "/rest/access/DATA", 400, "serverPath", OTHER_LOGIN, body={}),
    Case("4.6", "POST", "/rest/access/DATA", 400, "serverPath", OTHER_LOGIN, body={"serverPath": None}),
    Case("W5", "POST", "/rest/access/TEST", 404, "No such share", OTHER_LOGIN, body={"serverPath": "{dir}/"}),
    Case("1.1", "GET", "/rest/access/DATA", 405, login=None),
]  # fmt: skip


def filled(value: Any, words: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: filled(item, words) for key, item in value.items()}
    if isinstance(value, str):
        for name, word in words.items():
            value = value.replace("{" + name + "}", word)
    return value


@pytest.mark.parametrize("cases", [OWNERS, GRANTEES], ids=["owners", "grantees"])
async def test_what_is_answered(start_auth: StartAuth, node: Node, cases: Sequence[Case]) -> None:
    login = "longest_delay_seconds = 0"  # wrong logins in the table are not to be slowed
    banned = {"CN=Banned,O=x": {"role": "banned"}}
    async with sharing_site(start_auth, node, shares=ALL, mapping=banned, login=login) as site:
        file, directory = site.file("x.nc"), site.file("dir/sub/x").rpartition("/sub/")[0]
        link = f"{directory}/link"
        os.symlink("/etc/passwd", link)
        words = {"file": file, "dir": directory, "name": "dir", "link": link}
        words["id"] = await site.share(file)
        words["for_other"] = await site.share(directory, OTHER)
        wrong = []
        for case in cases:
            body = filled(case.body, words)
            options: dict[str, Any] = {}
            if isinstance(body, bytes):
                options = {"content": body, "headers": {"Content-Type": "application/json"}}
            elif isinstance(body, str):
                options = {"content": body, "headers": {"Content-Type": "text/plain"}}
            elif body is not None:
                options = {"body": body}
            reply = await site.call(case.method, filled(case.path, words), case.login, **options)
            found = (reply.status_code, case.words in reply.text)
            if found != (case.status, True) or (case.reply is not None and reply.json() != case.reply):
                wrong.append(f"{case.section} {case.method} {case.path} {body}: {reply.status_code} {reply.text[:200]}")
            if reply.status_code >= 400 and reply.json()["status"] != reply.status_code:
                wrong.append(f"{case.section} {case.method} {case.path} {body}: {reply.text[:200]}")
        assert wrong == []


async def test_without_the_table_there_is_no_sharing(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        assert (await auth.info()).json()["TEST"]["dataSharing"] == {"enabled": False}
        for method, path in (("GET", "/rest/share"), ("POST", "/rest/share/TEST"), ("POST", "/rest/access/TEST")):
            reply = await auth.client.request(method, auth.url + path, auth=OWNER_LOGIN, json={})
            assert reply.status_code == 404, path


async def test_sharing_on_some_servers(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node, shares='servers = ["DATA"]') as site:
        info = (await site.auth.info()).json()
        assert info["TEST"]["dataSharing"] == {"enabled": False}
        assert info["DATA"]["dataSharing"] == {"enabled": True, "href": f"{site.url}/rest/share/DATA"}
        servers = (await site.call("GET", "/rest/share")).json()
        assert set(servers) == {"DATA", "userInfo"}
        assert servers["DATA"] == {
            "href": f"{site.url}/rest/share/DATA",
            "description": "Real storage",
            "status": "OK",
        }
        reply = await site.call("POST", "/rest/share/TEST", body=wanted("/tmp"))
        assert (reply.status_code, "shared" in reply.text) == (404, True)


async def test_what_the_site_switches_off(start_auth: StartAuth, node: Node) -> None:
    shares = "servers = []\nanonymous = false\nmax_lifetime_seconds = 100\nper_owner = 2"
    async with sharing_site(start_auth, node, shares=shares) as site:
        path = site.file("x")
        for access in ("WRITE", "MODIFY"):
            reply = await site.call("POST", DATA, body=wanted(path, OTHER, access=access))
            assert (reply.status_code, "for writing" in reply.text) == (401, True)
        reply = await site.call("POST", DATA, body=wanted(path))
        assert (reply.status_code, "for anybody" in reply.text) == (401, True)
        reply = await site.call("POST", DATA, body=wanted(path, OTHER, lifetime=101))
        assert (reply.status_code, "at most 100 seconds" in reply.text) == (400, True)
        share_id = await site.share(path, OTHER)
        assert (await site.details(share_id))["lifetime"] <= 100
        reply = await site.call("PUT", f"{DATA}/{share_id}", body={"lifetime": "1000"})
        assert reply.status_code == 400
        await site.call("PUT", f"{DATA}/{share_id}", body={"lifetime": "0"})
        assert (await site.details(share_id))["lifetime"] <= 100
        await site.share(path, "CN=Second,O=x")
        reply = await site.call("POST", DATA, body=wanted(path, "CN=Third,O=x"))
        assert (reply.status_code, "2 shares already" in reply.text) == (400, True)


async def test_a_share_for_writing_needs_the_right_to_write(start_auth: StartAuth, node: Node) -> None:
    if os.geteuid() == 0 and node.person.uid == 0:
        pytest.skip("root may write anywhere")
    async with sharing_site(start_auth, node, shares=ALL) as site:
        path = site.file("readonly")
        os.chmod(path, 0o444)
        assert (await site.call("POST", DATA, body=wanted(path, OTHER, access="WRITE"))).status_code == 401
        assert (await site.call("POST", DATA, body=wanted(path, OTHER))).status_code == 201
        assert (await site.call("POST", DATA, body=wanted("/usr", OTHER, access="WRITE"))).status_code == 401


async def test_granting_again(start_auth: StartAuth, node: Node) -> None:
    """T15: same id, what is left out is reset; W7: the share for anybody is another one."""
    async with sharing_site(start_auth, node, shares=ALL) as site:
        path = site.file("x")
        first = await site.share(path, OTHER, lifetime=60, onetime=True, password="pw", maxDownloads=3)
        anybody = await site.share(path)
        assert await site.share(path, OTHER, access="WRITE") == first
        again = await site.details(first)
        assert "lifetime" not in again
        assert "maxDownloads" not in again
        assert (again["onetime"], again["access"], again["password"]) == (False, "WRITE", True)
        assert (await site.details(anybody))["access"] == "READ"
        assert await site.share(path, OTHER, password="") == first
        assert not (await site.details(first))["password"]


async def test_ending_all_shares_of_a_path(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node) as site:
        site.file("dir/x")
        directory = str(site.top / "dir")
        ids = [await site.share(directory, user) for user in (ANYBODY, OTHER)]
        kept = await site.share(f"{directory}/x")
        reply = await site.call("POST", DATA, body=wanted(directory, THIRD, access="NONE"))
        assert (reply.status_code, reply.content) == (200, b"")
        assert "location" not in reply.headers
        for share_id in ids:
            assert (await site.use(share_id)).status_code == 404
        assert (await site.use(kept)).status_code == 200


async def test_a_new_path_is_looked_at_as_for_a_new_share(start_auth: StartAuth, node: Node) -> None:
    """W11: upstream stored whatever came, and kept the old kind."""
    async with sharing_site(start_auth, node) as site:
        path, _ = site.file("x"), site.file("dir/y")
        share_id = await site.share(path)
        reply = await site.call("PUT", f"{DATA}/{share_id}", body={"path": f"{site.top}/dir"})
        assert reply.json() == {"path": "OK"}
        share = await site.details(share_id)
        assert (share["path"], share["directory"]) == (f"{site.top}/dir/", True)
        granted = await site.use(share_id)
        assert granted.json()["share"] == {"directory": True, "name": "dir"}
        assert (await ftp_lines(granted, "SIZE y"))[0].startswith("213")


async def test_a_session_is_kept_to_what_is_shared(start_auth: StartAuth, node: Node) -> None:
    """W9: neither what stands beside it nor what a link leads to, by any command."""
    async with sharing_site(start_auth, node, shares=ALL) as site:
        site.file("shared/sub/x", b"12345")
        site.file("shared.beside", b"secret")
        site.file("sharedbeside/x", b"secret")
        top, shared = site.top, site.top / "shared"
        (shared / "out").symlink_to(top / "sharedbeside")
        (shared / "file-out").symlink_to(top / "shared.beside")
        for_dir = await site.share(shared, access="WRITE")
        for_file = await site.share(shared / "sub/x")
        bad = [
            *(f"{verb} {path}" for verb in ("SIZE", "MLST", "CWD", "MDTM", "HASH") for path in (
                "../shared.beside", f"{top}/shared.beside", f"{top}/sharedbeside", "out/x", "out", "file-out",
                "/etc/passwd", "..", "sub/../../shared.beside")),
            "STAT N ..", f"STAT N {top}", f"MKD {top}/new", "MKD ../new", "DELE ../shared.beside",
        ]  # fmt: skip
        granted = await site.use(for_dir)
        lines = await ftp_lines(granted, "SIZE sub/x", *bad)
        assert lines[0].startswith("213 5")
        reached = [command for command, line in zip(bad, lines[1:], strict=True) if line[0] not in "45"]
        assert reached == []
        lines = await ftp_lines(await site.use(for_file), "SIZE x", "SIZE ../sub/x", *bad, "DELE x", "MKD y")
        assert lines[0].startswith("213 5")
        reached = [
            command for command, line in zip([*bad, "DELE", "MKD"], lines[2:], strict=True) if line[0] not in "45"
        ]
        assert reached == []
        assert (shared / "sub/x").exists()


async def test_what_is_of_another_kind_is_not_what_was_shared(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node, shares=ALL) as site:
        file, inside = site.file("file"), site.file("dir/x")
        for_file, for_dir = await site.share(file), await site.share(os.path.dirname(inside))
        os.unlink(file)
        assert (await site.use(for_file)).status_code == 404
        site.file("file/secret")
        assert (await site.use(for_file)).status_code == 404
        os.unlink(inside)
        os.rmdir(os.path.dirname(inside))
        site.file("dir")
        granted = await site.use(for_dir)
        if granted.status_code == 200:  # the node finds it out at the login
            with pytest.raises(AssertionError):
                await ftp_lines(granted, "PWD")


async def test_a_session_begins_where_clients_expect_it(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node) as site:
        site.file("dir/sub/x")
        directory = f"{site.top}/dir"
        share_id = await site.share(directory, OTHER)
        for path, where in (
            ("", directory),
            ("sub/", f"{directory}/sub"),
            ("sub/x", f"{directory}/sub"),
            ("nosuch", directory),
        ):
            granted = await site.use(share_id, path, OTHER_LOGIN)
            assert f'"{where}"' in (await ftp_lines(granted, "PWD"))[0]
        for path, where in ((f"{directory}/", directory), (f"{directory}/sub/*", f"{directory}/sub")):
            granted = await site.use("", path, OTHER_LOGIN)
            assert f'"{where}"' in (await ftp_lines(granted, "PWD"))[0]


async def test_the_longest_share_of_the_caller_wins(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node, shares=ALL) as site:
        site.file("dir/sub/x")
        top = site.top
        await site.share(top / "dir", OTHER, access="WRITE")
        await site.share(top / "dir/sub", THIRD)
        granted = await site.use("", f"{top}/dir/sub/", OTHER_LOGIN)
        assert (await ftp_lines(granted, f"MKD {top}/dir/made", "MKD new"))[0].startswith("5")
        assert (top / "dir/sub/new").is_dir(), "by the share that is for this person"
        granted = await site.use("", f"{top}/dir/sub/", THIRD_LOGIN)
        assert (await ftp_lines(granted, "MKD other"))[0].startswith("5")


async def test_shares_for_anybody_by_path_where_the_site_wants_it(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node, shares="servers = []\nanonymous_by_path = true") as site:
        path = site.file("dir/x")
        await site.share(path)
        for login in (None, OTHER_LOGIN):
            assert (await site.use("", path, login)).status_code == 200
            granted = await site.use("", f"{site.top}/dir/", login)
            assert (await ftp_lines(granted, "SIZE x"))[0].startswith("213")


async def test_a_one_time_share_is_used_once_whatever_happens_at_once(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node) as site:
        path = site.file("x")
        share_id = await site.share(path, onetime=True)
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append((await site.use(share_id, persistent=True)).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 404, 409}
        assert (await site.call("GET", f"{DATA}/{share_id}")).status_code == 404


async def test_a_limited_share(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node) as site:
        share_id = await site.share(site.file("x"), maxDownloads=2)
        assert (await site.details(share_id))["maxDownloads"] == 2
        granted = await site.use(share_id, persistent=True)
        assert (await site.details(share_id))["downloads"] == 1
        assert (await ftp_lines(granted, "SIZE x"))[0].startswith("213")
        with pytest.raises(AssertionError):
            await ftp_lines(granted, "SIZE x")  # one login only
        assert (await site.use(share_id)).status_code == 200
        assert (await site.use(share_id)).status_code == 404


async def test_what_the_node_refuses_uses_nothing_up(start_auth: StartAuth, node: Node) -> None:
    """Upstream answered 200 with `success: false`, and the share was gone."""
    async with sharing_site(start_auth, node) as site:
        site.auth.node.ping = PingReply(features=("MODE U",))
        site.auth.node.refusal = "Too many active sessions"
        share = await _stored(site, path="/data/", one_time=True, uid="user1")
        reply = await site.call("POST", f"/rest/access/TEST/{share.id}", None, SESSION)
        assert reply.status_code == 500
        assert "Too many active sessions" in reply.json()["errorMessage"]
        site.auth.node.refusal = None
        reply = await site.call("POST", f"/rest/access/TEST/{share.id}", None, SESSION)
        assert reply.status_code == 200
        asked = site.auth.node.transfers[-1]
        assert (asked.user, asked.file, asked.scope, asked.access) == ("user1", "/data/", b"", RequestAccess.READ)
        assert (asked.purpose, asked.max_logins, asked.persistent) == (Purpose.SHARE, 1, False)
        assert asked.expires == 60
        reply = await site.call("POST", f"/rest/access/TEST/{share.id}", None, SESSION)
        assert reply.status_code == 404


async def test_a_node_that_cannot_keep_a_session_to_the_share_gives_none(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node) as site:
        share = await _stored(site, path="/data/", one_time=True)
        reply = await site.call("POST", f"/rest/access/TEST/{share.id}", None, SESSION)
        assert reply.status_code == 400
        assert "too old" in reply.json()["errorMessage"]
        assert site.auth.node.transfers == []
        assert await site.auth.running.services.grants.get(share.id) is not None


async def test_what_the_owner_may_not_reach_is_not_shared(start_auth: StartAuth, node: Node) -> None:
    """The owner's own includes and excludes hold for what is shared, too."""
    top = node.directory()
    rules = {"uftpd.DATA.includes": f"{top}/open/*", "uftpd.DATA.excludes": f"{top}/open/private/*"}
    mapping = {DEMO: {"role": "user", "xlogin": node.person.name, **rules}}
    async with sharing_site(start_auth, node, mapping=mapping) as site:
        site.top = top
        for name in ("open/x", "open/private/y", "closed/z"):
            site.file(name, b"12345")
        for name in ("closed/z", "open/private/y"):
            reply = await site.call("POST", DATA, body=wanted(f"{top}/{name}"))
            assert reply.status_code in (401, 404), name
        share_id = await site.share(top / "open")
        lines = await ftp_lines(await site.use(share_id), "SIZE x", "SIZE private/y")
        assert lines[0].startswith("213")
        assert lines[1].startswith("5")


async def test_a_password(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node, login="longest_delay_seconds = 0") as site:
        share_id = await site.share(site.file("x"), password="ü pw")
        assert (await site.details(share_id))["password"] is True
        for password in (None, "", "wrong", "x" * 2000):
            reply = await site.use(share_id, password=password)
            assert (reply.status_code, "password" in reply.text) == (401, True)
        for _ in range(2):
            assert (await site.use(share_id, password="ü pw")).status_code == 200
        await site.call("PUT", f"{DATA}/{share_id}", body={"password": ""})
        assert (await site.use(share_id)).status_code == 200


async def test_an_expired_share_is_not_there(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node) as site:
        path = site.file("x")
        share_id = await site.share(path, lifetime=60)
        grants = site.auth.running.services.grants
        share = await grants.get(share_id)
        assert share is not None
        await grants.change(share, expires=1)
        assert (await site.call("GET", f"{DATA}/{share_id}")).status_code == 404
        assert (await site.use(share_id)).status_code == 404
        assert (await site.call("GET", DATA)).json()["shares"] == []
        assert await site.share(path) != share_id


async def test_links_name_the_gateway_that_is_trusted(start_auth: StartAuth, node: Node) -> None:
    gateway = {"X-UNICORE-Gateway": "https://gw.example.org:8080/SITE/"}
    body = None
    for trusted in ("", 'trusted_proxies = ["127.0.0.1"]'):
        async with sharing_site(start_auth, node, server=trusted) as site:
            body = wanted(site.file("x"))
            made = await site.call("POST", DATA, body=body, headers=gateway)
            base = "https://gw.example.org:8080/SITE" if trusted else site.url
            assert made.headers["location"].startswith(f"{base}/rest/share/DATA/")
            listed = (await site.call("GET", DATA, headers=gateway)).json()["shares"][0]
            assert listed["http"].startswith(f"{base}/rest/access/DATA/")
            assert listed["uftp"] == f"{base}/rest/access/DATA:{body['path']}"


async def test_an_administrator_changes_a_share(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node) as site:
        share_id = await site.share(site.file("x"), OTHER)
        url = "/rest/admin/actions/ModifyShare"
        admin = ("admin", "test123")
        good = {"id": share_id, "serverName": "DATA"}
        reply = await site.call("POST", url, body=good)
        assert reply.status_code == 403
        for wrong in (
            {"id": share_id},
            {"id": share_id, "serverName": "TEST"},
            {**good, "access": "WRITE"},
            {**good, "uid": "a b"},
            {**good, "target": "joe"},
            {**good, "path": "relative"},
        ):
            reply = await site.call("POST", url, admin, wrong)
            assert (reply.status_code, reply.json()["success"]) == (200, False), wrong
        reply = await site.call("POST", url, admin, {**good, "owner": "cn=OTHER User , o=Testing", "uid": "new"})
        assert reply.json()["success"] is True
        assert "cn=other user,o=testing" in reply.json()["message"]
        assert (await site.call("GET", f"{DATA}/{share_id}")).status_code == 401
        assert (await site.call("GET", f"{DATA}/{share_id}", OTHER_LOGIN)).status_code == 200


async def test_withdrawing_ends_what_is_delivered_where_asked(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node) as site:
        path = site.file("x")
        deliveries = site.auth.running.services.deliveries
        for stop in (False, True):
            share_id = await site.share(path)
            with deliveries.running(share_id) as scope:
                await site.call("DELETE", f"{DATA}/{share_id}{'?stop=true' if stop else ''}")
                await trio.lowlevel.checkpoint()
            assert scope.cancelled_caught is stop
        assert deliveries.count() == 0


async def test_who_waits_to_write_when_a_share_is_withdrawn_stores_nothing(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node, shares=ALL) as site:
        path = site.file("d/x", b"before")
        share_id = await site.share(Path(path).parent, access="WRITE")
        url = f"/rest/access/DATA/{share_id}/x"
        begun, finish = trio.Event(), trio.Event()
        statuses: dict[str, int] = {}

        async def slowly() -> AsyncIterator[bytes]:
            yield b"the "
            begun.set()
            await finish.wait()
            yield b"first"

        async def put(name: str, content: AsyncIterator[bytes] | bytes) -> None:
            statuses[name] = (await site.call("PUT", url, None, content=content)).status_code

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(put, "first", slowly())
                await begun.wait()
                deliveries = site.auth.running.services.deliveries
                while not deliveries.count():  # noqa: ASYNC110 - nothing tells
                    await trio.sleep(0.01)
                nursery.start_soon(put, "second", b"the second")
                while site.auth.running.services.metrics.in_flight._value.get() < 2:  # noqa: ASYNC110 - as above
                    await trio.sleep(0.01)
                assert (await site.call("DELETE", f"{DATA}/{share_id}")).status_code == 200
                finish.set()
        assert statuses == {"first": 204, "second": 404}
        assert await trio.Path(path).read_bytes() == b"the first"


async def test_shares_for_writing_are_for_reading_once_the_site_allows_no_more(
    start_auth: StartAuth, node: Node
) -> None:
    async with sharing_site(start_auth, node, shares="servers = []") as site:
        path = Path(site.file("d/x", b"before"))
        share = await _of_before(site, path=f"{path.parent}/", access=ShareAccess.WRITE)
        assert (await site.use(share.id, send=False)).status_code == 401
        assert (await site.call("PUT", f"/rest/access/DATA/{share.id}/x", None, content=b"new")).status_code == 401
        lines = await ftp_lines(await site.use(share.id), "SIZE x", "DELE x", "MKD y")
        assert [line[:1] for line in lines] == ["2", "5", "5"]
        assert await trio.Path(path).read_bytes() == b"before"


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        ({"role": "user", "xlogin": "{account}"}, 200),
        ({"role": "user", "xlogin": ["other", "{account}"]}, 200),
        ({"role": "user"}, 200),
        ({"role": "user", "xlogin": "other", "uftpd.DATA.xlogin": "{account}"}, 200),
        ({"role": "user", "xlogin": "other"}, 404),
        ({"role": "user", "xlogin": "{account}", "uftpd.DATA.xlogin": "other"}, 404),
        ({"role": "banned", "xlogin": "{account}"}, 404),
    ],
)
async def test_a_share_of_somebody_who_lost_the_account_is_dead(
    start_auth: StartAuth, node: Node, attributes: dict[str, Any], status: int
) -> None:
    mapping = {DEMO: json.loads(json.dumps(attributes).replace("{account}", node.person.name))}
    async with sharing_site(start_auth, node, mapping=mapping) as site:
        share = await _of_before(site, path=site.file("x"))
        assert (await site.use(share.id)).status_code == status
        assert (await site.call("GET", f"/rest/access/DATA/{share.id}", None)).status_code == status


async def test_a_rate_holds_for_links_too(start_auth: StartAuth, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []

    def noted(share: Share, **more: Any) -> TransferRequest:
        rates.append(more["rate_limit"])
        return transfer_request(share, **more)

    monkeypatch.setattr(pool, "transfer_request", noted)
    mapping = {
        OTHER: {"role": "user", "uftpd.DATA.rateLimit": "10m"},
        ANYBODY: {"role": "anonymous", "uftpd.DATA.rateLimit": "5m"},
    }
    async with sharing_site(start_auth, node, mapping=mapping) as site:
        path = site.file("x")
        for target, login in ((OTHER, OTHER_LOGIN), (THIRD, THIRD_LOGIN), (ANYBODY, None)):
            reply = await site.call("GET", f"/rest/access/DATA/{await site.share(path, target)}", login)
            assert (reply.status_code, reply.content) == (200, b"content\n")
    assert rates == [parse_rate("10m"), 0, parse_rate("5m")]


async def test_guesses_by_http_and_by_uftp_are_one_count(start_auth: StartAuth, node: Node) -> None:
    async with sharing_site(start_auth, node, login="longest_delay_seconds = 0") as site:
        share_id = await site.share(site.file("x"), password="pw")
        link = f"/rest/access/DATA/{share_id}"
        for number in range(3):
            assert (await site.use(share_id, password=f"a{number}")).status_code == 401
            assert (await site.call("GET", link, ("", f"b{number}"))).status_code == 401
        throttle = site.auth.running.services.passwords._throttle
        assert throttle._failures["127.0.0.1", f"share {share_id}"].count == 6
        assert (await site.call("GET", link, ("", "pw"))).status_code == 200


async def test_the_log_has_no_id_of_a_share(
    start_auth: StartAuth, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("uftpd")
    caplog.set_level("DEBUG", logger.name)
    logger.addHandler(caplog.handler)  # whether it propagates is up to whoever has set up logging here
    async with sharing_site(start_auth, node) as site:
        ids = [await site.share(site.file("x")), new_share_id()]
        for share_id in ids:
            link = f"/rest/access/DATA/{share_id}"
            doubled, elsewhere = f"/rest//access//DATA//{share_id}", f"/rest/access/TEST/{share_id}"
            for path in (link, f"{link}/", f"{link}/y", elsewhere, doubled):
                for method in ("GET", "PUT", "DELETE"):
                    await site.call(method, path, None)
            await site.use(share_id)
            for method in ("GET", "PUT", "DELETE"):
                await site.call(method, f"{DATA}/{share_id}", body={"lifetime": "9"} if method == "PUT" else None)
        logger.removeHandler(caplog.handler)
        said = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records if "uftpd" in record.name)
        assert said.count(ids[1][:8]) >= 10
        assert not [share_id for share_id in ids if share_id in said]


async def _of_before(site: SharingSite, **fields: Any) -> Share:
    """A share of the usual owner on DATA, whatever the site allows now."""
    person = {"owner": canonical(DEMO), "uid": site.node.person.name}
    share = Share(**({"id": new_share_id(), "server": "DATA"} | person | fields))
    return await site.auth.running.services.grants.put(share, per_owner=100)


async def _stored(site: SharingSite, **fields: Any) -> Share:
    """A share on TEST, whose node is a fake, as it would be there."""
    share = Share(**({"id": new_share_id(), "server": "TEST", "owner": "cn=o", "uid": "u"} | fields))
    return await site.auth.running.services.grants.put(share, per_owner=100)
