"""A site of its own for these tests: shares are fetched from it by real programs."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_node import Person, made_accounts
from delivering import Delivering
from uftp_site import Site, running_site


@pytest.fixture(scope="session")
def sharing_site() -> Iterator[Site]:
    """An auth server and a data node, as root for all users if possible."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if os.geteuid() != 0:
        own = Person.find(pwd.getpwuid(os.geteuid()).pw_name)
        with running_site((own, own), as_root=False) as site:
            yield site
        return
    with made_accounts("sd") as people, running_site(people, as_root=True) as site:
        yield site


@pytest.fixture
def delivering(sharing_site: Site, tmp_path: Path) -> Delivering:
    """Shares files of that site."""
    return Delivering(sharing_site, tmp_path)
