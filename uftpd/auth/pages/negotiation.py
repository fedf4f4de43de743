"""Whether a request comes from somebody who wants to look at a page.

Browsers name `text/html` when a person follows a link; curl, wget, aria2c and the UFTP clients do not.
"""

from __future__ import annotations

import re

from starlette.requests import Request

_WEIGHT = re.compile(r"q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


def prefers_page(request: Request) -> bool:
    """Whether the Accept headers name `text/html`, and nothing of ours that they would rather have."""
    weights: dict[str, float] = {}
    for header in request.headers.getlist("accept"):
        for item in header.split(","):
            kind, *parameters = (part.strip().lower() for part in item.split(";"))
            found = [match for match in map(_WEIGHT.fullmatch, parameters) if match is not None]
            weights[kind] = float(found[0][1]) if found else 1.0
    page = weights.get("text/html", 0.0)
    return page > 0 and page >= weights.get("application/json", 0.0)
