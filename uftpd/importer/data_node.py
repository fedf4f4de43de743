"""An upstream data node's uftpd.conf, its TLS settings and its ACL as our data.toml and the files it names."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uftp.protocol.dn import InvalidName, parse_name
from uftpd.config.data import LEGACY_COMMAND_PORT, LEGACY_PORT
from uftpd.config.toml import PortRange
from uftpd.importer import key_stores
from uftpd.importer.key_stores import Unusable
from uftpd.importer.notes import Notes, Place
from uftpd.importer.output import Output
from uftpd.importer.properties import Properties
from uftpd.importer.shell import Settings, parse_shell
from uftpd.importer.sources import Installation, NotFound, read, read_text

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TRUE = ("1", "yes", "true")

_NEEDLESS = {
    "SETPRIV": "rights are given up by the node itself",
    "CAPS": "rights are given up by the node itself",
    "UFTPD_LIB": "the package knows where it is",
    "UFTPD_PID": "systemd knows the process",
    "PYTHON": "the package knows its interpreter",
    "LOG_SYSLOG": "the log goes to standard error, which systemd keeps",
    "UFTP_USE_SENDFILE": "it is used wherever it helps",
    "PAM_MODULE": "belongs to OPEN_USER_SESSIONS",
}
_LOST = {
    "USER_NAME": "the node starts as root; create an account without rights or files for its part that faces the "
    "network, and name it in users.service_user (default: nobody)",
}


def convert_data(file: Path, text: str, installation: Installation, output: Output, notes: Notes) -> None:
    """Add data.toml and its files to the output.

    Args:
        file: uftpd.conf, for the notes.
        text: its content.
        installation: where its relative paths lead.
        output: what will be written.
        notes: what there is to say.
    """
    _DataNode(file, text, installation, output, notes).convert()


class _DataNode:
    def __init__(self, file: Path, text: str, installation: Installation, output: Output, notes: Notes) -> None:
        parsed = parse_shell(text)
        self._file = file
        self._settings = Settings(file, parsed)
        self._installation = installation
        self._output = output
        self._notes = notes
        for line, what in parsed.not_understood:
            notes.lost(Place(file, line), what, "only a shell knows what this comes to; set it by hand")

    def convert(self) -> None:
        table: dict[str, Any] = {
            "ftp": self._ftp(),
            "command_port": self._command_port(),
            "users": self._users(),
            "limits": self._limits(),
            "files": self._files(),
            "log": {"level": "debug"} if self._flag("LOG_VERBOSE") else {},
        }
        self._explain_the_rest()
        self._notes.changed(
            Place(self._file),
            "accounts",
            "those with a user id below 500 are refused, where upstream refused root alone; see users.lowest_uid",
        )
        self._output.add_toml("data.toml", table, f"From {self._file}")

    # -- reading ----------------------------------------------------------------------------------------------------

    def _place(self, name: str) -> Place:
        return Place(self._file, self._settings.line(name))

    def _lost(self, name: str, text: str) -> None:
        self._notes.lost(self._place(name), name, text)

    def _changed(self, name: str, text: str) -> None:
        self._notes.changed(self._place(name), name, text)

    def _flag(self, name: str, default: bool = False) -> bool:
        value = self._settings.get(name)
        return default if value is None else value.lower() in _TRUE

    def _number(self, name: str, allowed: Callable[[int], bool], default: int | None) -> int | None:
        value = self._settings.get(name)
        if value is None:
            return default
        if value.isascii() and value.isdigit() and len(value) < 10 and allowed(int(value)):
            return int(value)
        self._lost(name, "is not a number that can be; set it by hand")
        return default

    def _address(self, host_name: str, port_name: str, default_port: int) -> tuple[str, str]:
        """Host, and the address as a setting has it."""
        host = self._settings.get(host_name) or "localhost"
        port = self._number(port_name, lambda number: number < 65536, default_port)
        # Upstream listens for IPv6 as well where it is told to listen everywhere.
        if host in ("0.0.0.0", "::", "*"):
            off = self._flag("DISABLE_IPv6") or self._flag("DISABLE_IPV6")
            host = "0.0.0.0" if off else "::"
        return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # -- tables -----------------------------------------------------------------------------------------------------

    def _ftp(self) -> dict[str, Any]:
        table: dict[str, Any] = {"listen": [self._address("SERVER_HOST", "SERVER_PORT", LEGACY_PORT)[1]]}
        if (advertise := self._settings.get("ADVERTISE_HOST")) is not None:
            try:
                table["advertise"] = str(ipaddress.IPv4Address(advertise))
            except ValueError:
                self._lost("ADVERTISE_HOST", "must be an IPv4 address here; set ftp.advertise")
        if (ports := self._settings.get("PORT_RANGE")) is not None:
            try:
                table["port_range"] = str(PortRange.parse(ports))
            except ValueError:
                self._lost("PORT_RANGE", "is no range of ports; set ftp.port_range")
        if self._flag("DISABLE_IP_CHECK"):
            self._lost(
                "DISABLE_IP_CHECK",
                "a session is opened for the addresses of its client, always; where clients come by other addresses "
                "than the auth server sees, they name them (option -X), or a proxy does (server.trusted_proxies)",
            )
        return table

    def _command_port(self) -> dict[str, Any]:
        host, address = self._address("CMD_HOST", "CMD_PORT", LEGACY_COMMAND_PORT)
        table: dict[str, Any] = {"listen": address}
        acl = self._settings.get("ACL")
        if (named := self._settings.get("SSL_CONF")) is None:
            if host in _LOOPBACK:
                table["plain"] = True
                self._changed("CMD_HOST", "without TLS whoever can reach the command port can be any user; set up TLS")
            else:
                self._lost("SSL_CONF", "without TLS the command port may only be on loopback; set up [command_port]")
            return table
        path = self._installation.find(named)
        try:
            table |= self._tls(Properties(path, read_text(path), self._notes))
        except NotFound as error:
            self._lost("SSL_CONF", f"{path} {error}; set certificate, key and ca in [command_port]")
        table |= self._access_list(acl or "conf/uftpd.acl")
        return table

    def _tls(self, properties: Properties) -> dict[str, Any]:
        table: dict[str, Any] = {}
        password = properties.get("credential.password")
        together, key, certificate = (properties.get(f"credential.{name}") for name in ("path", "key", "certificate"))
        name = "credential.path" if together is not None else "credential.certificate"
        if (value := together or certificate) is None:
            self._notes.lost(Place(properties.file), name, "no certificate is set; set certificate and key by hand")
        else:
            path = self._installation.find(value)
            try:
                key_data = read(self._installation.find(key)) if key is not None and together is None else None
                credential = key_stores.read_credential(read(path), password, key_data=key_data)
            except (Unusable, NotFound) as error:
                self._notes.lost(properties.place(name), name, f"{path} {error}; then set certificate and key")
            else:
                table["certificate"] = self._output.add("data.pem", credential.certificates)
                table["key"] = self._output.add_secret("data.key", credential.key)
        table |= self._trusted(properties)
        for found in properties.rest():
            place = Place(properties.file, found.line)
            if found.key == "SSL_CIPHERS":
                self._notes.needless(place, found.key, "TLS 1.2 or later, with the ciphers OpenSSL thinks safe")
            else:
                self._notes.lost(place, found.key, "is not known here; see whether it mattered")
        return table

    def _trusted(self, properties: Properties) -> dict[str, Any]:
        if (value := properties.get("truststore")) is None:
            self._notes.lost(Place(properties.file), "truststore", "is not set; set command_port.ca by hand")
            return {}
        path = self._installation.find(value)
        try:
            certificates = key_stores.read_certificates(read(path), None)
        except (Unusable, NotFound) as error:
            self._notes.lost(properties.place("truststore"), "truststore", f"{path} {error}; set command_port.ca")
            return {}
        if not certificates:
            self._notes.lost(properties.place("truststore"), "truststore", f"{path} holds no certificate")
            return {}
        self._notes.changed(
            properties.place("truststore"),
            "truststore",
            "only these CAs count now; upstream trusted those of the operating system as well",
        )
        return {"ca": self._output.add("data-ca.pem", key_stores.to_pem(certificates))}

    def _access_list(self, named: str) -> dict[str, Any]:
        path = self._installation.find(named)
        try:
            text = read_text(path)
        except NotFound as error:
            self._lost("ACL", f"{path} {error}; name the auth server's certificate in command_port.acl")
            return {}
        lines = []
        for number, line in enumerate(text.splitlines(), start=1):
            name = line.strip()
            if name and not name.startswith("#"):
                try:
                    parse_name(name)
                except InvalidName as error:
                    self._notes.lost(Place(path, number), "a name", f"is not understood, and left out: {error}")
                    line = f"# not understood: {line}"
            lines.append(line)
        self._notes.changed(
            Place(path),
            "names",
            "each must be the whole name of a certificate; upstream took one with more parts as well "
            "(command_port.acl_subset = true makes it so again)",
        )
        return {"acl": self._output.add("data.acl", ("\n".join(lines) + "\n").encode())}

    def _users(self) -> dict[str, Any]:
        return {} if self._flag("UFTP_ENFORCE_OS_GIDS", True) else {"check_groups": False}

    def _limits(self) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for setting, name in (("sessions_per_user", "MAX_CONNECTIONS"), ("streams", "MAX_STREAMS")):
            if (number := self._number(name, lambda number: number > 0, None)) is not None:
                table[setting] = number
        return table

    def _files(self) -> dict[str, Any]:
        table: dict[str, Any] = {}
        if (keys := self._paths("UFTP_KEYFILES")) is not None:
            table["key_files"] = keys
        both = [self._paths(name) for name in ("UFTP_NO_WRITE", "UFTP_NOWRITE")]
        if any(paths is not None for paths in both):
            table["write_protected"] = list(dict.fromkeys(path for paths in both for path in paths or []))
        return table

    def _paths(self, name: str) -> list[str] | None:
        value = self._settings.get(name)
        if value is None:
            return None
        paths = []
        for path in value.split(":"):
            if re.search(r"[*?\[]", path):
                self._lost(name, f"'{path}': no wild cards here; name the files, below the home")
            elif path.startswith("/") or ".." in path.split("/"):
                self._lost(name, f"'{path}': is not below the home")
            elif path:
                paths.append(path)
        return paths

    # -- what is left -----------------------------------------------------------------------------------------------

    def _explain_the_rest(self) -> None:
        if self._flag("OPEN_USER_SESSIONS"):
            self._lost("OPEN_USER_SESSIONS", "sessions do not open a PAM session; limits per user are in [limits]")
        for found in self._settings.rest():
            place = Place(self._file, found.line)
            if (reason := _NEEDLESS.get(found.name)) is not None:
                self._notes.needless(place, found.name, reason)
            else:
                self._notes.lost(place, found.name, _LOST.get(found.name, "is not known here; see whether it mattered"))
