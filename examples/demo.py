"""The main job, shown with real commands and their real output: servers, upload, parallel download, verification, a
tree and its sync, copies from one server to another, a link for others.

Everything happens on this machine, over loopback, in a temporary directory that is removed at the end.
"""

from __future__ import annotations

import ftplib
import hashlib
import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

BIN = Path(sys.executable).parent
SIZE = 256 * 1024 * 1024  # bytes of the large file
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def title(text: str) -> None:
    """Say what comes next."""
    print(f"\n{BOLD}# {text}{PLAIN}", flush=True)


def uftp(*arguments: str, shown: dict[str, str]) -> str:
    """Run a uftp command as a person would, show it and what it prints, and return that.

    Args:
        arguments: as on the command line.
        shown: long texts and the short names to show for them.
    """
    line = "uftp " + " ".join(shlex.quote(argument) for argument in arguments)
    for text, name in shown.items():
        line = line.replace(text, name)
    print(f"$ {line}", flush=True)
    command = [BIN / "uftp", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def sha256(path: Path) -> str:
    """Digest of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(link: str, ca: str) -> str:
    """Get what a link leads to over HTTPS, and return its digest; an answer that is cut short is an error."""
    with urllib.request.urlopen(link, context=ssl.create_default_context(cafile=ca), timeout=60) as reply:
        announced, digest, received = int(reply.headers["Content-Length"]), hashlib.sha256(), 0
        while block := reply.read(2**20):
            digest.update(block)
            received += len(block)
    if received != announced:
        raise SystemExit(f"{received} of {announced} bytes came")
    return digest.hexdigest()


def start(work: Path, account: str) -> tuple[subprocess.Popen[str], dict[str, object]]:
    """Start an auth server and two data nodes; returns when they serve."""
    password = work / "password"
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(16) + "\n")
    command = [BIN / "uftpd", "standalone", "--ready-json", "--state", work / "state", "--user", f"demo:@{password}"]
    command += ["--auth-port", "0", "--ftp-port", "0", "--command-port", "0", "--map", f"demo:{account}"]
    command += ["--node", "TEST", "--node", "ARCHIVE"]
    print("$ uftpd standalone --ready-json --user demo:@password --node TEST --node ARCHIVE ...", flush=True)
    servers = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert servers.stdout is not None
    line = servers.stdout.readline()
    if not line:
        raise SystemExit(servers.wait())
    print(line, end="", flush=True)
    return servers, json.loads(line)


def show(work: Path, ready: dict[str, object], data: Path) -> None:
    """The tour."""
    base = f"{ready['auth']}/TEST:{data}"
    shown = {str(ready["auth"]): "$AUTH", str(data): "$DATA", str(work): "$WORK", str(ready["ca"]): "$CA"}
    os.environ["UFTP_USER"] = "demo"
    os.environ["UFTP_PASSWORD"] = (work / "password").read_text().strip()
    ca = ("--ca", str(ready["ca"]))

    title("Who am I there, and is the data node alive?")
    uftp("info", *ca, str(ready["auth"]), shown=shown)

    title(f"Upload {SIZE // 2**20} MiB; the file has its name when it is whole, not before")
    big = work / "sample.dat"
    with big.open("wb") as file:
        for _ in range(SIZE // 2**20):
            file.write(os.urandom(2**20))
    uftp("cp", *ca, "-D", str(big), f"{base}/", shown=shown)
    uftp("ls", *ca, f"{base}/", shown=shown)

    title("Download it in ranges over four sessions at once")
    copy = work / "copy.dat"
    uftp("cp", *ca, "-D", "-t", "4", "-T", "32m", f"{base}/sample.dat", str(copy), shown=shown)

    title("Verify: the server's SHA-256, and that of both files here")
    remote = uftp("checksum", *ca, "-a", "SHA-256", f"{base}/sample.dat", shown=shown).split()[0]
    digests = {"on the server": remote, "sent": sha256(big), "received": sha256(copy)}
    for name, digest in digests.items():
        print(f"{digest}  {name}")
    if len(set(digests.values())) != 1:
        raise SystemExit("the files differ")
    print("all three are the same")

    title("A directory tree, with an empty directory in it")
    tree = work / "tree"
    (tree / "empty").mkdir(parents=True)
    for number in range(5):
        (tree / f"part-{number:02}.txt").write_text(f"{number}\n")
    uftp("cp", *ca, "-p", "-r", str(tree), f"{base}/", shown=shown)
    names = uftp("find", *ca, f"{base}/tree", shown=shown)
    if names.count("part-") != 5 or "empty" not in names:
        raise SystemExit("the tree is not whole")

    title("Make it equal again after changes: what is new goes up, what is gone is removed")
    (tree / "part-00.txt").unlink()
    (tree / "part-05.txt").write_text("5\n")
    done = uftp("sync", *ca, "--delete", str(tree), f"{base}/tree", shown=shown)
    if "1 file, 4 unchanged, 1 deleted" not in done:
        raise SystemExit("that is not what has changed")
    names = uftp("find", *ca, f"{base}/tree", shown=shown)
    if names.count("part-") != 5 or "part-00" in names:
        raise SystemExit("the trees differ")

    show_server_copies(f"{ready['auth']}", data, ca, shown, digests["sent"])

    title("Share the large file: whoever has the link fetches it over HTTP, with nothing of ours installed")
    link = uftp("share", *ca, "-L", "1h", f"{base}/sample.dat", shown=shown).strip()
    fetched = fetch(link, str(ready["ca"]))
    print(f"{fetched}  fetched by Python's urllib")
    if fetched != digests["sent"]:
        raise SystemExit("the files differ")
    uftp("share", *ca, "-d", f"{base}/sample.dat", shown=shown)
    try:
        fetch(link, str(ready["ca"]))
    except urllib.error.HTTPError as error:
        print(f"once it is withdrawn the link is answered {error.code}")
    else:
        raise SystemExit("the link is still good")

    title("A one-time password opens the same file for any FTP client")
    answer = json.loads(uftp_json("auth", *ca, f"{base}/"))
    print("$ uftp auth ...      # host, port and one-time password, here given to Python's ftplib", flush=True)
    with ftplib.FTP() as ftp:
        ftp.connect(answer["host"], answer["port"], timeout=10)
        print(ftp.getwelcome())
        print(ftp.login("anonymous", answer["password"]))
        print("SIZE", ftp.size("sample.dat"))
        print(ftp.quit())


def show_server_copies(auth: str, data: Path, ca: tuple[str, str], shown: dict[str, str], digest: str) -> None:
    """Copies from one data node to the other, awaited and not."""
    source, archive = f"{auth}/TEST:{data}", f"{auth}/ARCHIVE:{data}/archive"
    title("Copy it to another server: the bytes go straight from one node to the other, and are verified on arrival")
    uftp("mkdir", *ca, archive, shown=shown)
    uftp("rcp", *ca, "-v", f"{source}/sample.dat", f"{archive}/", shown=shown)
    there = uftp("checksum", *ca, "-a", "SHA-256", f"{archive}/sample.dat", shown=shown).split()[0]
    if there != digest:
        raise SystemExit("the files differ")
    print("the same as was sent")

    title("Leave a copy to the auth server: it is queued, run, and tried again while you are away")
    transfer = uftp("transfer", "submit", *ca, "-r", f"{source}/tree", f"{archive}/", shown=shown).split()[-1]
    uftp("transfer", "wait", *ca, transfer, shown=shown)
    uftp("transfer", "show", *ca, transfer, shown=shown)
    names = uftp("find", *ca, f"{archive}/tree", shown=shown)
    if names.count("part-") != 5 or "empty" not in names:
        raise SystemExit("the tree is not whole")


def uftp_json(*arguments: str) -> str:
    """Run a uftp command that prints a secret: its output is not shown."""
    command = [BIN / "uftp", *arguments, "--json"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    """Run the tour as the current user; as root the data belong to, and sessions run as, `daemon`.

    Every Linux has that account. `nobody` may share nothing: it is what people are that a server does not know.
    """
    account = pwd.getpwuid(os.getuid() or pwd.getpwnam("daemon").pw_uid)
    work = Path(tempfile.mkdtemp(prefix="uftp-demo-"))
    data = work / "data"
    servers = None
    try:
        work.chmod(0o711)
        data.mkdir(mode=0o700)
        os.chown(data, account.pw_uid, account.pw_gid)
        title("Start an auth server and two data nodes, with nothing to set up")
        servers, ready = start(work, account.pw_name)
        show(work, ready, data)
        title("Stop: one Ctrl-C ends the whole tree")
    finally:
        if servers is not None:
            servers.send_signal(signal.SIGINT)
            print(f"the servers ended with exit code {servers.wait(timeout=60)}")
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
