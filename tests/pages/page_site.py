"""People who share something at a site, over its REST interface."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx2
from uftp_site import Site

ANYBODY = "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def base_of(site: Site) -> str:
    """The address of the auth server."""
    return site.auth.removesuffix("/rest/auth")


def client(site: Site, **more: Any) -> httpx2.Client:
    """Speaks with the auth server, and trusts it."""
    context = ssl.create_default_context(cafile=str(site.ready["ca"]))
    return httpx2.Client(base_url=base_of(site), verify=context, timeout=60, **more)


def person(site: Site) -> httpx2.Client:
    """The first person of the site."""
    return client(site, auth=(site.first, site.password(site.first)))


def share(site: Site, path: Path | str, **more: Any) -> str:
    """Share something as the first person; returns its link."""
    with person(site) as owner:
        body = {"path": str(path), "user": ANYBODY, "access": "READ"} | more
        made = owner.post("/rest/share/TEST", json=body)
        assert made.status_code == 201, made.text
        found = owner.get(made.headers["location"]).json()
    return str(found["share"]["http"])
