"""`[login]` of an auth server: the order of methods, and mistakes named with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from uftpd.check import check_file
from uftpd.config.auth import AuthConfig, checked
from uftpd.config.login import ordered_methods
from uftpd.config.toml import ConfigError, load

_REST = """
[server]
certificate = "auth.pem"
key = "auth.key"
[command_port]
ca = "ca.pem"
[nodes.TEST]
instances = [{host = "ftp.example.org", command = "ftp.example.org:64435"}]
"""
_OIDC = """
[login.oidc.{name}]
issuers = ["https://idp.example.org/{name}"]
audiences = ["uftp"]
identity = "UID={{email}}"
"""
_ALL = f"""
password_file = "passwords"
[login.ssh]
{_OIDC.format(name="ONE")}
{_OIDC.format(name="TWO")}
"""


def _load(directory: Path, login: str) -> AuthConfig:
    path = directory / "auth.toml"
    path.write_text(f"{_REST}\n[login]\n{login}")
    return checked(load(path, AuthConfig), path)


@pytest.mark.parametrize(
    ("methods", "order"),
    [
        ("", ("password", "ssh", "oidc.ONE", "oidc.TWO")),
        ('methods = ["oidc", "ssh", "password"]', ("oidc.ONE", "oidc.TWO", "ssh", "password")),
        ('methods = ["oidc.TWO", "ssh", "oidc", "password"]', ("oidc.TWO", "ssh", "oidc.ONE", "password")),
    ],
)
def test_order(tmp_path: Path, methods: str, order: tuple[str, ...]) -> None:
    assert ordered_methods(_load(tmp_path, f"{methods}\n{_ALL}").login) == order


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    login = _load(tmp_path, '[login.ssh]\nkey_file = "keys"\n[[login.tokens.issuers]]\ncertificate = "o.pem"').login
    assert login.ssh is not None
    assert login.ssh.key_file == tmp_path / "keys"
    assert login.tokens.issuers[0].certificate == tmp_path / "o.pem"


@pytest.mark.parametrize(
    ("login", "expected"),
    [
        ('methods = ["pasword"]', r"login\.methods: 'pasword' is none of"),
        ('methods = ["password"]', r"login\.methods: 'password' needs login\.password_file"),
        ('methods = ["ssh"]', r"login\.methods: 'ssh' needs login\.ssh"),
        ('methods = ["oidc"]', r"login\.methods: 'oidc' needs a table login\.oidc\.NAME"),
        (f'methods = ["oidc.ONE"]\n{_OIDC.format(name="TWO")}', r"login\.methods: 'oidc\.ONE' is none of"),
        (f'methods = ["password"]\n{_ALL}', r"login\.methods: 'ssh' is configured, but not listed"),
        (_OIDC.format(name="a").replace("oidc.a", "oidc.'a b'"), r"login\.oidc\.a b: a provider's name"),
        ("[login.ssh]\nkey_fil = 1", r"login\.ssh\.key_fil: unknown setting"),
        ('[login.ssh]\nnode_keys = "off"', r'login\.ssh: with node_keys = "off" a key_file is needed'),
        ('[login.ssh]\nnode_keys = "some"', r"login\.ssh\.node_keys: 'some' is not allowed, allowed are"),
        ('[login.ssh]\ndn = "CN=joe"', r"login\.ssh: dn: %s must stand in it once"),
        ('[login.ssh]\ndn = "joe %s"', r"login\.ssh: dn: "),
        ('[login.ssh]\nrole = "root"', r"login\.ssh\.role"),
        (_OIDC.format(name="ONE").replace("{email}", "joe"), r"login\.oidc\.ONE: identity: without a claim"),
        (_OIDC.format(name="ONE").replace("audiences", "audience"), r"login\.oidc\.ONE\.audience: unknown setting"),
        (_OIDC.format(name="ONE") + 'algorithms = ["HS256"]', "HS256"),
        (_OIDC.format(name="ONE") + 'algorithms = ["none"]', "none"),
        (_OIDC.format(name="ONE") + 'groups = [{value = "x", when = "y", match = "("}]', "regular expression"),
        (_OIDC.format(name="ONE") + _OIDC.format(name="TWO") + "groups = 5", r"login\.oidc\.TWO\.groups: expected"),
        ("[login.tokens]\nlongest_seconds = 10", "default_seconds <= longest_seconds"),
        ("[[login.tokens.issuers]]", "either certificate, or dn and secret_file"),
        ('[[login.tokens.issuers]]\ncertificate = "a"\ndn = "CN=x"', "dn: belongs to secret_file"),
        ('[[login.tokens.issuers]]\nsecret_file = "a"', "dn: belongs to secret_file"),
        ('[[login.tokens.issuers]]\nsecret_file = "a"\ndn = "x"', "dn: A name is a list"),
    ],
)
def test_mistakes(tmp_path: Path, login: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        _load(tmp_path, login)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/auth.toml: ")


def _written(directory: Path, login: str, mapping: str = "{}") -> Path:
    """A configuration without TLS, with the files it names."""
    (directory / "map.json").write_text(mapping)
    (directory / "secret").write_text("short")
    path = directory / "auth.toml"
    path.write_text(f"""
[server]
listen = ["127.0.0.1:0"]
plain_http = true
[login]
{login}
[attributes]
map_file = "map.json"
[nodes.TEST]
instances = [{{host = "127.0.0.1", command = "127.0.0.1:64435", plain = true}}]
""")
    return path


@pytest.mark.parametrize(
    ("login", "expected"),
    [
        ("[login.ssh]", ""),
        (_OIDC.format(name="ONE"), ""),
        ('[login.ssh]\nkey_file = "none"', "none: cannot be read"),
        (f'{_OIDC.format(name="ONE")}ca = "map.json"', "map.json: no usable CA certificates"),
        (f'{_OIDC.format(name="ONE")}client_secret_file = "none"', "none: cannot be read"),
        ('[[login.tokens.issuers]]\ncertificate = "none"', "none: cannot be read"),
        ('[[login.tokens.issuers]]\ndn = "CN=x"\nsecret_file = "secret"', "secret: a shared secret has at least 32"),
    ],
)
def test_check_config_tries_the_files(tmp_path: Path, login: str, expected: str) -> None:
    problems = check_file(_written(tmp_path, login)).problems
    assert [problem.replace(f"{tmp_path}/", "")[: len(expected)] for problem in problems] == [expected] * bool(expected)


def test_check_config_warns_of_strange_map_entries(tmp_path: Path) -> None:
    mapping = '{"CN=Joe": {"role": "usr", "uftpd.OTHER.xlogin": "a"}, "Joe": {}, "cn=joe": {}}'
    found = check_file(_written(tmp_path, "", mapping))
    assert found.problems == []
    assert [warning.removeprefix(f"{tmp_path}/map.json: ").partition(": ")[0] for warning in found.warnings] == [
        "'CN=Joe', 'role'",
        "'CN=Joe', 'uftpd.OTHER.xlogin'",
        "'Joe'",
        "'cn=joe'",
    ]
    [problem] = check_file(_written(tmp_path, "", '{"CN=Joe": 5}')).problems
    assert problem == f"{tmp_path}/map.json: expected an object of objects, name to attributes"
