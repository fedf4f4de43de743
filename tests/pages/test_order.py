"""The order of a directory's entries, and who is shown a page at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams
from starlette.requests import Request

from uftpd.auth.pages.negotiation import prefers_page
from uftpd.auth.pages.order import Order, natural
from uftpd.auth.pages.views import Entry, Kind


def file(name: str, size: int | None = 0, modified: float | None = 0) -> Entry:
    return Entry(name=name, kind=Kind.FILE, href="/x", size=size, modified=modified)


FILES = [file("b10", 5, 30), file("B2", 70, None), file("a", None, 20), file("c", 5, 10)]
FOLDER = Entry(name="z", kind=Kind.DIRECTORY, href="/z/", modified=1)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["z", "a", "B2", "b10", "c"]),
        ("sort=name&order=desc", ["z", "c", "b10", "B2", "a"]),
        ("sort=size", ["z", "a", "b10", "c", "B2"]),
        ("sort=size&order=desc", ["z", "B2", "b10", "c", "a"]),
        ("sort=modified", ["z", "B2", "c", "a", "b10"]),
        ("sort=modified&order=desc", ["z", "b10", "a", "c", "B2"]),
        ("sort=__class__&order=x&page=-1", ["z", "a", "B2", "b10", "c"]),
    ],
)
def test_entries_are_sorted_as_the_query_asks(query: str, names: list[str]) -> None:
    assert [entry.name for entry in Order.of(QueryParams(query)).sorted([*FILES, FOLDER])] == names


def test_the_heads_of_columns_turn_the_order_round() -> None:
    assert Order().by("name") == Order(descending=True)
    assert Order().by("size") == Order("size", descending=True)
    assert Order("size", descending=True, page=3).by("size") == Order("size")
    assert Order("size").by("name") == Order()


@given(st.sampled_from(["name", "size", "modified"]), st.booleans(), st.integers(1, 1_000_000))
def test_the_query_of_an_order_asks_for_it(key: str, descending: bool, page: int) -> None:
    order = Order(key, descending, page)
    assert Order.of(QueryParams(order.query().removeprefix("?"))) == order


@given(st.dictionaries(st.sampled_from(["sort", "order", "page"]), st.text(max_size=20)))
def test_any_query_is_an_order(query: dict[str, str]) -> None:
    order = Order.of(query)
    assert order.key in ("name", "size", "modified")
    assert order.page >= 1


@given(st.lists(st.text(max_size=12) | st.text("0123456789aA٣²", max_size=30)))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    assert sorted(sorted(names, key=natural)) == sorted(names)


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (None, False),
        ("*/*", False),
        ("application/json", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/html;q=0.5, application/json;q=0.9", False),
        ("text/html;q=0", False),
        ("TEXT/HTML; charset=utf-8; q=0.3", True),
        ("text/*", False),
        (",;,=;q", False),
    ],
)
def test_pages_are_for_those_who_name_html(accept: str | None, page: bool) -> None:
    headers = [(b"accept", accept.encode())] if accept is not None else []
    assert prefers_page(Request({"type": "http", "headers": headers})) is page
