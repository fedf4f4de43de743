"""A real data node, an auth server with sharing switched on, and people who share; for tests of shares."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import trio
from data_node import Node, Person, made_accounts, running_node
from raw_ftp import RawFtp
from running_auth import DEMO, Running, StartAuth

OTHER = "CN=Other User,O=Testing"
THIRD = "CN=Third User,O=Testing"
ANYBODY = "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN"
OWNER_LOGIN, OTHER_LOGIN, THIRD_LOGIN = ("demouser", "test123"), ("other", "test123"), ("third", "test123")

Login = tuple[str, str]


@contextmanager
def a_person(letters: str) -> Iterator[Person]:
    """Whom the node runs as, and all its sessions."""
    if os.geteuid() != 0:
        yield Person.find(pwd.getpwuid(os.geteuid()).pw_name)
        return
    with made_accounts(letters) as (first, _):
        yield first


@contextmanager
def a_node(letters: str) -> Iterator[Node]:
    """A data node of one account."""
    with a_person(letters) as person, running_node(person, as_root=False) as node:
        yield node


# With the password test123, as others of the tests; a hash that costs nothing to check.
_MD5 = "7a066bbc4c14cd9d7fb869f8cb3ecee2:09e9ba795983c2862d1fa83ad9b28959"
PEOPLE = f"other:{_MD5}:{OTHER}\nthird:{_MD5}:{THIRD}\n"


@dataclass
class SharingSite:
    """A running auth server with a real data node `DATA` behind it.

    Attributes:
        auth: the server.
        node: the node; its `person` is who all shares run as.
        top: a fresh directory on it.
    """

    auth: Running
    node: Node
    top: Path
    made: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.auth.url

    def file(self, name: str, content: bytes = b"content\n") -> str:
        """Make a file below `top`, with the directories on the way; its absolute path."""
        path = self.top / name
        for directory in reversed(path.relative_to(self.top).parents):
            step = self.top / directory
            if not step.exists():
                step.mkdir()
                os.chown(step, self.node.person.uid, self.node.person.gid)
        return str(self.node.file(path, content))

    async def call(
        self, method: str, path: str, login: Login | None = OWNER_LOGIN, body: object = None, **options: Any
    ) -> httpx2.Response:
        """A request; `path` counts from the server's URL. The body is sent as JSON if there is one."""
        if body is not None:
            options["json"] = body
        return await self.auth.client.request(method, self.url + path, auth=login, **options)

    async def share(self, path: str | Path, user: str = ANYBODY, login: Login = OWNER_LOGIN, **more: Any) -> str:
        """Share a path; the id of the share."""
        reply = await self.call("POST", "/rest/share/DATA", login, {"path": str(path), "user": user, **more})
        assert reply.status_code == 201, reply.text
        return reply.headers["location"].rpartition("/")[2]

    async def use(self, where: str, path: str = "", login: Login | None = None, **more: Any) -> httpx2.Response:
        """Ask for a session: `where` is an id, or empty for a share by its path."""
        end = f"/{where}" if where else ""
        return await self.call("POST", f"/rest/access/DATA{end}", login, {"serverPath": path, **more})

    async def details(self, share_id: str) -> dict[str, Any]:
        """What its owner sees of a share."""
        reply = await self.call("GET", f"/rest/share/DATA/{share_id}")
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()["share"]
        return found


async def ftp_lines(reply: httpx2.Response, *commands: str) -> list[str]:
    """The replies to some commands in the session a reply lets one into."""

    def talk() -> list[str]:
        facts = reply.json()
        with RawFtp((facts["serverHost"], facts["serverPort"])) as ftp:
            ftp.log_in(facts["secret"])
            return [ftp.command(command).decode() for command in commands]

    return await trio.to_thread.run_sync(talk)


@asynccontextmanager
async def sharing_site(
    start_auth: StartAuth,
    node: Node,
    *,
    shares: str = "",
    mapping: dict[str, Any] | None = None,
    extra: str = "",
    **more: Any,
) -> AsyncIterator[SharingSite]:
    """An auth server in front of the node.

    Args:
        start_auth: the fixture.
        node: serves as the logical server DATA; TEST is one that has no real node.
        shares: lines of the table `[shares]`.
        mapping: further entries of the map file, or other ones.
        extra: further tables.
        more: for `start_auth`.
    """
    account = {"role": "user", "xlogin": node.person.name}
    everybody = {DEMO: account, OTHER: {"role": "user"}, THIRD: {"role": "user"}, **(mapping or {})}
    everybody["CN=Admin,O=x"] = {"role": "admin"}
    text = f"""
[nodes.DATA]
description = "Real storage"
instances = [{{host = "127.0.0.1", command = "127.0.0.1:{node.command[1]}", plain = true}}]
[shares]
{shares or "servers = []"}
{extra}
"""
    async with start_auth(extra=text, mapping=everybody, **more) as auth:
        yield SharingSite(auth, node, node.directory())
