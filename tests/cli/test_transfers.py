"""`uftp transfer` with two sites of different people, as a newcomer types it."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from data_node import Person, made_accounts
from raw_ftp import eventually
from running_uftp import UFTP, Outcome, environment, uftp_inside
from uftp_site import Site, running_site

pytestmark = pytest.mark.slow

HERE, THERE = "127.0.0.1", "127.0.0.2"
SECONDS = 60.0
LARGE = os.urandom(1_000_000) * 24


@dataclass
class Sites:
    """`here` has the sources; `there` the targets, and looks after transfers.

    Attributes:
        config: endpoints of these names, with who one is there.
        running: transfers to be cancelled in the end.
    """

    here: Site
    there: Site
    config: Path
    running: list[str] = field(default_factory=list)

    def run(self, *arguments: str, code: int = 0, env: dict[str, str] | None = None) -> Outcome:
        variables = {"UFTP_CONFIG": str(self.config), **(env or {})}
        done = uftp_inside("transfer", *arguments, env=variables)
        assert done.code == code, done.err + done.out.decode()
        return done

    def submit(self, *arguments: str, code: int = 0) -> str:
        """What names the new transfer."""
        lines = self.run("submit", *arguments, code=code).lines
        self.running += lines
        return lines[0] if lines else ""

    def slow(self, target: Path) -> str:
        """One that takes its time."""
        source = self.here.file(self.here.directory() / "slow.bin", LARGE)
        return self.submit("--limit-rate", "500k", f"here:{source}", f"there:{target}/")

    def shown(self, reference: str) -> dict[str, object]:
        """All that is known of one."""
        found: dict[str, object] = self.run("show", "--json", reference).records[0]
        return found

    def wait_for(self, reference: str, state: str, *, moved: bool = False) -> None:
        """Until it is in a state, and has moved something."""

        def there() -> bool:
            found = self.shown(reference)
            return found["state"] == state and (not moved or int(str(found["bytes"])) > 0)

        eventually(there, SECONDS, f"{reference} being {state}")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    as_root = os.geteuid() == 0
    with ExitStack() as undo:
        own = Person.find(pwd.getpwuid(os.geteuid()).pw_name)
        people = undo.enter_context(made_accounts("mn")) if as_root else (own, own)
        # The node there connects to the one here, and the auth server there to the other one, whose CA it has to trust.
        here = undo.enter_context(running_site(people[:1], as_root=as_root, options=["--host", HERE]))
        options = ["--host", THERE, "--allow-peer", HERE]
        there = undo.enter_context(
            running_site(people[1:], as_root=as_root, options=options, variables={"SSL_CERT_FILE": here.ca})
        )
        directory = tmp_path_factory.mktemp("endpoints")
        config = directory / "config.toml"
        lines = []
        for name, site in (("here", here), ("there", there)):
            (directory / name).write_text(site.password(site.first) + "\n")
            lines += [f"[endpoints.{name}]", f'url = "{site.auth}/TEST"', f'user = "{site.first}"']
            lines += [f'password_file = "{directory / name}"', f'ca = "{site.ca}"']
        config.write_text("\n".join(lines))
        yield Sites(here, there, config)


@pytest.fixture
def sites(both: Sites) -> Iterator[Sites]:
    yield both
    for reference in both.running:
        uftp_inside("transfer", "cancel", reference, env={"UFTP_CONFIG": str(both.config)})
    both.running.clear()


def test_a_tree_goes_from_one_site_to_another(sites: Sites) -> None:
    source, target = sites.here.directory(), sites.there.directory()
    contents = {"a": b"one", "ünï cö[d]e%41 &": b"two" * 1000, "large.bin": LARGE}
    for name, content in contents.items():
        sites.here.file(source / name, content)
    reference = sites.submit("-r", "--name", "all of it", f"here:{source}/", f"there:{target}/in/")
    assert reference.startswith("there:")
    sites.run("wait", "-q", reference)
    assert {path.name: path.read_bytes() for path in (target / "in").iterdir()} == contents
    [record] = [entry for entry in sites.run("list", "--json", "there:").records if entry["transfer"] == reference]
    assert (record["state"], record["files"], record["name"], record["type"]) == (
        "succeeded",
        3,
        "all of it",
        "transfer",
    )
    shown = sites.run("show", reference).lines
    assert any(line.startswith("State:") and line.endswith("succeeded") for line in shown)
    assert not any(line.startswith("Next:") for line in shown)
    refused = sites.run("retry", reference, code=5)
    assert "It has succeeded already" in refused.err
    password = sites.here.password(sites.here.first)
    assert password not in json.dumps(record) + "\n".join(shown)


def test_what_submit_prints_names_it_everywhere(sites: Sites) -> None:
    site = sites.there
    source, target = site.file(site.directory() / "f", b"x"), site.directory()
    login = ["--ca", site.ca, "-u", site.first]
    env = {"UFTP_PASSWORD": site.password(site.first)}
    done = sites.run("submit", *login, site.url(source), site.url(target / "g"), env=env)
    [url] = done.lines
    number = url.rpartition("/")[2]
    assert url == site.auth.removesuffix("/auth") + f"/transfers/{number}"
    sites.run("wait", *login, url, env=env)
    assert (target / "g").read_bytes() == b"x"
    for words in ([url], [f"there:{number}"], [number, "--at", "there"], [number, "--at", site.auth]):
        mine = login if "there" not in "".join(words) else []
        assert sites.run("show", "--json", *mine, *words, env=env).records[0]["id"] == number
    variable = env | {"UFTP_TRANSFER_URL": site.auth}
    assert sites.run("show", "--json", *login, number, env=variable).records[0]["id"] == number
    assert number in sites.run("list", *login, env=variable).out.decode()


def test_the_source_can_look_after_it_and_a_key_is_good_once(sites: Sites) -> None:
    site = sites.there
    source = site.file(site.directory() / "f", b"x")
    words = ["--once", "monday", "-w", "-q", f"there:{source}", f"there:{site.directory()}/"]
    assert sites.submit(*words) == sites.submit(*words)
    other = sites.run("submit", "--once", "monday", f"there:{source}", "there:/tmp/elsewhere", code=5)
    assert "Idempotency-Key" in other.err


@pytest.mark.parametrize("common", [[], ["-u", "nobody-there:x"]])
def test_each_side_says_who_one_is(sites: Sites, tmp_path: Path, common: list[str]) -> None:
    """Of the side that looks after it, too; there are no endpoints here."""
    source, target = sites.here.file(sites.here.directory() / "f", b"f"), sites.there.directory()
    empty = tmp_path / "config.toml"
    empty.write_text("")
    options = [*common, "-w"]
    for side, site in (("source", sites.here), ("target", sites.there)):
        options += [f"--{side}-user", f"{site.first}:{site.password(site.first)}", f"--{side}-ca", site.ca]
    places = [f"{sites.here.auth}/TEST:{source}", f"{sites.there.auth}/TEST:{target}/g"]
    sites.run("submit", *options, *places, env={"UFTP_CONFIG": str(empty)})
    assert (target / "g").read_bytes() == b"f"


def test_a_transfer_is_paused_resumed_and_cancelled(sites: Sites) -> None:
    target = sites.there.directory()
    reference = sites.slow(target)
    sites.wait_for(reference, "active", moved=True)
    assert "active" in sites.run("list", "there:", "-s", "active").out.decode()
    sites.run("pause", reference)
    paused = sites.run("wait", reference, code=1)
    assert f"is paused; to go on: uftp transfer resume {reference}" in paused.err
    sites.run("resume", reference)
    sites.wait_for(reference, "active", moved=True)
    sites.run("cancel", reference)
    ended = sites.run("wait", "--json", reference, code=1)
    assert ended.records[0]["state"] == "cancelled"
    assert "was cancelled" in ended.err
    assert list(target.iterdir()) == []
    # What it had to log in with there is gone, and is got anew only if that is asked for.
    assert "--login" in sites.run("retry", reference, code=5).err
    sites.run("retry", "--login", "-q", reference)
    assert sites.shown(reference)["state"] in ("queued", "active")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_it_running_and_says_how_to_come_back(sites: Sites, number: signal.Signals) -> None:
    reference = sites.slow(sites.there.directory())
    variables = environment({"UFTP_CONFIG": str(sites.config)})
    words = [UFTP, "transfer", "wait", "--progress-interval", "1", reference]
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=variables) as waiting:
        assert waiting.stderr is not None
        line = b""
        while b"active" not in line:
            line = waiting.stderr.readline()
            assert line, "it has ended by itself"
        waiting.send_signal(number)
        said = waiting.stderr.read().decode()
        assert waiting.wait(SECONDS) == 128 + number
    assert f"goes on; to come back: uftp transfer wait {reference}" in said
    assert sites.shown(reference)["state"] == "active"


def test_failures_are_named_and_have_their_exit_codes(sites: Sites) -> None:
    source, target = sites.here.directory(), sites.there.directory()
    missing = sites.submit(f"here:{source}/none", f"there:{target}/")
    alone = sites.run("wait", missing, code=9)
    assert "has failed" in alone.err
    assert "none" in alone.err
    assert f"uftp transfer retry --login {missing}" in alone.err
    sites.here.file(source / "good", b"g")
    good = sites.submit(f"here:{source}/good", f"there:{target}/")
    several = sites.run("wait", missing, good, code=9)
    assert several.err.count("has failed") == 1
    assert (target / "good").read_bytes() == b"g"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of somebody else's")
def test_files_that_fail_are_named(sites: Sites) -> None:
    source, target = sites.here.directory(), sites.there.directory()
    sites.here.file(source / "good", b"g")
    (source / "bad\x1b[2J").write_bytes(b"secret")
    (source / "bad\x1b[2J").chmod(0o600)
    reference = sites.submit("-r", "--retries", "0", f"here:{source}/", f"there:{target}/in/")
    ended = sites.run("wait", reference, code=10)
    assert "bad" in ended.err
    assert "\x1b" not in ended.err
    assert (target / "in" / "good").read_bytes() == b"g"
    records = sites.run("show", "--json", reference).records
    assert [record["type"] for record in records] == ["transfer", "error"]
    shown = sites.run("show", reference).out.decode()
    assert "Failed:" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["submit", "here:/a"], 2, "only one place"),
        (["submit", "local", "there:/b"], 2, "a file here; `uftp cp`"),
        (["submit", "ftp://h/x", "there:/b"], 2, "an FTP server"),
        (["submit", "http://h/x", "there:/b"], 2, "not protected"),
        (["submit", "https://h/x", "https://h/rest/access/N/abc"], 2, "cannot copy to a share"),
        (["submit", "https://h/x", "https://h/y"], 2, "not the URL of an auth server"),
        (["submit", "--limit-rate", "0", "there:/a", "there:/b"], 2, "nothing would ever move"),
        (["submit", "--login-lifetime", "soon", "here:/a", "there:/b"], 2, "not a lifetime"),
        (
            ["submit", "--source-user", "x:y", "--target-user", "z:y", "there:/a", "there:/b"],
            2,
            "one login is for both",
        ),
        (["submit", "--source-user", "x:y", "https://x.example/a", "there:/b"], 2, "no place one logs in at"),
        (["submit", "--target-user", "x:y", "here:/a", "there:/b"], 3, "wrong or missing credentials"),
        (["submit", "--source-user", "x:y", "here:/a", "there:/b"], 3, "wrong or missing credentials"),
        (["submit", "here:/a", "there:/b", "--callback", "http://x"], 5, "callback: expected an https URL"),
        (["submit", "there:/a", "here:/b", "there:/c"], 5, "do not go together|all on one server"),
        (["list"], 2, "at which auth server"),
        (["list", "-n", "1", "-a", "there"], 2, "exclude each other"),
        (["show", "there:none"], 4, "No such transfer"),
        (["show", "there:../x"], 2, "no id of a transfer"),
        (["show", "https://h/x"], 2, "not the URL of a transfer"),
        (["wait"], 2, "Missing argument"),
        (["wait", "there:none"], 4, "No such transfer"),
        (["cancel", "there:none", "there:none2"], 10, "2 of 2 failed"),
        (["resume", "nowhere:x"], 4, "no such endpoint"),
    ],
)
def test_mistakes_are_one_line(sites: Sites, words: list[str], code: int, says: str) -> None:
    done = sites.run(*words, code=code)
    assert done.out == b""
    assert any(part in done.err for part in says.split("|")), done.err
    assert len(done.error_lines) == (3 if "2 of 2" in says else 1)
    assert all(line.startswith("uftp: ") for line in done.error_lines)


def test_a_token_that_gives_no_other_is_used_itself(sites: Sites, tmp_path: Path) -> None:
    site = sites.here
    env = {"UFTP_PASSWORD": site.password(site.first)}
    token = uftp_inside("issue-token", "-L", "--ca", site.ca, "-u", site.first, site.auth, env=env).lines[0]
    (tmp_path / "token").write_text(token)
    source, target = site.file(site.directory() / "f", b"by token"), sites.there.directory()
    words = ["-v", "-w", "--source-token", f"@{tmp_path / 'token'}", f"here:{source}", f"there:{target}/"]
    done = sites.run("submit", *words)
    assert "gets a token for the source" in done.err
    assert token not in done.err + done.out.decode()
    assert (target / "f").read_bytes() == b"by token"
