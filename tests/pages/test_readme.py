"""READMEs of strangers as HTML."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uftpd.auth.pages.readme import MARKDOWN_BYTES, readme_markup
from uftpd.auth.pages.views import Readme

DIRECTORY = "/rest/access/CLUSTER/AbCdEf/sub/"
TAGS = {
    "a", "blockquote", "br", "code", "div", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "span",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {
    ("a", "href"), ("a", "rel"), ("a", "class"), ("span", "class"), ("div", "class"), ("div", "tabindex"),
    ("pre", "tabindex"), ("pre", "class"), ("pre", "dir"), ("td", "class"), ("th", "class"), ("ol", "start"),
}  # fmt: skip


class Found(HTMLParser):
    """What a browser would find in it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.links: list[str] = []
        self.relations: set[str | None] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        values = dict(attrs)
        if "href" in values:
            self.links.append(values["href"] or "")
            self.relations.add(values.get("rel"))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.tags.add("!--")

    def handle_decl(self, decl: str) -> None:
        self.tags.add("!")


def shown(text: str | bytes, name: str = "README.md", *, whole: bool = True) -> Found:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return Found(str(readme_markup(Readme(name, content, whole), DIRECTORY)))


def test_markdown_is_shown_as_what_it_means() -> None:
    found = shown("# Title\n\nSome *text*, **more**, `code`.\n\n- a\n- b\n\n|x|y|\n|:-|-:|\n|1|2|\n\n```\nls\n```\n")
    assert {"h3", "em", "strong", "code", "ul", "li", "table", "pre"} <= found.tags
    assert ("td", "class") in found.attributes
    assert ("td", "style") not in found.attributes


@pytest.mark.parametrize(
    ("link", "leads_to"),
    [
        ("https://example.org/?a=1&b=2", "https://example.org/?a=1&b=2"),
        ("http://example.org", "http://example.org"),
        ("mailto:a@example.org", "mailto:a@example.org"),
        ("data/x.csv", DIRECTORY + "data/x.csv"),
        ("./x%20y.csv", DIRECTORY + "./x%20y.csv"),
        ("data/x.csv?download=1#part", DIRECTORY + "data/x.csv"),
    ],
)
def test_links_that_lead_somewhere(link: str, leads_to: str) -> None:
    found = shown(f"[text](<{link}>)")
    assert found.links == [leads_to]
    assert found.relations == {"nofollow noopener noreferrer ugc"}


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " javascript:alert(1)",
        "java\tscript:alert(1)",
        "&#106;avascript:alert(1)",
        "vbscript:x",
        "data:text/html,<script>alert(1)</script>",
        "file:///etc/passwd",
        "blob:https://example.org/x",
        "//evil.example/x",
        "https:evil",
        "/ui/shares",
        "/rest/access/CLUSTER/other",
        "../../../../ui/shares",
        "..",
        "%2e%2e/%2e%2e/x",
        "a/../../x",
        "\\\\evil.example\\x",
        "..\\x",
    ],
)
def test_links_that_lead_nowhere(link: str) -> None:
    found = shown(f"[text](<{link}>)\n\n[text]: <{link}>\n\n[text][]\n\n![text](<{link}>)")
    assert found.links == []
    assert "text" in found.text


def test_no_image_is_loaded() -> None:
    found = shown("![a picture](https://spy.example/x.png) [![badge](b.svg)](https://example.org)")
    assert "img" not in found.tags
    assert found.links == ["https://spy.example/x.png", "https://example.org"]
    assert "a picture" in found.text


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "text <b onclick=alert(1)>bold</b>",
        "<!-- comment --> <?php ?> <![CDATA[x]]>",
        "<style>*{display:none}</style>",
        "`<script>`",
        '```"><script>\nx\n```',
        '[x](https://example.org "\\" onclick=alert(1) x=\\"")',
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "<https://example.org/\"onclick='alert(1)'>",
    ],
)
@pytest.mark.parametrize("name", ["README.md", "README", "readme.txt", "README.MARKDOWN"])
def test_html_is_text(text: str, name: str) -> None:
    found = shown(text, name)
    assert found.tags <= TAGS
    assert found.attributes <= ATTRIBUTES


@settings(deadline=None)
@given(
    st.text(st.sampled_from("<>[]()!`*_#-|:\\\"'&;= \n\tabjs/.~?%0x") | st.characters(), max_size=200)
    | st.binary(max_size=100)
)
def test_whatever_is_in_a_readme_only_known_markup_comes_out(text: str | bytes) -> None:
    found = shown(text)
    assert found.tags <= TAGS
    assert found.attributes <= ATTRIBUTES
    for link in found.links:
        assert link.startswith(("http://", "https://", "mailto:", DIRECTORY))


def test_plain_text_stays_as_it_is() -> None:
    found = shown("# no heading\n  <b>\n\x1b[31m\tx\r\ny", "README")
    assert found.text == "# no heading\n  <b>\n[31m\tx\ny"
    assert found.tags == {"pre"}


def test_what_is_no_utf_8_can_be_read() -> None:
    assert shown(b"\xef\xbb\xbfgr\xfc\xdfe", "README.txt").text == "gr\ufffd\ufffde"


@pytest.mark.parametrize(("text", "whole"), [("# x\n" * (MARKDOWN_BYTES // 4 + 1), True), ("# x", False)])
def test_long_markdown_and_a_beginning_of_it_are_shown_as_they_are(text: str, whole: bool) -> None:
    assert shown(text, whole=whole).tags == {"pre"}
