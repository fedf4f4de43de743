"""An upstream auth server's container.properties as our auth.toml and the files it names (CONTROL-PLANE 3 and 5)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509

from uftp.protocol.dn import InvalidName, parse_name
from uftpd.config.auth import RESERVED_NAMES
from uftpd.config.login import is_safe_url
from uftpd.importer import key_stores, people
from uftpd.importer.key_stores import Unusable
from uftpd.importer.notes import Notes, Place
from uftpd.importer.oidc import claim_expression
from uftpd.importer.output import Output
from uftpd.importer.properties import Properties
from uftpd.importer.sources import Installation, NotFound, read, read_text

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LOGIN = "container.security.rest.authentication."
_ATTRIBUTES = "container.security.attributes."
_CREDENTIAL = "container.security.credential."
_TRUST = "container.security.truststore."
_NODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,63}", re.ASCII)
_PROVIDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}", re.ASCII)

# Beginnings of settings that have no counterpart, and why that is no loss.
_NEEDLESS = {
    "container.client.": "connections to data nodes have fixed rules: TLS 1.2 or later, certificates checked",
    "container.httpServer.": "the HTTP server has its own limits, [limits]",
    "container.feature.AuthServer.": "it is always on",
    "container.security.accesscontrol": "who may do what is fixed by role, as in the policy upstream ships",
    "container.security.sessions": "the store keeps sessions, [security_sessions]",
    "container.wsrf.": "there are no such services",
    "container.deployment": "there is one service",
    "persistence.": "there is a store of its own, [store]",
    "authservice.server.": "is not known to be used by upstream either",
    "container.security.attributes.": "belongs to a source that is not in use",
    "container.security.rest.authentication.": "belongs to a way to log in that is not in use",
}
_LOST = {
    "share.": "is not known here; see [shares]",
    "container.security.rest.jwt.": "tokens of other servers: set [[login.tokens.issuers]] by hand",
    "container.security.gateway.": "behind a gateway: put its address into server.trusted_proxies",
    "container.security.truststore.crl": "revocation lists are not read; a node whose key is lost needs a new CA",
    "authservice.": "is not known here",
}
_UNKNOWN = "is not known here; see whether it mattered"


def convert_auth(file: Path, text: str, installation: Installation, output: Output, notes: Notes) -> None:
    """Add auth.toml and its files to the output.

    Args:
        file: container.properties, for the notes.
        text: its content.
        installation: where its relative paths lead.
        output: what will be written.
        notes: what there is to say.
    """
    _AuthServer(Properties(file, text, notes), installation, output, notes).convert()


class _AuthServer:
    def __init__(self, properties: Properties, installation: Installation, output: Output, notes: Notes) -> None:
        self._properties = properties
        self._installation = installation
        self._output = output
        self._notes = notes

    def convert(self) -> None:
        table: dict[str, Any] = {
            "server": self._server(),
            "login": self._login(),
            "attributes": self._attributes(),
            "command_port": self._command_port(),
            "security_sessions": self._security_sessions(),
            "nodes": self._nodes(),
        }
        table["shares"] = self._shares(table["nodes"])
        self._explain_the_rest()
        self._output.add_toml("auth.toml", table, f"From {self._properties.file}")

    # -- reading ----------------------------------------------------------------------------------------------------

    def _lost(self, key: str, text: str) -> None:
        self._notes.lost(self._properties.place(key), key, text)

    def _changed(self, key: str, text: str) -> None:
        self._notes.changed(self._properties.place(key), key, text)

    def _file(self, key: str) -> tuple[Path, str] | None:
        """The text file a property names; None, and a note, if it cannot be read."""
        value = self._properties.get(key)
        if value is None:
            return None
        path = self._installation.find(value)
        try:
            return path, read_text(path)
        except NotFound as error:
            self._lost(key, f"{path} {error}")
            return None

    # -- [server] ---------------------------------------------------------------------------------------------------

    def _server(self) -> dict[str, Any]:
        get = self._properties.get
        host, port = get("container.host") or "localhost", self._properties.number("container.port") or 9000
        if host in ("0.0.0.0", "::"):
            host = "[::]"
        table: dict[str, Any] = {"listen": [f"[{host}]:{port}" if ":" in host and host[0] != "[" else f"{host}:{port}"]}
        if not self._properties.flag("container.security.sslEnabled", True):
            if host in _LOOPBACK:
                table["plain_http"] = True
            else:
                self._lost(
                    "container.security.sslEnabled",
                    "without TLS this server listens on loopback only; give it a certificate, or put a proxy before it",
                )
        table |= self._credential()
        for key in ("container.externalurl", "container.baseurl"):
            if (url := get(key)) is not None:
                table |= self._external_url(key, url)
        if (name := get("container.sitename")) is not None:
            table["site_name"] = name
        return table

    def _external_url(self, key: str, url: str) -> dict[str, str]:
        trimmed = re.sub(r"(/rest|/services)?/*$", "", url)
        if re.fullmatch(r"https?://[^\s/]+(/\S*[^\s/])?", trimmed):
            return {"external_url": trimmed}
        self._lost(key, "is no URL; set server.external_url")
        return {}

    def _credential(self) -> dict[str, Any]:
        get = self._properties.get
        path_key, key_key = f"{_CREDENTIAL}path", f"{_CREDENTIAL}keyPath"
        password = get(f"{_CREDENTIAL}password")
        for name in ("format", "keyAlias", "keyPassword"):
            get(_CREDENTIAL + name)
        value, key_value = get(path_key), get(key_key)
        if value is None:
            self._lost(path_key, "no certificate is set; set server.certificate and server.key")
            return {}
        path = self._installation.find(value)
        try:
            key_data = read(self._installation.find(key_value)) if key_value is not None else None
            credential = key_stores.read_credential(read(path), password, key_data=key_data)
        except (Unusable, NotFound) as error:
            self._lost(path_key, f"{path} {error}; then set server.certificate and server.key to the PEM files")
            return {}
        return {
            "certificate": self._output.add("auth.pem", credential.certificates),
            "key": self._output.add_secret("auth.key", credential.key),
        }

    # -- [shares] ---------------------------------------------------------------------------------------------------

    def _shares(self, nodes: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of sharing. Upstream keeps the shares themselves in a database that is not read here."""
        get, flag = self._properties.get, self._properties.flag
        enabled = flag("container.feature.DataSharing.enable", True)
        names = [name for name in (get("share.servers") or "").split() if name in nodes]
        write, address = flag("share.allowWriteAccess", False), get("share.clientIP")
        if not enabled or not names:
            return {}
        table: dict[str, Any] = {"servers": names}
        if write:
            table["allow_write"] = True
        if address and address != "localhost":
            try:
                table["client_address"] = [str(ipaddress.ip_address(item.strip())) for item in address.split(",")]
            except ValueError:
                self._lost("share.clientIP", "is no address; set shares.client_address")
        self._lost(
            "share.servers",
            "the shares that people made are not taken over, they have to be made again; shares for anybody are used "
            "by their link, no longer by their path. shares.anonymous_by_path = true makes it so again",
        )
        return table

    # -- [login] ----------------------------------------------------------------------------------------------------

    def _login(self) -> dict[str, Any]:
        order = (self._properties.get(f"{_LOGIN}order") or "").replace("|", " ").replace(",", " ").split()
        table: dict[str, Any] = {}
        methods: list[str] = []
        kinds: dict[str, Callable[[str, dict[str, Any]], str | None]] = {
            "FilebasedAuthenticator": self._password_file,
            "SSHKeyAuthenticator": self._ssh_keys,
            "OAuthAuthenticator": self._oidc,
        }
        defaults = {
            "PASSWORD": "FilebasedAuthenticator",
            "SSHKEY": "SSHKeyAuthenticator",
            "OAUTH": "OAuthAuthenticator",
        }
        for name in order:
            class_key = f"{_LOGIN}{name}.class"
            kind = (self._properties.get(class_key) or defaults.get(name, name)).rpartition(".")[2]
            if kind not in kinds:
                at = class_key if self._properties.beneath(class_key) else f"{_LOGIN}order"
                self._lost(at, f"'{name}': this way to log in is not known here ({kind}); see the ways in [login]")
                for key in self._properties.beneath(f"{_LOGIN}{name}."):
                    self._properties.get(key)
            elif (method := kinds[kind](f"{_LOGIN}{name}.", table)) is not None:
                methods.append(method)
        if methods:
            table["methods"] = list(dict.fromkeys(methods))
        else:
            self._lost(f"{_LOGIN}order", "nobody can log in; set up one of the ways in [login]")
        return table

    def _password_file(self, prefix: str, table: dict[str, Any]) -> str | None:
        found = self._file(f"{prefix}file")
        if "password_file" in table:
            self._lost(f"{prefix}file", "there is one password file here; put its lines into the first")
            return None
        if found is None:
            return None
        data = people.convert_passwords(*found, self._notes)
        table["password_file"] = self._output.add_secret("passwords", data)
        return "password"

    def _ssh_keys(self, prefix: str, table: dict[str, Any]) -> str:
        ssh: dict[str, Any] = {}
        if (found := self._file(f"{prefix}file")) is not None:
            ssh["key_file"] = self._output.add("ssh-keys", people.convert_ssh_keys(*found, self._notes))
            self._changed(
                f"{prefix}file",
                "a name in it was a local account as well; now the map file says which account a person has. "
                "login.ssh.key_file_accounts = true makes it so again",
            )
        self._changed(
            f"{_LOGIN}order",
            "keys that a data node reports admit to that node's server alone, where upstream let them in everywhere; "
            'login.ssh.node_keys = "all" makes it so again',
        )
        template = self._properties.get(f"{prefix}dnTemplate")
        if template is not None:
            try:
                parse_name(template.replace("%s", "x"))
            except InvalidName as error:
                self._lost(f"{prefix}dnTemplate", f"makes no valid name: {error}; set login.ssh.dn")
            else:
                if template.count("%s") == 1:
                    ssh["dn"] = template
                else:
                    self._lost(f"{prefix}dnTemplate", "must hold %s once; set login.ssh.dn")
        if not self._properties.flag(f"{prefix}useAuthorizedKeys", True):
            ssh["node_keys"] = "off"
        table["ssh"] = ssh
        return "ssh"

    def _oidc(self, prefix: str, table: dict[str, Any]) -> str | None:
        get = self._properties.get
        name = prefix.removeprefix(_LOGIN).rstrip(".")
        introspection = self._properties.flag(f"{prefix}validate", False)
        provider: dict[str, Any] = {"verify": "introspection" if introspection else "userinfo"}
        address = get(f"{prefix}address")
        client, secret = get(f"{prefix}clientID"), get(f"{prefix}clientSecret")
        for setting, key in (("identity", "identityAssign"), ("uid", "uidAssign")):
            if (expression := get(prefix + key)) is not None:
                self._expression(prefix + key, expression, setting, provider)
        for setting, key in (("groups", "groupsAssign"), ("role", "roleAssign")):
            if (expression := get(prefix + key)) is not None:
                self._expression(prefix + key, expression, setting, provider)
        if "uid" in provider:
            provider.setdefault("role", "user")  # as upstream, where an account is known
        if not _PROVIDER_NAME.fullmatch(name) or address is None or not is_safe_url(address):
            self._lost(f"{prefix}address", "is no address over https; set up a table [login.oidc.NAME]")
            return None
        provider["address"] = address
        if "identity" not in provider:
            self._lost(f"{prefix}identityAssign", "is needed; set up a table [login.oidc.NAME] by hand")
            return None
        if introspection:
            if client is None or secret is None:
                self._lost(f"{prefix}clientID", "client and secret are needed to ask the provider; set both by hand")
                return None
            provider["client_id"] = client
            provider["client_secret_file"] = self._output.add_secret(f"oidc-{name}.secret", f"{secret}\n".encode())
        self._changed(
            f"{prefix}address",
            "any token of the provider is taken, also one given to another service; set audiences or clients, or "
            'better verify = "jwks"',
        )
        table.setdefault("oidc", {})[name] = provider
        return f"oidc.{name}"

    def _expression(self, key: str, expression: str, setting: str, provider: dict[str, Any]) -> None:
        try:
            provider[setting] = claim_expression(expression)
        except ValueError as error:
            self._lost(key, f"{error}; write login.oidc.NAME.{setting} by hand")

    # -- [attributes] -----------------------------------------------------------------------------------------------

    def _attributes(self) -> dict[str, Any]:
        table: dict[str, Any] = {}
        policy = self._properties.get(f"{_ATTRIBUTES}combiningPolicy")
        if policy not in (None, "MERGE_LAST_OVERRIDES"):
            self._lost(f"{_ATTRIBUTES}combiningPolicy", "later sources override earlier ones here, whatever it says")
        for name in (self._properties.get(f"{_ATTRIBUTES}order") or "").split():
            prefix = f"{_ATTRIBUTES}{name}."
            kind = (self._properties.get(f"{prefix}class") or name).rpartition(".")[2]
            if kind not in ("FileAttributeSource", "FILE"):
                at = f"{prefix}class" if self._properties.beneath(f"{prefix}class") else f"{_ATTRIBUTES}order"
                self._lost(at, f"'{name}': this source of attributes is not known here; write its people into map.json")
                for key in self._properties.beneath(prefix):
                    self._properties.get(key)
            elif "map_file" in table:
                self._lost(f"{prefix}file", "there is one map file here; put its entries into the first")
            else:
                table |= self._map_file(prefix)
        return table

    def _map_file(self, prefix: str) -> dict[str, Any]:
        matching = (self._properties.get(f"{prefix}matching") or "strict").lower()
        if matching not in ("strict", "regexp"):
            self._lost(f"{prefix}matching", "is neither strict nor regexp; strict is taken")
        match: people.Match = "regexp" if matching == "regexp" else "strict"
        if (found := self._file(f"{prefix}file")) is None:
            return {}
        data = people.convert_map(*found, match, self._notes)
        return {"map_file": self._output.add("map.json", data), "match": match}

    # -- [command_port], [security_sessions] ------------------------------------------------------------------------

    def _command_port(self) -> dict[str, Any]:
        get = self._properties.get
        kind = get(f"{_TRUST}type")
        password = get(f"{_TRUST}keystorePassword")
        get(f"{_TRUST}keystoreFormat")
        store, openssl = get(f"{_TRUST}keystorePath"), get(f"{_TRUST}opensslPath")
        locations = [(key, get(key)) for key in self._properties.beneath(f"{_TRUST}directoryLocations.")]
        found: list[x509.Certificate] = []
        if kind in (None, "keystore") and store is not None:
            found += self._trusted(f"{_TRUST}keystorePath", self._installation.find(store), password)
        if kind in (None, "openssl") and openssl is not None:
            directory = self._installation.find(openssl)
            for path in sorted(directory.glob("*.pem")) if directory.is_dir() else []:
                found += self._trusted(f"{_TRUST}opensslPath", path, None)
        if kind in (None, "directory"):
            for key, value in locations:
                if value is not None:
                    found += self._trusted_location(key, value)
        if not found:
            where = f"{_TRUST}type" if kind is not None else _TRUST.rstrip(".")
            self._lost(where, "no CA certificate was found; put those of the data nodes into command_port.ca")
            return {}
        return {"ca": self._output.add("auth-ca.pem", key_stores.to_pem(found))}

    def _trusted_location(self, key: str, value: str) -> list[x509.Certificate]:
        if "://" in value:
            self._lost(key, "is an address, which is not fetched; put the certificate into command_port.ca")
            return []
        path = self._installation.find(value)
        paths = (
            sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else self._installation.matching(value)
        )
        if not paths:
            self._lost(key, f"no file matches {value}; put the certificates into command_port.ca")
        return [certificate for path in paths for certificate in self._trusted(key, path, None)]

    def _trusted(self, key: str, path: Path, password: str | None) -> list[x509.Certificate]:
        try:
            return key_stores.read_certificates(read(path), password)
        except (Unusable, NotFound) as error:
            self._lost(key, f"{path} {error}; then put its certificates into command_port.ca")
            return []

    def _security_sessions(self) -> dict[str, Any]:
        table: dict[str, Any] = {}
        if not self._properties.flag("container.security.sessionsEnabled", True):
            table["enabled"] = False
        if (seconds := self._properties.number("container.security.sessionLifetime")) is not None:
            table["lifetime_seconds"] = min(max(seconds, 60), 7 * 86400)
        if (number := self._properties.number("container.security.sessionsPerUser")) is not None:
            table["per_person_and_address"] = max(number, 1)
        return table

    # -- [nodes] ----------------------------------------------------------------------------------------------------

    def _nodes(self) -> dict[str, Any]:
        nodes: dict[str, Any] = {}
        for name in (self._properties.get("authservice.servers") or "").split():
            prefix = f"authservice.server.{name}."
            if name in RESERVED_NAMES or not _NODE_NAME.fullmatch(name):
                self._lost("authservice.servers", f"'{name}' cannot be a name here (letters, digits, _ and .)")
                for key in self._properties.beneath(prefix):
                    self._properties.get(key)
                continue
            if node := self._node(name, prefix):
                nodes[name] = node
        if not nodes:
            self._lost("authservice.servers", "there is no data node; set up a table [nodes.NAME]")
        return nodes

    def _node(self, name: str, prefix: str) -> dict[str, Any]:
        get = self._properties.get
        instances = []
        if self._properties.beneath(f"{prefix}host"):
            instances.append(self._instance(prefix))
        else:
            number = 1
            while self._properties.beneath(f"{prefix}{number}.host"):
                instances.append(self._instance(f"{prefix}{number}."))
                number += 1
        known = [instance for instance in instances if instance is not None]
        if not known:
            self._lost(f"{prefix}host", "no host is set for this server; it is left out")
            return {}
        node: dict[str, Any] = {"instances": known}
        if (description := get(f"{prefix}description")) is not None:
            node["description"] = description
        enabled, file_key = self._properties.flag(f"{prefix}reservations.enable", False), f"{prefix}reservations.file"
        if enabled and (found := self._file(file_key)) is not None:
            node["reservations"] = self._output.add(f"reservations-{name}.json", found[1].encode())
        else:
            get(file_key)
        return node

    def _instance(self, prefix: str) -> dict[str, Any] | None:
        get = self._properties.get
        host, command_host = get(f"{prefix}host"), get(f"{prefix}commandHost")
        port = self._properties.number(f"{prefix}commandPort")
        get(f"{prefix}port")  # told by the node itself
        tls = self._properties.flag(f"{prefix}ssl", True)
        if host is None or command_host is None or port is None:
            self._lost(f"{prefix}host", "host, commandHost and commandPort are all needed; the node is left out")
            return None
        if re.search(r"[\s,]", host):
            self._lost(f"{prefix}host", "several addresses: clients are told one here; the first is taken")
            host = re.split(r"[\s,]+", host.strip())[0]
        address = f"[{command_host}]:{port}" if ":" in command_host else f"{command_host}:{port}"
        instance: dict[str, Any] = {"host": host, "command": address}
        if tls:
            self._changed(
                f"{prefix}commandHost",
                "the node's certificate must be for this host, which upstream did not check; if it is not, set the "
                "instance's subject to that of the certificate",
            )
        elif command_host in _LOOPBACK:
            instance["plain"] = True
        else:
            self._lost(f"{prefix}ssl", "without TLS a command port may only be on loopback; set up TLS at the node")
        return instance

    # -- what is left -----------------------------------------------------------------------------------------------

    def _explain_the_rest(self) -> None:
        for found in self._properties.rest():
            place = Place(self._properties.file, found.line)
            lost = next((text for start, text in _LOST.items() if found.key.startswith(start)), None)
            needless = next((text for start, text in _NEEDLESS.items() if found.key.startswith(start)), None)
            switch_off = found.value.lower() == "false"
            if found.key.startswith(("container.security.gateway.", "container.feature.DataSharing.")) and switch_off:
                self._notes.needless(place, found.key, "is off here as well")
            elif needless is not None and not (lost is not None and not found.key.startswith("authservice.server.")):
                self._notes.needless(place, found.key, needless)
            else:
                self._notes.lost(place, found.key, lost or _UNKNOWN)
