"""Puts a standalone server together: sockets, then processes, then secrets, and at last the announcement.

Passwords and keys are read or made only after all processes have been forked, so that no session process, which runs
as a user, has inherited any of them.
"""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import msgspec

from uftpd.config.auth import AuthConfig
from uftpd.config.auth import checked as checked_auth
from uftpd.config.data import DataConfig
from uftpd.config.data import checked as checked_data
from uftpd.config.toml import ConfigError, load
from uftpd.data import service as data_service
from uftpd.session.syscalls import die_with_parent, drop_capabilities, no_new_privileges, not_dumpable
from uftpd.standalone.announce import Example, account_lines, banner, ready_line
from uftpd.standalone.listeners import Listeners, address
from uftpd.standalone.options import StandaloneOptions, read_password
from uftpd.standalone.state import NodeAddresses, ServiceUser, StateDirectory, find_service_user
from uftpd.standalone.supervisor import Server, Supervisor


def run_standalone(options: StandaloneOptions) -> int:
    """Run everything until a signal comes.

    Returns:
        The exit code.

    Raises:
        ConfigError: it cannot be started this way; says what to change.
        StartFailed: a server did not come up, or ended on its own.
    """
    service = find_service_user(options.service_user)
    state = StateDirectory(options.state, service)
    listeners = Listeners(options)
    standalone = _Standalone(options, state, listeners)
    servers = [
        Server(f"data node {name}", partial(_run_node, state.node_config_path(name), listeners, name))
        for name in listeners.nodes
    ]
    servers.append(Server("the auth server", partial(_run_auth, state.auth_config_path, listeners, service)))
    try:
        log = state.open_log()
    except OSError as error:
        raise _unusable(error, state) from error
    supervisor = Supervisor(state.release_in_child, log)
    return supervisor.run(servers, standalone.prepare, standalone.announce)


def _unusable(error: OSError, state: StateDirectory) -> ConfigError:
    return ConfigError(f"{error.filename2 or error.filename or state.path}: {error.strerror}")


class _Standalone:
    """What the supervising process does between forking the others and waiting for the end."""

    def __init__(self, options: StandaloneOptions, state: StateDirectory, listeners: Listeners) -> None:
        self._options = options
        self._state = state
        self._listeners = listeners
        self._accounts = ""

    def prepare(self) -> None:
        """Accounts, certificates and configuration files of all servers.

        Raises:
            ConfigError: something cannot be read or written.
        """
        try:
            self._prepare()
        except OSError as error:
            raise _unusable(error, self._state) from error

    def _prepare(self) -> None:
        options, state = self._options, self._state
        if options.users:
            passwords = {login.name: read_password(login) for login in options.users}
        else:
            passwords, new = state.made_up_passwords(list(options.mapping))
            files = {name: state.password_path(name) for name in passwords}
            self._accounts = account_lines(passwords, files, new=new)
        state.write_accounts(passwords, options.mapping)
        listeners = self._listeners
        nodes = {
            name: NodeAddresses(address(ftp), address(command), address(listeners.objects[name], options.public_host))
            for name, (ftp, command) in listeners.nodes.items()
        }
        state.prepare(options, address(listeners.auth), nodes)

    def announce(self) -> None:
        """Say that everything serves, on standard output."""
        options, state, listeners = self._options, self._state, self._listeners
        host = options.public_host
        url = f"https://{address(listeners.auth, host)}/rest/auth"
        nodes = {name: address(ftp, host) for name, (ftp, _) in listeners.nodes.items()}
        commands = {name: address(command) for name, (_, command) in listeners.nodes.items()}
        # The servers have their own; what is open here would keep connections waiting that nobody takes.
        listeners.keep_only()
        if options.ready_json:
            click.echo(ready_line(url, nodes, commands, state.ca_path))
            if self._accounts:
                click.echo(self._accounts, nl=False, err=True)
            return
        login = next(iter([login.name for login in options.users] or options.mapping))
        home = pwd.getpwnam(options.mapping[login]).pw_dir
        # Made-up passwords are in files of whoever started this; those given by --user are theirs to remember.
        password_file = None if options.users else state.password_path(login)
        example = Example(login, home, password_file)
        text = banner(url, nodes, self._accounts, example, state.ca_path, state.log_path)
        click.echo(text, nl=False)


def _run_node(path: Path, listeners: Listeners, name: str, ready: Callable[[], None]) -> int:
    ftp, command = listeners.nodes[name]
    objects = listeners.objects[name]
    listeners.keep_only(ftp, command, objects)
    config = checked_data(load(path, DataConfig), path)
    return data_service.run(
        config,
        config_path=path,
        ftp_listeners=[ftp],
        command_listeners=[command],
        object_listeners=[],
        object_tls_listeners=[objects],
        ready=ready,
    )


def _run_auth(path: Path, listeners: Listeners, service: ServiceUser | None, ready: Callable[[], None]) -> int:
    # Imported here, so that no session process carries the auth server's code along.
    from uftpd.auth import server as auth_server

    listeners.keep_only(listeners.auth)
    config = checked_auth(load(path, AuthConfig), path)
    # The directories above may be closed to the service user, so the files that are read again are named from here.
    os.chdir(path.parent)
    return auth_server.run(
        _relative(config, path.parent),
        listeners=[listeners.auth],
        drop_privileges=partial(_become_service, service, os.getppid()),
        ready=ready,
    )


def _relative(config: AuthConfig, directory: Path) -> AuthConfig:
    login, attributes = config.login, config.attributes
    if login.password_file is not None:
        login = msgspec.structs.replace(login, password_file=login.password_file.relative_to(directory))
    if attributes.map_file is not None:
        attributes = msgspec.structs.replace(attributes, map_file=attributes.map_file.relative_to(directory))
    return msgspec.structs.replace(config, login=login, attributes=attributes)


def _become_service(service: ServiceUser | None, supervisor: int) -> None:
    """Give up what an auth server does not need: root, and the means to get it back."""
    if service is not None:
        os.setgroups([service.gid])
        os.setresgid(service.gid, service.gid, service.gid)
        os.setresuid(service.uid, service.uid, service.uid)
        drop_capabilities()
        if 0 in (*os.getresuid(), *os.getresgid(), *os.getgroups()):
            raise SystemExit(70)
    no_new_privileges()
    not_dumpable()
    die_with_parent(signal.SIGTERM)  # a change of user clears it
    if os.getppid() != supervisor:
        raise SystemExit(70)
