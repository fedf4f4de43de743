"""READMEs as HTML.

What stands in a README is from a stranger. Markdown is read with HTML off and without images; links lead to the web or
to files of the same share, tell nobody where they came from, and are marked as nobody's recommendation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup, escape

from uftpd.auth.pages.text import is_plain, visible
from uftpd.auth.pages.views import Readme

MARKDOWN_BYTES = 64 * 1024
"""Reading Markdown takes time that is another request's; what is longer is shown as it is."""

_MARKDOWN = (".md", ".markdown")
_SCHEMES = frozenset({"http", "https", "mailto"})
_TEXT_CONTROLS = str.maketrans(dict.fromkeys((*range(9), 11, *range(14, 32), 127)))
_OUTER_RELATIONS = "nofollow noopener noreferrer ugc"
_CACHED = 32  # READMEs, of at most MARKDOWN_BYTES each


def readme_markup(readme: Readme, directory: str) -> Markup:
    """The README of a directory.

    Args:
        readme: as it was read.
        directory: address of the directory, with a `/` at its end, which links are relative to.
    """
    text = readme.content.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n")
    if readme.name.casefold().endswith(_MARKDOWN) and readme.whole and len(readme.content) <= MARKDOWN_BYTES:
        return _rendered(text, directory)
    # Line feeds, tabs and form feeds stay; of other control characters there is nothing to see.
    return Markup('<pre class="plain" dir="auto">{}</pre>').format(text.translate(_TEXT_CONTROLS))


@lru_cache(maxsize=_CACHED)
def _rendered(text: str, directory: str) -> Markup:
    return Markup(_READER.render(text, {"directory": directory}))  # noqa: S704 - HTML is off, and the reader escapes


def _reader() -> MarkdownIt:
    # `maxNesting` bounds the recursion and, with the size, the time that hostile texts take.
    reader = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}, renderer_cls=_Renderer)
    reader.enable(["table", "strikethrough"])
    # Addresses are looked at when links are written, all of them in one place.
    reader.validateLink = lambda url: True  # type: ignore[method-assign]
    return reader


class _Renderer(RendererHTML):
    """Writes images as links, headings below those of the page, and only links that lead to allowed places."""

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """An image of a stranger's site would tell that site who looks: a link in its place."""
        token = tokens[idx]
        label = self.renderInlineAsText(token.children or [], options, env)
        target = _link(str(token.attrs.get("src", "")), str(env["directory"]))
        text = escape(visible(label) or "image")
        if env.get("in_link") or target is None:
            return str(Markup('<span class="image">{}</span>').format(text))
        return str(Markup('<a class="image" href="{}" rel="{}">{}</a>').format(target, _OUTER_RELATIONS, text))

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A link, or an `<a>` without address if it leads nowhere we would send people."""
        env["in_link"] = True
        target = _link(str(tokens[idx].attrs.get("href", "")), str(env["directory"]))
        if target is None:
            return "<a>"
        return str(Markup('<a href="{}" rel="{}">').format(target, _OUTER_RELATIONS))

    def link_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Ends a link."""
        env["in_link"] = False
        return "</a>"

    def heading_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """The page has its own headings of the first two levels."""
        return f"<h{_level(tokens[idx])}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Ends a heading."""
        return f"</h{_level(tokens[idx])}>\n"

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """A table scrolls by itself where it is wider than the page."""
        return '<div class="wide" tabindex="0"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Ends a table."""
        return "</table></div>\n"

    def _aligned(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        # The reader asks for alignment by a style, which the policy of the page forbids.
        style = str(tokens[idx].attrs.get("style", ""))
        name = style.removeprefix("text-align:")
        kind = f' class="{name}"' if name in ("left", "center", "right") else ""
        return f"<{tokens[idx].tag}{kind}>"

    th_open = td_open = _aligned

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Indented code."""
        return _code(tokens[idx].content)

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """Fenced code; its language is not looked at."""
        return _code(tokens[idx].content)


def _code(content: str) -> str:
    return str(Markup('<pre tabindex="0"><code>{}</code></pre>\n').format(content))


def _level(token: Token) -> int:
    return min(int(token.tag[1:]) + 2, 6)


def _link(url: str, directory: str) -> str | None:
    """Where a link leads: to the web, or into the directory of the README; None for all else."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme or parts.netloc:
        return url if parts.scheme in _SCHEMES and (parts.netloc or parts.scheme == "mailto") else None
    # A share is not to send people to other pages of this server, where they may be somebody.
    path = parts.path
    plain = unquote(path)
    if not plain or plain.startswith("/") or "\\" in plain or ".." in plain.split("/") or not is_plain(plain):
        return None
    return directory + path


# At once, as templates are. The text has what would be looked up late otherwise.
_READER = _reader()
_READER.render("# &amp; [a](b) ![c](<d>) `e` <https://example.org/ü>\n\n|a|\n|-|\n", {"directory": "/"})
