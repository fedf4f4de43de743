"""How pages are looked at: names that try everything, and what every page has to hold to."""

from __future__ import annotations

from chromium import Browser

ATTACK = "document.title='pwned';window.pwned=1"
HOSTILE = [
    f"<script>{ATTACK}</script>",
    f"<img src=x onerror={ATTACK}>",
    f'" onmouseover="{ATTACK}" x="',
    f"'><svg onload={ATTACK}>",
    f"javascript:{ATTACK}",
    "</title></style></script><script>window.pwned=1",
    "{{7*7}}{% raw %}",
    "evil\u202egpj.exe",
    "\u2066isolated\u2069",
    "two\nlines\r\tand tab",
    "\x1b]0;title\x07",
    b"latin-\xfc".decode("utf-8", "surrogateescape"),
    "&lt;&amp;&quot;",
    "  spaces   inside  ",
    "w" * 255,
    "שלום.txt",
    "#fragment?query%2F",
    "CON",
]

CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => {
  const f = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
};
const ground = (element) => {
  for (; element; element = element.parentElement) {
    const color = parse(getComputedStyle(element).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return [255, 255, 255];
};
const bad = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest('[aria-hidden]') || !element.checkVisibility()) continue;
  const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${element.className} ${walker.currentNode.data.trim()}`);
}
return bad;
"""
"""Texts that can hardly be read: less contrast than WCAG asks for."""

NAMES = """
const named = (e) => (e.getAttribute('aria-label') || e.textContent || '').trim() || e.labels?.length;
return [...document.querySelectorAll('a, button, input:not([type=hidden]), select, summary, th')]
  .filter((e) => e.checkVisibility() && !named(e)).map((e) => e.outerHTML);
"""
"""What can be used, and has no name for those who do not see."""


def fits(browser: Browser) -> bool:
    """Whether nothing is wider than the screen."""
    return bool(browser.run("return document.documentElement.scrollWidth <= innerWidth"))
