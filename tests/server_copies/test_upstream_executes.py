"""An upstream node runs the copy, and ours is the other side: what it gets, and what it leaves here.

It never waits for the final reply and closes all at once. An upload without an announced length then looks like one
whose client was killed; what it says before tells that it is none. What its layers leave unfinished is dropped.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

import pytest
from raw_ftp import RawFtp, eventually
from two_sites import PATIENCE, TwoSites, ask
from uftp_site import Site
from upstream_errand import Errand
from upstream_layers import Layers
from upstream_node import UpstreamNode, upstream_node

CONTENT = os.urandom(100_001)
KEYS = {"AES": os.urandom(48), "BLOWFISH": os.urandom(56)}


@pytest.fixture
def node(tmp_path: Path) -> Any:
    with upstream_node(tmp_path) as running:
        yield running


def layers_of(name: str) -> tuple[Layers, dict[str, Any]]:
    """Layers, and what asks our auth server for a session with them."""
    if name in KEYS:
        key = base64.b64encode(KEYS[name]).decode()
        return Layers(cipher=name, key=KEYS[name]), {"encryptionKey": key, "encryptionAlgorithm": name}
    return Layers(compress=name == "gzip"), {"compress": name == "gzip"}


def execute(
    node: UpstreamNode, command: str, *before: str, layers: Layers | None = None, streams: int = 1
) -> tuple[Errand, bytes]:
    """Have it do a copy; what came of it, and the reply."""
    with RawFtp((node.host, node.port)) as ftp:
        assert ftp.reply().startswith(b"220 UFTPD 3.5.3,")
        ftp.ok("USER anonymous", 331)
        ftp.ok(f"PASS {node.expect(layers=layers)}", 230)
        if streams > 1:
            ftp.ok(f"NOOP {streams}", 222)
        for line in before:
            ftp.ok(line, 350)
        reply = ftp.ok(command, 299)
        number = reply.rstrip().rpartition(b"=")[2].decode()
        for verb in ("RCP-STATUS", "RCP-ABORT"):
            assert ftp.command(f"{verb} {number}").startswith(b"500 ")
    errand = node.errands[-1]
    errand.wait()
    return errand, reply


def wait_until_it_is_over(site: Site, target: Path) -> None:
    """Until the site has logged what came of a transfer: what it has left is final."""
    line = re.compile(rf" verb=STOR path={re.escape(str(target))} .* result=")
    eventually(lambda: line.search(site.log()), PATIENCE, f"the end of the transfer to {target}")


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("layer", ["plain", "gzip", "AES", "BLOWFISH"])
def test_it_receives_from_us(sites: TwoSites, node: UpstreamNode, layer: str, streams: int) -> None:
    if streams > 1 and layer in KEYS:
        pytest.skip("upstream itself cannot read several encrypted streams (DATA-PLANE 7.1)")
    layers, members = layers_of(layer)
    directory = sites.first.directory()
    sites.first.file(directory / "theirs", CONTENT)
    grant = ask(sites.first, directory, streamCount=streams, **members)
    errand, _ = execute(
        node, f"RECEIVE-FILE 'got' 'theirs' '{grant.address}' '{grant.secret}'", layers=layers, streams=streams
    )
    assert errand.failure == "", errand.said
    assert (node.root / "got").read_bytes() == CONTENT


def test_it_receives_a_range_and_asks_for_one_byte_less(sites: TwoSites, node: UpstreamNode) -> None:
    directory = sites.first.directory()
    sites.first.file(directory / "theirs", CONTENT)
    grant = ask(sites.first, directory)
    errand, _ = execute(node, f"RECEIVE-FILE 'got' 'theirs' '{grant.address}' '{grant.secret}'", "RANG 1000 3000")
    assert ("RANG 1000 2999", "350 Restarting at 1000. End byte range at 2999") in errand.said
    assert errand.failure == "", errand.said
    assert (node.root / "got").read_bytes() == bytes(1000) + CONTENT[1000:2999]


@pytest.mark.parametrize("streams", [1, 2])
def test_it_sends_a_range(sites: TwoSites, node: UpstreamNode, streams: int) -> None:
    directory = sites.first.directory()
    target = sites.first.file(directory / "target", bytes(5000))
    (node.root / "ours").write_bytes(CONTENT)
    grant = ask(sites.first, directory, streamCount=streams)
    errand, _ = execute(
        node,
        f"SEND-FILE 'ours' 'target' '{grant.address}' '{grant.secret}'",
        "RANG 1000 3000",
        streams=streams,
    )
    assert errand.failure == "", errand.said
    # The byte at 2999 is the one it did not ask for. It sends it; it must not be taken.
    wait_until_it_is_over(sites.first, target)
    assert target.read_bytes() == bytes(1000) + CONTENT[1000:2999] + bytes(5000 - 2999)


def test_a_range_of_one_number_is_refused_and_the_file_stays(sites: TwoSites, node: UpstreamNode) -> None:
    directory = sites.first.directory()
    target = sites.first.file(directory / "target", b"as it was")
    (node.root / "ours").write_bytes(CONTENT)
    grant = ask(sites.first, directory)
    with RawFtp((node.host, node.port)) as ftp:
        ftp.reply()
        ftp.ok("USER anonymous", 331)
        ftp.ok(f"PASS {node.expect()}", 230)
        ftp.ok("REST 1000", 350)
        ftp.ok(f"SEND-FILE ours target {grant.address} {grant.secret}", 299)
    node.errands[-1].wait()
    assert node.errands[-1].failure.startswith("501 ")
    assert target.read_bytes() == b"as it was"


@pytest.mark.parametrize("layer", ["plain", "gzip", "AES", "BLOWFISH"])
def test_it_sends_a_whole_file(sites: TwoSites, node: UpstreamNode, layer: str) -> None:
    layers, members = layers_of(layer)
    directory = sites.first.directory()
    (node.root / "ours").write_bytes(CONTENT)
    grant = ask(sites.first, directory, **members)
    errand, _ = execute(node, f"SEND-FILE 'ours' 'target' '{grant.address}' '{grant.secret}'", layers=layers)
    assert errand.said[-1] == ("STOR target", "150 OK")
    wait_until_it_is_over(sites.first, directory / "target")
    left = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert left == ({"target": CONTENT} if layer == "plain" else {})  # it never finishes the others
