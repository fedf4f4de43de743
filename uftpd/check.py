"""`uftpd check-config`: is this file right, and can the files it names be used?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from uftpd.config import auth, data
from uftpd.config.toml import ConfigError, convert, read_table
from uftpd.files import check_readable

# Tables only an auth server has. Every one of its files has the first two, since they are required.
_AUTH_TABLES = frozenset({"server", "nodes", "login", "attributes", "sessions"})


def check_file(path: Path) -> list[str]:
    """Everything wrong with a configuration file, one line each; empty if it can be used.

    Whether it is an auth server's or a data node's is told by its tables.
    """
    try:
        table = read_table(path)
        if _AUTH_TABLES & table.keys():
            found = _check_auth(convert(table, auth.AuthConfig, path), path)
        else:
            found = _check_data(convert(table, data.DataConfig, path), path)
        return list(dict.fromkeys(found))  # files may be named in several places
    except ConfigError as error:
        return [str(error)]


def _check_auth(config: auth.AuthConfig, path: Path) -> list[str]:
    from uftpd.auth.attributes.map_file import MapFile
    from uftpd.auth.identity.password_file import parse_password_file
    from uftpd.auth.nodes.client import CommandPort
    from uftpd.auth.server import tls_context

    found = [f"{path}: {problem}" for problem in auth.problems(config)]
    server = config.server
    found += _attempt(lambda: tls_context(config))
    found += _attempt(lambda: CommandPort(config.command_port, server.certificate, server.key))
    match, map_file = config.attributes.match, config.attributes.map_file
    if map_file is not None:
        found += _attempt(lambda: MapFile(map_file, match))
    if (password_file := config.login.password_file) is not None:
        found += _attempt(lambda: check_readable(password_file))
        if not found:
            text = password_file.read_text(errors="replace")
            found += [f"{password_file}: {mistake}" for mistake in parse_password_file(text).mistakes]
    return found


def _check_data(config: data.DataConfig, path: Path) -> list[str]:
    from uftpd.data.acl import acl_mistakes, server_context
    from uftpd.data.service import check_service_user

    found = [f"{path}: {problem}" for problem in data.problems(config)]
    port = config.command_port
    if not (port.plain or found):
        found += _attempt(lambda: server_context(port))
        if (acl := port.acl) is not None:
            found += _attempt(lambda: found.extend(acl_mistakes(acl)))
    found += _attempt(lambda: check_service_user(config))
    return found


def _attempt(action: Callable[[], object]) -> list[str]:
    try:
        action()
    except ConfigError as error:
        return [str(error)]
    return []
