"""Who one is on either side of a copy between servers, and that no secret goes to the other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from uftp.cli import settings as settings_module
from uftp.cli.copy_reports import resume_command
from uftp.cli.settings import Settings
from uftp.cli.side_options import SideOptions
from uftp.client.credentials import AskedPassword, BearerToken, UsernamePassword
from uftp.client.url import parse_url

HERE = parse_url("https://a.example.org/rest/auth/A:/x")
THERE = parse_url("https://b.example.org/rest/auth/B:/x")


def common(**given: object) -> Settings:
    nothing = dict.fromkeys(("user", "password_file", "token", "identity", "oidc_agent", "group", "client", "ca"))
    flags = dict.fromkeys(("ask_password", "ipv4", "ipv6", "insecure", "verbose", "quiet", "json", "debug"), False)
    return Settings(**{**nothing, **flags, **given})  # type: ignore[arg-type]


def test_a_side_with_a_login_of_its_own_has_nothing_of_the_common_one(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("target's\n")
    both = common(token="common-token", user=None, ca="common.pem")
    side = SideOptions(user="bob", password_file=str(tmp_path / "password")).over(both)
    found = side.credential(THERE)
    assert isinstance(found, UsernamePassword)
    assert (found.username, found.password) == ("bob", "target's")
    assert isinstance(both.credential(HERE), BearerToken)
    assert side.ca_file(THERE) == "common.pem"


def test_a_side_may_only_trust_another_ca() -> None:
    both = common(token="common-token")
    side = SideOptions(ca="other.pem").over(both)
    assert side.ca_file(THERE) == "other.pem"
    assert isinstance(side.credential(THERE), BearerToken)
    assert not SideOptions().has_any


async def test_who_is_asked_is_told_by_which_server(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def ask(prompt: str) -> str:
        asked.append(prompt)
        return "secret"

    monkeypatch.setattr(settings_module, "ask_secret", ask)
    both = common(user="me", ask_password=True)
    own = SideOptions(user="you", ask_password=True).over(both)
    for settings, url in ((both, HERE), (both.with_servers_named(), THERE), (own, HERE)):
        credential = settings.credential(url)
        assert isinstance(credential, AskedPassword)
        await credential.authorization()
    assert asked == [
        "Password for me: ",
        "https://b.example.org: Password for me: ",
        "https://a.example.org: Password for you: ",
    ]


def test_secrets_are_not_in_the_command_line_that_is_suggested() -> None:
    line = ["uftp", "rcp", "-p", "s3", "--source-token", "t0ken", "--target-user=me:pw", "--one-time-password=s3", "a"]
    shown = "uftp rcp -p ... --source-token ... --target-user=me:... --one-time-password=... a"
    assert resume_command(line) == shown
    assert resume_command(["uftp", "rcp", "-ps3cret", "-p", "@file"]) == "uftp rcp -p... -p @file"
    assert resume_command(["uftp", "cp", "-p", "a", "b"]) == "uftp cp -p a b"
